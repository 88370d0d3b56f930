//! Bytes of one record of a region. The page is docs/formats/wal-frame.md.
//!
//! ```text
//!  0 magic "AXWF" | 4 version u8 | 5 kind u8 | 6 flags u16 = 0
//!  8 incarnation u64 | 16 epoch u64 | 24 inc u32 | 28 writer u64 | 36 n u64
//! 44 prev u64 | 52 prev_n u64 | 60 length u32 | 64 crc32c u32 | 68 payload
//! ```
//! Little-endian. The checksum covers bytes 0..64 and the payload, so no bit can change unseen.
//! Decoding never trusts a length before its checksum and never panics. Never here: whether a frame
//! counts, which is `valid`'s, and what the payload means, which is the engine's.

use auxo_proto::ids::Term;
use bytes::Bytes;

use crate::Offset;

/// Longest payload of a frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// Length of what stands before the payload, in bytes.
pub const HEADER_BYTES: usize = 68;

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"AXWF";

/// The version that is written, and the newest that is read.
pub const VERSION: u8 = 1;

const CHECKSUM_AT: usize = 64;

/// What a frame is; see the acceptance rule for what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Rows of one group commit.
    Rows,
    /// Empty, or a hint that a manifest was committed.
    Mark,
    /// A leader takes the region over.
    Claim,
    /// The region is closed for ever by a split or a merge; the payload is the plan.
    Seal,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Rows => 1,
            Self::Mark => 2,
            Self::Claim => 3,
            Self::Seal => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Rows,
            2 => Self::Mark,
            3 => Self::Claim,
            4 => Self::Seal,
            _ => return None,
        })
    }
}

/// One record of a region; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The region's incarnation.
    pub incarnation: u64,
    /// The writer's leadership.
    pub term: Term,
    /// Drawn at random for each Claim.
    pub writer: u64,
    /// 1, 2, 3… per writer; 0 in a Claim.
    pub n: u64,
    /// When this frame was made its writer had accounted every offset below this one.
    pub prev: Offset,
    /// The writer's last accepted `n` below `prev`; 0 for none.
    pub prev_n: u64,
    /// Opaque bytes, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes are needed before anything can be said.
    #[error("a frame is cut short: {need} bytes are needed")]
    Short {
        /// Bytes from the frame's beginning that are needed at least.
        need: usize,
    },
    /// No frame begins here.
    #[error("no frame begins here")]
    Magic,
    /// Written by a newer program.
    #[error("frame of version {0}, this program reads up to {VERSION}")]
    Version(u8),
    /// The bytes changed since they were written, or never were a frame.
    #[error("the frame's bytes are damaged")]
    Damaged,
}

impl Frame {
    /// Length of the encoded frame, in bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The bytes that stand before the payload, checksum included; the payload follows unchanged.
    ///
    /// * shape: a payload above [`PAYLOAD_BYTES_MAX`] gives a header that no reader accepts; adapters
    ///   refuse such a frame before they encode it.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = VERSION;
        head[5] = self.kind.code();
        head[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        head[16..24].copy_from_slice(&self.term.epoch.to_le_bytes());
        head[24..28].copy_from_slice(&self.term.inc.to_le_bytes());
        head[28..36].copy_from_slice(&self.writer.to_le_bytes());
        head[36..44].copy_from_slice(&self.n.to_le_bytes());
        head[44..52].copy_from_slice(&self.prev.to_le_bytes());
        head[52..60].copy_from_slice(&self.prev_n.to_le_bytes());
        head[60..64].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        let checksum = checksum(&head, &self.payload);
        head[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// The whole frame in one buffer.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(&self.header());
        bytes.extend_from_slice(&self.payload);
        bytes.into()
    }

    /// The frame at the beginning of `bytes`, whose length is [`Frame::encoded_len`].
    ///
    /// * shape: the payload is a slice of `bytes`, not a copy, and keeps its buffer alive.
    /// * errors: `Short` says how many bytes are needed before more can be said; it is only
    ///   returned while the bytes at hand could still be the beginning of a frame.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let length = Self::length(bytes)?;
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short { need: HEADER_BYTES });
        };
        if bytes.len() < length {
            return Err(FrameError::Short { need: length });
        }
        let payload = bytes.slice(HEADER_BYTES..length);
        if u32_at(head, CHECKSUM_AT) != checksum(head, &payload) {
            return Err(FrameError::Damaged);
        }
        let kind = FrameKind::from_code(head[5]).ok_or(FrameError::Damaged)?;
        if head[6..8] != [0; 2] {
            return Err(FrameError::Damaged);
        }
        Ok(Self {
            kind,
            incarnation: u64_at(head, 8),
            term: Term {
                epoch: u64_at(head, 16),
                inc: u32_at(head, 24),
            },
            writer: u64_at(head, 28),
            n: u64_at(head, 36),
            prev: u64_at(head, 44),
            prev_n: u64_at(head, 52),
            payload,
        })
    }

    /// Length that the header at the beginning of `bytes` states, before its checksum is verified.
    ///
    /// * errors: `Short`, `Magic`, `Version`, and `Damaged` for a length above the limit.
    fn length(bytes: &[u8]) -> Result<usize, FrameError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(FrameError::Magic);
        }
        if let Some(&version) = bytes.get(4)
            && version != VERSION
        {
            return Err(FrameError::Version(version));
        }
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short { need: HEADER_BYTES });
        };
        let payload = u32_at(head, 60) as usize;
        if payload > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Damaged);
        }
        Ok(HEADER_BYTES + payload)
    }
}

fn checksum(head: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..CHECKSUM_AT]), payload)
}

fn u32_at(head: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut le = [0; 4];
    le.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(le)
}

fn u64_at(head: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(le)
}

#[cfg(test)]
mod tests;
