//! Primitive fields of a payload, little-endian, and the count of the memory that decoding takes.
//!
//! Writer and reader charge the same amounts at the same places, so a batch within its bound when
//! it was written is within it for every later reader: the amounts belong to the format.

use super::PayloadError;

/// What one byte of JSON counts for when it is decoded.
pub(super) const JSON_MEMORY_FACTOR: usize = 4;

/// Grows the body of a batch.
#[derive(Default)]
pub(super) struct Writer {
    /// What was written.
    pub(super) bytes: Vec<u8>,
    /// What decoding it will take.
    pub(super) memory: usize,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A `u32` length, then the bytes.
    pub(super) fn slice(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
    }

    /// Values of equal width, `count` of them.
    pub(super) fn fixed<const N: usize>(
        &mut self,
        count: usize,
        values: impl Iterator<Item = [u8; N]>,
    ) {
        let start = self.bytes.len();
        self.bytes.resize(start + count * N, 0);
        for (slot, value) in self.bytes[start..].chunks_exact_mut(N).zip(values) {
            slot.copy_from_slice(&value);
        }
    }

    /// Counts `count` things of `each` bytes that a reader will have to keep.
    pub(super) fn charge(&mut self, count: usize, each: usize) {
        self.memory = self.memory.saturating_add(count.saturating_mul(each));
    }
}

/// Walks the bytes of a payload or of one batch's body.
pub(super) struct Reader<'a, 'm> {
    rest: &'a [u8],
    memory_left: &'m mut usize,
}

impl<'a, 'm> Reader<'a, 'm> {
    pub(super) fn new(bytes: &'a [u8], memory_left: &'m mut usize) -> Self {
        Self {
            rest: bytes,
            memory_left,
        }
    }

    /// A reader of other bytes under the same bound.
    pub(super) fn inner<'b>(&mut self, bytes: &'b [u8]) -> Reader<'b, '_> {
        Reader::new(bytes, self.memory_left)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], PayloadError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(PayloadError::Malformed("bytes end too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(PayloadError::Malformed("bytes end too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PayloadError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PayloadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, PayloadError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, PayloadError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A `u32` length, then the bytes.
    pub(super) fn slice(&mut self) -> Result<&'a [u8], PayloadError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// `count` values of equal width.
    pub(super) fn fixed<const N: usize>(
        &mut self,
        count: usize,
    ) -> Result<&'a [[u8; N]], PayloadError> {
        let len = count
            .checked_mul(N)
            .ok_or(PayloadError::Malformed("bytes end too early"))?;
        Ok(self.take(len)?.as_chunks().0)
    }

    /// Takes the memory of `count` things of `each` bytes, before it is allocated.
    pub(super) fn charge(&mut self, count: usize, each: usize) -> Result<(), PayloadError> {
        *self.memory_left = count
            .checked_mul(each)
            .and_then(|bytes| self.memory_left.checked_sub(bytes))
            .ok_or(PayloadError::TooLarge)?;
        Ok(())
    }

    /// Makes sure that nothing is left.
    pub(super) fn end(self) -> Result<(), PayloadError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(PayloadError::Malformed("bytes follow the end"))
        }
    }
}
