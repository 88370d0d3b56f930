//! The disk's side of the cache: slots of one block each in one file, and which block lies in which.
//!
//! A slot is free, being written, or holds a block. One that is read or written is in use and not
//! given away. When all are taken a hand goes round: a slot asked for since it last passed gets
//! another round, the first other one is given away. So blocks read once leave before blocks that
//! are read again.
//!
//! Calls that touch the file block; none holds the lock while it does.
//!
//! Never here: the store.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectMeta;
use object_store::path::Path;
use parking_lot::Mutex;

use super::BLOCK;

/// All slots; clones share them.
#[derive(Clone)]
pub(super) struct Slots(Arc<Inner>);

struct Inner {
    file: File,
    /// How many there may be.
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    objects: HashMap<Arc<Path>, Known>,
    /// Where the search for a slot goes on.
    hand: usize,
}

/// An object of which at least one block is here.
struct Known {
    meta: ObjectMeta,
    /// Slot of each block, by number.
    blocks: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Slot {
    /// The block it holds; none while it is written.
    owner: Option<(Arc<Path>, u64)>,
    length: usize,
    sum: u32,
    /// Asked for since the hand last passed.
    recent: bool,
    /// Who reads or writes it now.
    users: u32,
}

/// A slot in use.
pub(super) struct Held {
    slots: Slots,
    slot: usize,
    length: usize,
    sum: u32,
}

impl Slots {
    /// No blocks yet, and room for `most`, in a file without a name in `folder`.
    pub(super) fn open(folder: &FilePath, most: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let name = folder.join(format!("blocks-{}", std::process::id()));
        // Left by a process of that number that was killed between the next two calls.
        let _ = fs::remove_file(&name);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&name)?;
        fs::remove_file(&name)?;
        Ok(Self(Arc::new(Inner {
            file,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            state: Mutex::default(),
        })))
    }

    /// The object as the store told it, if a block of it is here.
    pub(super) fn meta(&self, path: &Path) -> Option<ObjectMeta> {
        let state = self.0.state.lock();
        state.objects.get(path).map(|known| known.meta.clone())
    }

    /// The slot of a block, if it is here.
    pub(super) fn hold(&self, path: &Path, number: u64) -> Option<Held> {
        let mut state = self.0.state.lock();
        let slot = *state.objects.get(path)?.blocks.get(&number)?;
        let found = &mut state.slots[slot];
        found.recent = true;
        found.users += 1;
        Some(Held {
            slots: self.clone(),
            slot,
            length: found.length,
            sum: found.sum,
        })
    }

    /// Writes a block; whether it is here now.
    pub(super) fn keep(&self, path: &Path, number: u64, meta: &ObjectMeta, bytes: &[u8]) -> bool {
        let Some(held) = self.take() else {
            return false;
        };
        if let Err(error) = self.0.file.write_all_at(bytes, held.at()) {
            tracing::warn!(%error, "a block cannot be cached");
            return false;
        }
        let mut state = self.0.state.lock();
        let state = &mut *state;
        // One name for all blocks of an object.
        let name = match state.objects.get_key_value(path) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::new(path.clone()),
        };
        let known = state.objects.entry(Arc::clone(&name));
        let known = known.or_insert_with(|| Known {
            meta: meta.clone(),
            blocks: BTreeMap::new(),
        });
        let before = known.blocks.insert(number, held.slot);
        if let Some(before) = before {
            state.slots[before].owner = None;
        }
        let slot = &mut state.slots[held.slot];
        slot.owner = Some((name, number));
        slot.length = bytes.len();
        slot.sum = crc32c::crc32c(bytes);
        slot.recent = false;
        true
    }

    /// A slot to be written, which holds nothing any more.
    fn take(&self) -> Option<Held> {
        let mut state = self.0.state.lock();
        let slot = match state.slots.len() < self.0.most {
            true => {
                state.slots.push(Slot::default());
                state.slots.len() - 1
            }
            false => state.give_away()?,
        };
        state.slots[slot].users += 1;
        Some(Held {
            slots: self.clone(),
            slot,
            length: 0,
            sum: 0,
        })
    }
}

impl State {
    /// A slot that nobody uses, with its block forgotten.
    fn give_away(&mut self) -> Option<usize> {
        // Two rounds: the first may only take away what was recent.
        for _ in 0..self.slots.len() * 2 {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.users > 0 {
                continue;
            }
            if slot.recent {
                slot.recent = false;
                continue;
            }
            self.forget(at);
            return Some(at);
        }
        None
    }

    fn forget(&mut self, slot: usize) {
        let Some((path, number)) = self.slots[slot].owner.take() else {
            return;
        };
        if let Some(known) = self.objects.get_mut(&path) {
            known.blocks.remove(&number);
            if known.blocks.is_empty() {
                self.objects.remove(&path);
            }
        }
    }
}

impl Held {
    /// The block, unless it is not what was written.
    pub(super) fn read(&self) -> Option<Bytes> {
        let mut bytes = vec![0; self.length];
        let read = self.slots.0.file.read_exact_at(&mut bytes, self.at());
        let good = read.is_ok() && crc32c::crc32c(&bytes) == self.sum;
        good.then(|| bytes.into())
    }

    /// Drops the block, which is damaged.
    pub(super) fn forget(&self) {
        self.slots.0.state.lock().forget(self.slot);
    }

    fn at(&self) -> u64 {
        self.slot as u64 * BLOCK
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.slots.0.state.lock().slots[self.slot].users -= 1;
    }
}

#[cfg(test)]
impl Slots {
    /// Writes over everything that is on the disk.
    pub(super) fn spoil(&self) {
        let slots = self.0.state.lock().slots.len() as u64;
        for at in 0..slots {
            self.0.file.write_all_at(b"rot", at * BLOCK + 7).unwrap();
        }
    }

    /// Bytes that the file takes at most.
    pub(super) fn file_bytes(&self) -> u64 {
        self.0.file.metadata().unwrap().len()
    }
}
