//! Remembers which series the raw bytes of measurement and tags stand for, over many bodies.
//!
//! An entry is found in two ways: it followed the entry at hand the last time (senders repeat
//! their order), or by a keyed hash. **Bytes are always compared**; neither way ever decides by
//! itself. What an entry says is true for one table at one schema; whether that is still the
//! table's is asked once per body and table ([`super::table`]). A lost entry costs one reading of
//! the tags, never a wrong series.
//!
//! When the bound is reached, entries that were not used since the hand last passed go (clock).

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What an entry takes beside its bytes: itself, its place in the index and in the allocator.
const ENTRY_BYTES: usize = 112;

/// What is known of some raw bytes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Raw bytes, then the canonical key.
    bytes: Box<[u8]>,
    raw_len: usize,
    hash: u64,
    /// Index of the table in [`super::table::Tables`].
    pub(super) table: u32,
    /// Number of tags.
    pub(super) tags: u32,
    pub(super) partition_hash: u32,
    /// Number of the body in which `series` is right.
    pub(super) body: u64,
    /// Number of the series in that body's rows.
    pub(super) series: u32,
    /// The entry that followed the last time.
    follower: u32,
    used: bool,
}

impl Entry {
    fn raw(&self) -> &[u8] {
        &self.bytes[..self.raw_len]
    }

    /// The canonical key.
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[self.raw_len..]
    }

    fn cost(&self) -> usize {
        ENTRY_BYTES + self.bytes.len()
    }
}

/// The entries.
#[derive(Debug)]
pub(super) struct Memo {
    /// Entries that went have no bytes.
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<u32>,
    seed: u64,
    bytes: usize,
    bytes_max: usize,
    hand: usize,
    /// The entry of the line before.
    previous: u32,
}

impl Memo {
    pub(super) fn new(bytes_max: usize, seed: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            seed,
            bytes: 0,
            bytes_max,
            hand: 0,
            previous: 0,
        }
    }

    /// Bytes that the entries take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max, self.seed);
    }

    /// Key of all hashes that a sender might want to foresee.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Hash of raw bytes of measurement and tags, for [`Memo::find`] and [`Memo::insert`].
    pub(super) fn hash(&self, raw: &[u8]) -> u64 {
        xxh3_64_with_seed(raw, self.seed)
    }

    /// The entry that follows the line before, if `rest` begins with its bytes and a space; the
    /// length of its bytes beside it.
    pub(super) fn follower(&self, rest: &[u8]) -> Option<(u32, usize)> {
        let number = self.entries.get(self.previous as usize)?.follower;
        let entry = self.entries.get(number as usize)?;
        let after = rest.strip_prefix(entry.raw())?;
        let found = entry.raw_len > 0 && after.first() == Some(&b' ');
        found.then_some((number, entry.raw_len))
    }

    /// The entry of these bytes that `wanted` takes; there may be several, of different databases.
    pub(super) fn find(
        &self,
        raw: &[u8],
        hash: u64,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<u32> {
        let same = |number: &u32| {
            let entry = &self.entries[*number as usize];
            entry.hash == hash && entry.raw() == raw && wanted(entry)
        };
        self.index.find(hash, same).copied()
    }

    pub(super) fn get(&self, number: u32) -> &Entry {
        &self.entries[number as usize]
    }

    /// Notes which line was read, for the next one.
    pub(super) fn follow(&mut self, number: u32) {
        if let Some(previous) = self.entries.get_mut(self.previous as usize) {
            previous.follower = number;
        }
        self.previous = number;
    }

    /// Notes that the entry was of use: it stays when the hand passes next.
    pub(super) fn used(&mut self, number: u32) {
        self.entries[number as usize].used = true;
    }

    /// Notes the number of the entry's series in a body.
    pub(super) fn set_series(&mut self, number: u32, body: u64, series: u32) {
        let entry = &mut self.entries[number as usize];
        (entry.body, entry.series) = (body, series);
    }

    /// Adds an entry; `replaces` is one of the same bytes that is not true any more.
    ///
    /// * returns: its number, `None` if it is larger than the bound.
    pub(super) fn insert(
        &mut self,
        raw: &[u8],
        hash: u64,
        key: &[u8],
        meaning: Meaning,
        replaces: Option<u32>,
    ) -> Option<u32> {
        if let Some(number) = replaces {
            self.remove(number);
        }
        let entry = Entry {
            bytes: [raw, key].concat().into(),
            raw_len: raw.len(),
            hash,
            table: meaning.table,
            tags: meaning.tags,
            partition_hash: meaning.partition_hash,
            body: 0,
            series: 0,
            follower: u32::MAX,
            used: false,
        };
        let cost = entry.cost();
        if cost > self.bytes_max {
            return None;
        }
        while self.bytes + cost > self.bytes_max {
            self.evict();
        }
        self.bytes += cost;
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        let entries = &self.entries;
        let hash_of = |number: &u32| entries[*number as usize].hash;
        self.index.insert_unique(hash, number, hash_of);
        Some(number)
    }

    /// Removes the next entry under the hand that was not used; there is one.
    fn evict(&mut self) {
        loop {
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[self.hand];
            if entry.bytes.is_empty() {
                continue;
            }
            if !std::mem::take(&mut entry.used) {
                return self.remove(self.hand as u32);
            }
        }
    }

    fn remove(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        self.bytes -= entry.cost();
        (entry.bytes, entry.raw_len) = (Box::default(), 0);
        let hash = entry.hash;
        if let Ok(found) = self.index.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        self.free.push(number);
    }
}

/// What raw bytes stand for, beside their canonical key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meaning {
    pub(super) table: u32,
    pub(super) tags: u32,
    pub(super) partition_hash: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANING: Meaning = Meaning {
        table: 0,
        tags: 0,
        partition_hash: 0,
    };

    fn add(memo: &mut Memo, raw: &str) -> Option<u32> {
        let hash = memo.hash(raw.as_bytes());
        memo.insert(raw.as_bytes(), hash, b"key", MEANING, None)
    }

    fn has(memo: &Memo, raw: &str) -> bool {
        let hash = memo.hash(raw.as_bytes());
        memo.find(raw.as_bytes(), hash, |_| true).is_some()
    }

    #[test]
    fn the_bound_holds_and_used_entries_stay() {
        let mut memo = Memo::new(20 * (ENTRY_BYTES + 10), 7);
        let hot = add(&mut memo, "hot").unwrap();
        for number in 0..1000 {
            assert!(add(&mut memo, &format!("cold{number}")).is_some());
            memo.used(hot);
            assert!(memo.bytes() <= 20 * (ENTRY_BYTES + 10));
            assert!(has(&memo, "hot"), "{number}");
        }
        assert!(!has(&memo, "cold0"));
        assert!(has(&memo, "cold999"));
        assert!(memo.entries.len() <= 21);
        assert_eq!(memo.index.len() + memo.free.len(), memo.entries.len());
        assert_eq!(add(&mut memo, &"x".repeat(10_000)), None);
    }

    #[test]
    fn a_follower_is_taken_only_for_its_own_bytes() {
        let mut memo = Memo::new(1 << 20, 7);
        let [a, b] = ["m,t=a", "m,t=b"].map(|raw| add(&mut memo, raw).unwrap());
        for number in [a, b, a] {
            memo.follow(number);
        }
        assert_eq!(memo.follower(b"m,t=b f=1"), Some((b, 5)));
        assert_eq!(memo.follower(b"m,t=bb f=1"), None);
        assert_eq!(memo.follower(b"m,t=a f=1"), None);
        assert_eq!(memo.follower(b"m,t=b"), None);
        memo.remove(b);
        assert_eq!(memo.follower(b" f=1"), None);
        assert_eq!(memo.follower(b"m,t=b f=1"), None);
    }

    #[test]
    fn a_replaced_entry_is_not_found_again() {
        let mut memo = Memo::new(1 << 20, 7);
        let old = add(&mut memo, "m").unwrap();
        let hash = memo.hash(b"m");
        let meaning = Meaning {
            table: 1,
            ..MEANING
        };
        let new = memo.insert(b"m", hash, b"", meaning, Some(old)).unwrap();
        assert_eq!(memo.index.len(), 1);
        assert_eq!(memo.get(new).table, 1);
        assert_eq!(memo.bytes(), ENTRY_BYTES + 1);
    }
}
