//! What one record of a shard's log says: batches of rows, deletes and tablets (query and storage
//! §2.2; the bytes are drawn in docs/formats/rows-payload.md).
//!
//! A request encodes and compresses its own batch on its own thread with [`encode_batch`]; the
//! shard's one appending task only [`join`]s what waits. Each payload explains itself: no series
//! number and no dictionary outlives it, because a record that was refused or lost must not make a
//! later one unreadable.
//!
//! Rooms: `wire` (primitive fields and the bound on memory), `narrow` (integers as base and small
//! deltas), `rows` (one table's rows), `filter` (the predicate of a delete).
//!
//! Never here: frames, checksums, offsets, terms. Those belong to the record around the payload.

use auxo_proto::ids::{BatchId, SchemaNumber, TableId, TabletId, TenantId};
use auxo_proto::rows::Rows;
use auxo_proto::schema::TabletSpec;
use auxo_sst::predicate::{TagFilter, TimeRange};
use bytes::Bytes;

use wire::{Reader, Writer};

mod filter;
mod narrow;
mod rows;
mod wire;

#[cfg(test)]
mod tests;

/// Version of the layout that this code writes, and the highest that it reads.
pub const VERSION: u8 = 1;

/// Most bytes that one batch may take when decoded; [`encode_batch`] refuses a larger one.
pub const BATCH_MEMORY_MAX: usize = 256 << 20;

/// Most bytes that one payload may take when decoded; [`join`] never makes a larger one.
pub const PAYLOAD_MEMORY_MAX: usize = 512 << 20;

/// Deepest tree of tag filters in a delete.
pub const FILTER_DEPTH_MAX: usize = 64;

/// Everything one record says, in the order in which it is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload {
    /// What the joined requests brought.
    pub batches: Vec<Batch>,
}

/// What one request brought to the shard: applied whole, and once if it has an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Whose request it was.
    pub tenant: TenantId,
    /// Name that the client gave it.
    pub id: Option<BatchId>,
    /// XXH3-64 of the client's whole body: the same id with another hash is a conflict. 0 without
    /// an id.
    pub hash: u64,
    /// What to apply, in this order.
    pub entries: Vec<Entry>,
}

/// One change of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Rows for a tablet.
    Rows {
        /// The table.
        table: TableId,
        /// The table's part in this shard.
        tablet: TabletId,
        /// Schema by which the columns were resolved.
        schema: SchemaNumber,
        /// The rows.
        rows: Rows,
    },
    /// Rows of a tablet that are to vanish: those older in sequence than this entry's record.
    Delete {
        /// The table's part in this shard.
        tablet: TabletId,
        /// Which series.
        filter: TagFilter,
        /// Which times.
        time: TimeRange,
    },
    /// Tablets that the shard has from here on, or newer schemas of those it has.
    CreateTablets(Vec<TabletSpec>),
    /// Tablets that the shard no longer has.
    DropTablets(Vec<TabletId>),
}

/// A batch cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Decoding it would take too much memory: the client must send smaller pieces.
    #[error("batch takes {memory} bytes in memory, the most is {BATCH_MEMORY_MAX}")]
    TooLarge {
        /// What decoding it would take.
        memory: usize,
    },
    /// The predicate of a delete is nested too deeply.
    #[error("predicate is nested more than {FILTER_DEPTH_MAX} deep")]
    TooDeep,
    /// The caller broke the shape of what it handed over: a bug, and nothing was written.
    #[error("batch is malformed: {0}")]
    Malformed(String),
}

/// Bytes are no payload that this code reads. None of the variants goes away by trying again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Written by a newer release: the shard parks until this node is upgraded.
    #[error("payload has {what} {number}, which this release does not know")]
    Unknown {
        /// What is not known: a version, a codec, an entry kind, …
        what: &'static str,
        /// Its number.
        number: u8,
    },
    /// Decoding would take more memory than any payload of ours does.
    #[error("payload takes more than {PAYLOAD_MEMORY_MAX} bytes in memory")]
    TooLarge,
    /// The bytes break the layout.
    #[error("payload is malformed: {0}")]
    Malformed(&'static str),
}

/// A batch as it will stand in the log, compressed if that is smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBatch {
    bytes: Bytes,
    memory: usize,
}

impl EncodedBatch {
    /// Bytes that the batch adds to a payload.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that the batch takes when it is decoded, at most [`BATCH_MEMORY_MAX`].
    pub fn memory_bytes(&self) -> usize {
        self.memory
    }
}

const NO_CODEC: u8 = 0;
const LZ4: u8 = 1;

const ROWS: u8 = 1;
const DELETE: u8 = 2;
const CREATE_TABLETS: u8 = 3;
const DROP_TABLETS: u8 = 4;

/// `version u8, number of batches u32`: what a payload takes beside its batches.
pub const HEADER_BYTES: usize = 5;

/// `codec u8, raw length u32, stored length u32`.
const BATCH_HEADER_BYTES: usize = 9;

/// Bodies below this are stored as they are.
const COMPRESS_FROM_BYTES: usize = 512;

/// What a decoded [`Batch`] and [`Entry`] count for beside their contents.
const BATCH_MEMORY: usize = 128;
const ENTRY_MEMORY: usize = 256;

/// Encodes and compresses one batch.
///
/// * shape: every [`Rows`] keeps the rules that [`Rows::check`] states.
/// * errors: [`EncodeError`]; nothing was written, and the same batch will fail again.
pub fn encode_batch(batch: &Batch) -> Result<EncodedBatch, EncodeError> {
    let mut body = Writer::default();
    body.charge(BATCH_MEMORY, 1);
    body.u64(batch.tenant.0);
    body.u8(batch.id.is_some().into());
    if let Some(id) = batch.id {
        body.u128(id.0);
    }
    body.u64(batch.hash);
    body.u32(batch.entries.len() as u32);
    for entry in &batch.entries {
        body.charge(ENTRY_MEMORY, 1);
        write_entry(&mut body, entry)?;
    }
    body.charge(body.bytes.len(), 1);
    if body.memory > BATCH_MEMORY_MAX {
        return Err(EncodeError::TooLarge {
            memory: body.memory,
        });
    }
    Ok(EncodedBatch {
        bytes: stored(&body.bytes),
        memory: body.memory,
    })
}

fn write_entry(out: &mut Writer, entry: &Entry) -> Result<(), EncodeError> {
    match entry {
        Entry::Rows {
            table,
            tablet,
            schema,
            rows,
        } => {
            out.u8(ROWS);
            out.u64(table.0);
            out.u64(tablet.0);
            out.u32(schema.0);
            rows::write(out, rows)
        }
        Entry::Delete {
            tablet,
            filter,
            time,
        } => {
            out.u8(DELETE);
            out.u64(tablet.0);
            out.u64(time.start as u64);
            out.u128(time.end as u128);
            filter::write(out, filter, 0)
        }
        Entry::CreateTablets(tablets) => {
            out.u8(CREATE_TABLETS);
            let json = serde_json::to_vec(tablets)
                .map_err(|error| EncodeError::Malformed(error.to_string()))?;
            out.charge(json.len(), wire::JSON_MEMORY_FACTOR);
            out.slice(&json);
            Ok(())
        }
        Entry::DropTablets(tablets) => {
            out.u8(DROP_TABLETS);
            out.charge(tablets.len(), 8);
            out.u32(tablets.len() as u32);
            tablets.iter().for_each(|tablet| out.u64(tablet.0));
            Ok(())
        }
    }
}

/// The body behind its header, compressed where that saves at least a sixteenth.
fn stored(body: &[u8]) -> Bytes {
    let header = |codec: u8, stored: usize| {
        let mut header = [codec; BATCH_HEADER_BYTES];
        header[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[5..].copy_from_slice(&(stored as u32).to_le_bytes());
        header
    };
    if body.len() >= COMPRESS_FROM_BYTES {
        let most = lz4_flex::block::get_maximum_output_size(body.len());
        let mut bytes = vec![0; BATCH_HEADER_BYTES + most];
        let packed = lz4_flex::block::compress_into(body, &mut bytes[BATCH_HEADER_BYTES..]);
        if let Ok(packed) = packed
            && packed <= body.len() - body.len() / 16
        {
            bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header(LZ4, packed));
            return Bytes::copy_from_slice(&bytes[..BATCH_HEADER_BYTES + packed]);
        }
    }
    let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + body.len());
    bytes.extend_from_slice(&header(NO_CODEC, body.len()));
    bytes.extend_from_slice(body);
    bytes.into()
}

/// Makes one payload of the first batches, as many as fit.
///
/// * `bytes_max`: most bytes of the payload, unless its one batch alone is larger.
/// * returns: the payload, and how many batches are in it: all that fit `bytes_max` and
///   [`PAYLOAD_MEMORY_MAX`], at least one if there is any.
/// * effects: copies bytes, nothing else.
pub fn join<'a>(
    batches: impl IntoIterator<Item = &'a EncodedBatch>,
    bytes_max: usize,
) -> (Bytes, usize) {
    let mut payload = vec![VERSION, 0, 0, 0, 0];
    debug_assert_eq!(payload.len(), HEADER_BYTES);
    let (mut taken, mut memory) = (0_u32, 0);
    for batch in batches {
        memory += batch.memory;
        let bytes = payload.len() + batch.bytes.len();
        if taken > 0 && (bytes > bytes_max || memory > PAYLOAD_MEMORY_MAX) {
            break;
        }
        payload.extend_from_slice(&batch.bytes);
        taken += 1;
    }
    payload[1..5].copy_from_slice(&taken.to_le_bytes());
    (payload.into(), taken as usize)
}

/// Reads a payload back.
///
/// * returns: exactly what was encoded. Rows keep the rules of [`Rows::check`]; whether their
///   columns exist and their strings are UTF-8 is not looked at.
/// * errors: [`PayloadError`] for any other bytes; it never panics and never takes more than
///   [`PAYLOAD_MEMORY_MAX`] and the size of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Payload, PayloadError> {
    let mut memory = PAYLOAD_MEMORY_MAX;
    decode_within(bytes, &mut memory)
}

fn decode_within(bytes: &[u8], memory: &mut usize) -> Result<Payload, PayloadError> {
    let mut payload = Reader::new(bytes, memory);
    match payload.u8()? {
        VERSION => {}
        number => {
            return Err(PayloadError::Unknown {
                what: "version",
                number,
            });
        }
    }
    let count = payload.u32()?;
    let mut batches = Vec::new();
    for _ in 0..count {
        batches.push(read_batch(&mut payload)?);
    }
    payload.end()?;
    Ok(Payload { batches })
}

fn read_batch(payload: &mut Reader<'_, '_>) -> Result<Batch, PayloadError> {
    let codec = payload.u8()?;
    let raw_len = payload.u32()? as usize;
    let stored_len = payload.u32()? as usize;
    let stored = payload.take(stored_len)?;
    payload.charge(raw_len, 1)?;
    let unpacked;
    let body = match codec {
        NO_CODEC if raw_len == stored_len => stored,
        NO_CODEC => return Err(PayloadError::Malformed("batch has two lengths")),
        LZ4 => {
            let mut raw = vec![0; raw_len];
            match lz4_flex::block::decompress_into(stored, &mut raw) {
                Ok(len) if len == raw_len => {}
                _ => return Err(PayloadError::Malformed("batch does not decompress")),
            }
            unpacked = raw;
            &unpacked
        }
        number => {
            return Err(PayloadError::Unknown {
                what: "codec",
                number,
            });
        }
    };
    let mut body = payload.inner(body);
    body.charge(BATCH_MEMORY, 1)?;
    let tenant = TenantId(body.u64()?);
    let id = match body.u8()? {
        0 => None,
        1 => Some(BatchId(body.u128()?)),
        _ => return Err(PayloadError::Malformed("batch id is neither there nor not")),
    };
    let hash = body.u64()?;
    let count = body.u32()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        body.charge(ENTRY_MEMORY, 1)?;
        entries.push(read_entry(&mut body)?);
    }
    body.end()?;
    Ok(Batch {
        tenant,
        id,
        hash,
        entries,
    })
}

fn read_entry(body: &mut Reader<'_, '_>) -> Result<Entry, PayloadError> {
    match body.u8()? {
        ROWS => Ok(Entry::Rows {
            table: TableId(body.u64()?),
            tablet: TabletId(body.u64()?),
            schema: SchemaNumber(body.u32()?),
            rows: rows::read(body)?,
        }),
        DELETE => Ok(Entry::Delete {
            tablet: TabletId(body.u64()?),
            time: TimeRange {
                start: body.u64()? as i64,
                end: body.u128()? as i128,
            },
            filter: filter::read(body, 0)?,
        }),
        CREATE_TABLETS => {
            let json = body.slice()?;
            body.charge(json.len(), wire::JSON_MEMORY_FACTOR)?;
            serde_json::from_slice(json)
                .map(Entry::CreateTablets)
                .map_err(|_| PayloadError::Malformed("tablets are not the JSON they should be"))
        }
        DROP_TABLETS => {
            let count = body.u32()? as usize;
            body.charge(count, 8)?;
            let tablets = (0..count).map(|_| body.u64().map(TabletId));
            tablets.collect::<Result<_, _>>().map(Entry::DropTablets)
        }
        number => Err(PayloadError::Unknown {
            what: "entry kind",
            number,
        }),
    }
}
