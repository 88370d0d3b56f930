//! Bytes of a manifest: frame, version and checksum around a protobuf body.
//!
//! ```text
//! "AUXM" │ version u8 │ body length u32 LE │ body │ CRC-32C of all before, u32 LE
//! ```
//! Decoding checks in that order, refuses a higher version by name, and gives a whole manifest or
//! an error; nothing is guessed. What the values mean together is the business of
//! [`super::check`].

use std::sync::Arc;

use auxo_proto::ids::{BatchId, Seq, ShardId, TabletId, TenantId, Term};
use auxo_proto::schema::{HashRange, TableInfo, TabletSpec};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{
    BatchEntry, BatchTable, Floor, MANIFEST_BYTES_MAX, Manifest, Parent, Retired, TenantBatches,
    body,
};

mod deletes;
mod entries;

use deletes::{body_delete, delete_of};
use entries::{body_file, body_table, file_of, table_of};

const MAGIC: [u8; 4] = *b"AUXM";
const VERSION: u8 = 1;
const HEAD: usize = 9;
const SUM: usize = 4;

/// Bytes are not a manifest this program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin as a manifest does.
    #[error("not a manifest: it does not begin with AUXM")]
    NotAManifest,
    /// A newer program wrote them.
    #[error("manifest format {found} is newer than {VERSION}, the newest this program reads")]
    Newer {
        /// Version they carry.
        found: u8,
    },
    /// There are more or fewer of them than they say.
    #[error("manifest has {found} bytes, it should have {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be, as far as the header can be read.
        expected: usize,
    },
    /// Above [`MANIFEST_BYTES_MAX`].
    #[error("manifest has {found} bytes, more than {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// Bytes there are.
        found: u64,
    },
    /// Some of them changed since they were written.
    #[error("checksum of the manifest does not match")]
    Checksum,
    /// They are whole but say something no manifest says.
    #[error("manifest is malformed: {0}")]
    Malformed(String),
}

fn malformed(what: &str) -> DecodeError {
    DecodeError::Malformed(what.to_owned())
}

pub(super) fn encode(manifest: &Manifest) -> Bytes {
    let body = body_of(manifest);
    let length = body.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length + SUM);
    bytes.put_slice(&MAGIC);
    bytes.put_u8(VERSION);
    // A length above u32 is far above what a commit accepts; the bytes are then never written.
    bytes.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&body.encode_to_vec());
    let sum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(sum);
    bytes.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
    let found = bytes.len();
    if found > MANIFEST_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            found: found as u64,
        });
    }
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        let begins = bytes.starts_with(&MAGIC) || MAGIC.starts_with(bytes);
        return Err(match begins {
            true => DecodeError::Length {
                found,
                expected: HEAD + SUM,
            },
            false => DecodeError::NotAManifest,
        });
    };
    if head[..4] != MAGIC {
        return Err(DecodeError::NotAManifest);
    }
    match head[4] {
        VERSION => {}
        found if found > VERSION => return Err(DecodeError::Newer { found }),
        _ => return Err(malformed("format 0 was never written")),
    }
    let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
    let Some((body, sum)) = rest
        .split_at_checked(length)
        .filter(|(_, sum)| sum.len() == SUM)
    else {
        let expected = HEAD + length + SUM;
        return Err(DecodeError::Length { found, expected });
    };
    if crc32c::crc32c(&bytes[..HEAD + length]).to_le_bytes() != sum {
        return Err(DecodeError::Checksum);
    }
    let body =
        body::Manifest::decode(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    manifest_of(body)
}

fn body_of(manifest: &Manifest) -> body::Manifest {
    let mut tables: Vec<&Arc<TableInfo>> = Vec::new();
    let tablets = manifest
        .tablets
        .iter()
        .map(|tablet| {
            let known = tables.iter().position(|table| **table == tablet.table);
            let table = known.unwrap_or_else(|| {
                tables.push(&tablet.table);
                tables.len() - 1
            });
            body::Tablet {
                id: tablet.id.0,
                hash_lo: tablet.range.lo,
                hash_hi: tablet.range.hi,
                table: table as u32,
            }
        })
        .collect();
    body::Manifest {
        term: Some(body_term(manifest.term)),
        writer: manifest.writer,
        write_id: bytes16(manifest.write_id),
        incarnation: manifest.incarnation,
        base_seq: manifest.base_seq.0,
        flushed: manifest.flushed,
        floor: Some(body_floor(manifest.floor)),
        claim: manifest.claim,
        files: manifest.files.iter().map(body_file).collect(),
        tables: tables.into_iter().map(|table| body_table(table)).collect(),
        tablets,
        batches: manifest.batches.tenants.iter().map(body_batches).collect(),
        deletes: manifest.deletes.iter().map(body_delete).collect(),
        parents: manifest.parents.iter().map(body_parent).collect(),
        retired: manifest.retired.iter().map(body_retired).collect(),
    }
}

fn manifest_of(body: body::Manifest) -> Result<Manifest, DecodeError> {
    let tables: Vec<Arc<TableInfo>> = body
        .tables
        .into_iter()
        .map(|table| table_of(table).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let tablets = body.tablets.into_iter().map(|tablet| {
        let table = tables.get(tablet.table as usize).cloned();
        Ok(TabletSpec {
            id: TabletId(tablet.id),
            range: HashRange {
                lo: tablet.hash_lo,
                hi: tablet.hash_hi,
            },
            table: table.ok_or_else(|| malformed("a tablet names a table that is not there"))?,
        })
    });
    Ok(Manifest {
        term: term_of(body.term)?,
        writer: body.writer,
        write_id: u128_of(&body.write_id, "write_id is not 16 bytes")?,
        incarnation: body.incarnation,
        base_seq: Seq(body.base_seq),
        flushed: body.flushed,
        floor: floor_of(body.floor)?,
        claim: body.claim,
        files: body.files.into_iter().map(file_of).collect(),
        tablets: tablets.collect::<Result<_, _>>()?,
        batches: Arc::new(BatchTable {
            tenants: collect(body.batches, batches_of)?,
        }),
        deletes: collect(body.deletes, delete_of)?,
        parents: collect(body.parents, parent_of)?,
        retired: body.retired.into_iter().map(retired_of).collect(),
    })
}

fn collect<A, B>(
    from: Vec<A>,
    convert: fn(A) -> Result<B, DecodeError>,
) -> Result<Vec<B>, DecodeError> {
    from.into_iter().map(convert).collect()
}

fn bytes16(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn u128_of(bytes: &[u8], otherwise: &str) -> Result<u128, DecodeError> {
    let bytes = bytes.try_into().map_err(|_| malformed(otherwise))?;
    Ok(u128::from_be_bytes(bytes))
}

fn body_term(term: Term) -> body::Term {
    body::Term {
        epoch: term.epoch,
        inc: term.inc,
    }
}

fn term_of(term: Option<body::Term>) -> Result<Term, DecodeError> {
    let term = term.ok_or_else(|| malformed("a term is missing"))?;
    Ok(Term {
        epoch: term.epoch,
        inc: term.inc,
    })
}

fn body_floor(floor: Floor) -> body::Floor {
    body::Floor {
        term: Some(body_term(floor.term)),
        writer: floor.writer,
        n: floor.n,
        sealed: floor.sealed,
    }
}

fn floor_of(floor: Option<body::Floor>) -> Result<Floor, DecodeError> {
    let floor = floor.ok_or_else(|| malformed("a floor is missing"))?;
    Ok(Floor {
        term: term_of(floor.term)?,
        writer: floor.writer,
        n: floor.n,
        sealed: floor.sealed,
    })
}

fn body_batches(batches: &TenantBatches) -> body::TenantBatches {
    let entries = &batches.entries;
    let mut ids = BytesMut::with_capacity(16 * entries.len());
    for entry in entries {
        ids.put_u128(entry.id.0);
    }
    body::TenantBatches {
        tenant: batches.tenant.0,
        low_water: batches
            .low_water
            .map(|id| bytes16(id.0))
            .unwrap_or_default(),
        ids: ids.freeze(),
        body_hashes: entries.iter().map(|entry| entry.body_hash).collect(),
        seqs: entries.iter().map(|entry| entry.seq.0).collect(),
    }
}

fn batches_of(batches: body::TenantBatches) -> Result<TenantBatches, DecodeError> {
    let (ids, odd) = batches.ids.as_chunks::<16>();
    let same = ids.len() == batches.body_hashes.len() && ids.len() == batches.seqs.len();
    if !odd.is_empty() || !same {
        return Err(malformed("columns of a batch table differ in length"));
    }
    let low_water = match batches.low_water.is_empty() {
        true => None,
        false => Some(BatchId(u128_of(
            &batches.low_water,
            "a low-water mark is not 16 bytes",
        )?)),
    };
    let others = batches.body_hashes.into_iter().zip(batches.seqs);
    let entries = ids
        .iter()
        .zip(others)
        .map(|(id, (body_hash, seq))| BatchEntry {
            id: BatchId(u128::from_be_bytes(*id)),
            body_hash,
            seq: Seq(seq),
        });
    Ok(TenantBatches {
        tenant: TenantId(batches.tenant),
        low_water,
        entries: entries.collect(),
    })
}

fn body_parent(parent: &Parent) -> body::Parent {
    body::Parent {
        shard: parent.shard.0,
        incarnation: parent.incarnation,
        base_seq: parent.base_seq.0,
        from: parent.from,
        until: parent.until,
        floor: Some(body_floor(parent.floor)),
    }
}

fn parent_of(parent: body::Parent) -> Result<Parent, DecodeError> {
    Ok(Parent {
        shard: ShardId(parent.shard),
        incarnation: parent.incarnation,
        base_seq: Seq(parent.base_seq),
        from: parent.from,
        until: parent.until,
        floor: floor_of(parent.floor)?,
    })
}

fn body_retired(retired: &Retired) -> body::Retired {
    body::Retired {
        key: retired.key.clone(),
        length: retired.length,
        at_ms: retired.at_ms,
    }
}

fn retired_of(retired: body::Retired) -> Retired {
    Retired {
        key: retired.key,
        length: retired.length,
        at_ms: retired.at_ms,
    }
}
