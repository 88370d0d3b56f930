//! The bytes of the log: segment header, frame header, records.
//!
//! Pure functions over byte slices; no file is touched here. Integers are little-endian, checksums
//! CRC-32C. Input is whatever is on disk, so decoding refuses and never panics.

use bytes::Bytes;

use crate::proposal::Content;

/// The newest segment format this version reads, and the one it writes.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 24;
pub(crate) const FRAME_HEADER_BYTES: usize = 20;
const RECORD_HEADER_BYTES: usize = 9;
/// No frame's body is longer; a header that says otherwise is damaged.
pub(crate) const FRAME_BODY_BYTES_MAX: usize = 64 << 20;
const SEGMENT_MAGIC: &[u8; 8] = b"etcd-log";
pub(crate) const FRAME_MAGIC: &[u8; 4] = b"eFrm";

/// Term and index of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// A vote for `node` in `term`, granted by a quorum once `committed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Entry {
        at: Position,
        content: Content,
    },
    Vote(Ballot),
    Committed(Position),
    Purged(Position),
    /// All entries from `from` on are void.
    Truncated {
        from: u64,
    },
}

/// Bytes that are no record, frame or header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("cut short")]
    Short,
    #[error("no magic number")]
    Magic,
    #[error("checksum differs")]
    Checksum,
    #[error("unknown record kind {0}")]
    Kind(u8),
    #[error("a length that fits nothing")]
    Length,
    #[error("format {0}")]
    Newer(u32),
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const PURGED: u8 = 4;
const TRUNCATED: u8 = 5;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl Record {
    /// Appends the record to `out`; returns its length.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        let kind = match self {
            Self::Entry { at, content } => {
                put_position(out, *at);
                match content {
                    Content::Blank => out.push(BLANK),
                    Content::Normal(bytes) => {
                        out.push(NORMAL);
                        out.extend_from_slice(bytes);
                    }
                    Content::Membership(bytes) => {
                        out.push(MEMBERSHIP);
                        out.extend_from_slice(bytes);
                    }
                }
                ENTRY
            }
            Self::Vote(ballot) => {
                out.extend_from_slice(&ballot.term.to_le_bytes());
                out.extend_from_slice(&ballot.node.to_le_bytes());
                out.push(u8::from(ballot.committed));
                VOTE
            }
            Self::Committed(at) => {
                put_position(out, *at);
                COMMITTED
            }
            Self::Purged(at) => {
                put_position(out, *at);
                PURGED
            }
            Self::Truncated { from } => {
                out.extend_from_slice(&from.to_le_bytes());
                TRUNCATED
            }
        };
        let body = out.len() - start - RECORD_HEADER_BYTES;
        out[start] = kind;
        out[start + 1..start + 5].copy_from_slice(&(body as u32).to_le_bytes());
        let sum = checksum(&out[start..start + 5], &out[start + RECORD_HEADER_BYTES..]);
        out[start + 5..start + 9].copy_from_slice(&sum.to_le_bytes());
        out.len() - start
    }

    /// The record at the front of `bytes` and its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), Malformed> {
        let header = bytes.get(..RECORD_HEADER_BYTES).ok_or(Malformed::Short)?;
        let length = u32_at(header, 1) as usize;
        let end = RECORD_HEADER_BYTES
            .checked_add(length)
            .ok_or(Malformed::Length)?;
        let body = bytes
            .get(RECORD_HEADER_BYTES..end)
            .ok_or(Malformed::Short)?;
        if checksum(&header[..5], body) != u32_at(header, 5) {
            return Err(Malformed::Checksum);
        }
        let record = match (header[0], body.len()) {
            (ENTRY, 17..) => Self::Entry {
                at: position_at(body),
                content: match (body[16], &body[17..]) {
                    (BLANK, []) => Content::Blank,
                    (NORMAL, rest) => Content::Normal(Bytes::copy_from_slice(rest)),
                    (MEMBERSHIP, rest) => Content::Membership(Bytes::copy_from_slice(rest)),
                    (BLANK, _) => return Err(Malformed::Length),
                    (other, _) => return Err(Malformed::Kind(other)),
                },
            },
            (VOTE, 17) => Self::Vote(Ballot {
                term: u64_at(body, 0),
                node: u64_at(body, 8),
                committed: body[16] != 0,
            }),
            (COMMITTED, 16) => Self::Committed(position_at(body)),
            (PURGED, 16) => Self::Purged(position_at(body)),
            (TRUNCATED, 8) => Self::Truncated {
                from: u64_at(body, 0),
            },
            (ENTRY | VOTE | COMMITTED | PURGED | TRUNCATED, _) => return Err(Malformed::Length),
            (other, _) => return Err(Malformed::Kind(other)),
        };
        Ok((record, end))
    }
}

/// The header of a frame; `number` rises by one from frame to frame over all segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) number: u64,
    pub(crate) body_bytes: u32,
}

impl FrameHeader {
    pub(crate) fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[..4].copy_from_slice(FRAME_MAGIC);
        out[4..12].copy_from_slice(&self.number.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_bytes.to_le_bytes());
        let sum = checksum(&out[..16], &[]);
        out[16..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = bytes.get(..FRAME_HEADER_BYTES).ok_or(Malformed::Short)?;
        if &header[..4] != FRAME_MAGIC {
            return Err(Malformed::Magic);
        }
        if checksum(&header[..16], &[]) != u32_at(header, 16) {
            return Err(Malformed::Checksum);
        }
        let body_bytes = u32_at(header, 12);
        if body_bytes as usize > FRAME_BODY_BYTES_MAX {
            return Err(Malformed::Length);
        }
        Ok(Self {
            number: u64_at(header, 4),
            body_bytes,
        })
    }
}

/// The frame at the front of `bytes`: its header, its records with their offset from the front
/// of the frame and their length, and the length of the whole frame.
pub(crate) type Frame = (FrameHeader, Vec<(Record, usize, usize)>, usize);

pub(crate) fn decode_frame(bytes: &[u8]) -> Result<Frame, Malformed> {
    let header = FrameHeader::decode(bytes)?;
    let end = FRAME_HEADER_BYTES + header.body_bytes as usize;
    let frame = bytes.get(..end).ok_or(Malformed::Short)?;
    let mut records = Vec::new();
    let mut offset = FRAME_HEADER_BYTES;
    while offset < end {
        let (record, length) = Record::decode(&frame[offset..])?;
        records.push((record, offset, length));
        offset += length;
    }
    Ok((header, records, end))
}

pub(crate) fn segment_header(first_frame: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    out[..8].copy_from_slice(SEGMENT_MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[12..20].copy_from_slice(&first_frame.to_le_bytes());
    let sum = checksum(&out[..20], &[]);
    out[20..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The number of the first frame of the segment whose bytes these are.
pub(crate) fn decode_segment_header(bytes: &[u8]) -> Result<u64, Malformed> {
    let header = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(Malformed::Short)?;
    if &header[..8] != SEGMENT_MAGIC {
        return Err(Malformed::Magic);
    }
    let format = u32_at(header, 8);
    if format > FORMAT {
        return Err(Malformed::Newer(format));
    }
    if checksum(&header[..20], &[]) != u32_at(header, 20) {
        return Err(Malformed::Checksum);
    }
    Ok(u64_at(header, 12))
}

fn put_position(out: &mut Vec<u8>, at: Position) {
    out.extend_from_slice(&at.term.to_le_bytes());
    out.extend_from_slice(&at.index.to_le_bytes());
}

fn position_at(bytes: &[u8]) -> Position {
    Position {
        term: u64_at(bytes, 0),
        index: u64_at(bytes, 8),
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// The caller has checked that the bytes are there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

/// The caller has checked that the bytes are there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_records() -> Vec<Record> {
        let at = Position { term: 2, index: 3 };
        vec![
            Record::Vote(Ballot {
                term: 2,
                node: 0x0102_0304_0506_0708,
                committed: true,
            }),
            Record::Purged(Position { term: 1, index: 1 }),
            Record::Committed(Position { term: 1, index: 2 }),
            Record::Truncated { from: 3 },
            Record::Entry {
                at,
                content: Content::Blank,
            },
            Record::Entry {
                at: Position { term: 2, index: 4 },
                content: Content::Normal(Bytes::from_static(b"\x0a\x06\x0a\x01k\x12\x01v")),
            },
            Record::Entry {
                at: Position { term: 2, index: 5 },
                content: Content::Membership(Bytes::from_static(b"\x0a\x00")),
            },
        ]
    }

    fn one_segment() -> Vec<u8> {
        let mut body = Vec::new();
        for record in all_records() {
            record.encode(&mut body);
        }
        let mut out = segment_header(9).to_vec();
        out.extend_from_slice(
            &FrameHeader {
                number: 9,
                body_bytes: body.len() as u32,
            }
            .encode(),
        );
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn golden_bytes_of_format_1() {
        let golden = include_bytes!("../../testdata/log-format-1.bin");
        assert_eq!(one_segment(), golden);
        assert_eq!(decode_segment_header(golden), Ok(9));
        let (header, records, end) = decode_frame(&golden[SEGMENT_HEADER_BYTES..]).unwrap();
        assert_eq!(header.number, 9);
        assert_eq!(end, golden.len() - SEGMENT_HEADER_BYTES);
        let records: Vec<_> = records.into_iter().map(|(record, ..)| record).collect();
        assert_eq!(records, all_records());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = one_segment();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header = decode_segment_header(&bytes);
            let frame = decode_frame(&bytes[SEGMENT_HEADER_BYTES..]);
            assert!(header.is_err() || frame.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_segment_is_told_from_a_damaged_one() {
        let mut bytes = segment_header(1);
        bytes[8] = 2;
        assert_eq!(decode_segment_header(&bytes), Err(Malformed::Newer(2)));
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
            let _ = decode_frame(&bytes);
            let _ = decode_segment_header(&bytes);
        }

        #[test]
        fn an_entry_survives(term: u64, index: u64, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let record = Record::Entry {
                at: Position { term, index },
                content: Content::Normal(body.into()),
            };
            let mut out = vec![7];
            let length = record.encode(&mut out);
            prop_assert_eq!(Record::decode(&out[1..]), Ok((record, length)));
        }
    }
}
