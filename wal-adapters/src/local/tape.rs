//! A record of every change of files, from which the disk after a power loss is built; and faults.
//!
//! Model of a disk: a file has what was written up to its last sync, a directory has the names it
//! had at its last sync. Of what came later nothing is there, or, torn, some: each sector of each
//! write, each change of length and each change of a name by a throw of dice. Never here: a rule of
//! the log.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use auxo_proto::random::Random;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// A file or directory, whatever its name is by now.
pub(super) type Node = usize;

const ROOT: Node = 0;

/// Records what happens below one directory, which is empty when the recording begins.
pub struct Tape {
    root: PathBuf,
    state: Mutex<State>,
    released: Condvar,
}

struct State {
    steps: Vec<(Node, Change)>,
    /// Whether each node is a directory.
    is_dir: Vec<bool>,
    names: HashMap<(Node, String), Node>,
    syncs_to_fail: usize,
    space_left: Option<u64>,
    held: bool,
}

enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
    Write(u64, Bytes),
    SetLen(u64),
    Sync,
}

impl Tape {
    /// An empty tape for what happens below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            state: Mutex::new(State {
                steps: Vec::new(),
                is_dir: vec![true],
                names: HashMap::new(),
                syncs_to_fail: 0,
                space_left: None,
                held: false,
            }),
            released: Condvar::new(),
        }
    }

    /// Changes recorded so far: the power may fail after each number of steps up to this one.
    pub fn steps(&self) -> usize {
        self.state.lock().steps.len()
    }

    /// The next syncs of files, that many, fail.
    pub fn fail_syncs(&self, count: usize) {
        self.state.lock().syncs_to_fail = count;
    }

    /// Bytes that can still be reserved; `None` for as many as there are.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.state.lock().space_left = bytes;
    }

    /// While held, syncs of files do not return.
    pub fn hold_syncs(&self, held: bool) {
        self.state.lock().held = held;
        self.released.notify_all();
    }

    /// Writes into the empty directory `into` what a disk holds that lost power after that many
    /// steps: only what was synced, or with `torn` dice also some of what was not.
    pub fn image(&self, steps: usize, torn: Option<&Random>, into: &Path) -> io::Result<()> {
        let state = self.state.lock();
        let mut changes: BTreeMap<Node, Vec<&Change>> = BTreeMap::new();
        for (node, change) in &state.steps[..steps.min(state.steps.len())] {
            changes.entry(*node).or_default().push(change);
        }
        let image = Image {
            is_dir: &state.is_dir,
            changes,
            torn,
        };
        image.dir(ROOT, into)
    }

    /// A directory was made.
    pub fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.link(path, true).map(drop)
    }

    /// A file was made, with that content.
    pub fn make_file_of(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let node = self.make_file(path)?;
        self.write(node, 0, bytes);
        Ok(())
    }

    /// The content of a file was made durable.
    pub fn sync_file(&self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        self.sync(node);
        Ok(())
    }

    /// A file got a second name in the directory where it has its first.
    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let mut state = self.state.lock();
        let (dir, name) = self.place(&state, to)?;
        state.names.insert((dir, name.clone()), node);
        state.steps.push((dir, Change::Link(name, node)));
        Ok(())
    }

    /// Whether the tape knows that name.
    pub fn knows(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    pub(super) fn make_file(&self, path: &Path) -> io::Result<Node> {
        self.link(path, false)
    }

    /// A name was removed.
    pub fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (dir, name) = self.place(&state, path)?;
        state.names.remove(&(dir, name.clone()));
        state.steps.push((dir, Change::Unlink(name)));
        Ok(())
    }

    /// A name was changed, within one directory.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (dir, from_name) = self.place(&state, from)?;
        let (_, to_name) = self.place(&state, to)?;
        if let Some(node) = state.names.remove(&(dir, from_name.clone())) {
            state.names.insert((dir, to_name.clone()), node);
        }
        let change = Change::Rename(from_name, to_name);
        state.steps.push((dir, change));
        Ok(())
    }

    /// The names in a directory were made durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        self.sync(node);
        Ok(())
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        let state = self.state.lock();
        if path == self.root {
            return Ok(ROOT);
        }
        let place = self.place(&state, path)?;
        let found = state.names.get(&place).copied();
        found.ok_or_else(|| not_recorded(path))
    }

    pub(super) fn write(&self, node: Node, at: u64, bytes: &[u8]) {
        let change = Change::Write(at, Bytes::copy_from_slice(bytes));
        self.state.lock().steps.push((node, change));
    }

    pub(super) fn set_len(&self, node: Node, bytes: u64) {
        self.state.lock().steps.push((node, Change::SetLen(bytes)));
    }

    pub(super) fn sync(&self, node: Node) {
        self.state.lock().steps.push((node, Change::Sync));
    }

    pub(super) fn claim_space(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        match &mut state.space_left {
            Some(left) if *left < bytes => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn before_sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        self.released.wait_while(&mut state, |state| state.held);
        if state.syncs_to_fail > 0 {
            state.syncs_to_fail -= 1;
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            ));
        }
        Ok(())
    }

    fn link(&self, path: &Path, is_dir: bool) -> io::Result<Node> {
        let mut state = self.state.lock();
        let (dir, name) = self.place(&state, path)?;
        let node = state.is_dir.len();
        state.is_dir.push(is_dir);
        state.names.insert((dir, name.clone()), node);
        state.steps.push((dir, Change::Link(name, node)));
        Ok(node)
    }

    /// The directory a path lies in, and its name there.
    fn place(&self, state: &State, path: &Path) -> io::Result<(Node, String)> {
        let below = path
            .strip_prefix(&self.root)
            .map_err(|_| not_recorded(path))?;
        let mut names: Vec<String> = below
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        let name = names.pop().ok_or_else(|| not_recorded(path))?;
        let mut dir = ROOT;
        for name in names {
            let found = state.names.get(&(dir, name));
            dir = *found.ok_or_else(|| not_recorded(path))?;
        }
        Ok((dir, name))
    }
}

fn not_recorded(path: &Path) -> io::Error {
    io::Error::other(format!("{} is not on the tape", path.display()))
}

struct Image<'a> {
    is_dir: &'a [bool],
    changes: BTreeMap<Node, Vec<&'a Change>>,
    torn: Option<&'a Random>,
}

impl Image<'_> {
    fn dir(&self, node: Node, path: &Path) -> io::Result<()> {
        let mut names: BTreeMap<&str, Node> = BTreeMap::new();
        for change in self.survivors(node) {
            match change {
                Change::Link(name, node) => {
                    names.insert(name, *node);
                }
                Change::Unlink(name) => {
                    names.remove(name.as_str());
                }
                Change::Rename(from, to) => {
                    if let Some(node) = names.remove(from.as_str()) {
                        names.insert(to, node);
                    }
                }
                Change::Write(..) | Change::SetLen(_) | Change::Sync => {}
            }
        }
        for (name, node) in names {
            let path = path.join(name);
            if self.is_dir[node] {
                std::fs::create_dir(&path)?;
                self.dir(node, &path)?;
            } else {
                self.file(node, &path)?;
            }
        }
        Ok(())
    }

    fn file(&self, node: Node, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(path)?;
        let (synced, later) = self.history(node);
        for change in synced {
            match change {
                Change::Write(at, bytes) => file.write_all_at(bytes, *at)?,
                Change::SetLen(bytes) => file.set_len(*bytes)?,
                _ => {}
            }
        }
        let Some(dice) = self.torn else {
            return Ok(());
        };
        for change in later {
            match change {
                Change::Write(at, bytes) => write_torn(&file, *at, bytes, dice)?,
                Change::SetLen(bytes) if dice.below(2) == 0 => file.set_len(*bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The changes of a directory that outlive the power loss.
    fn survivors(&self, node: Node) -> Vec<&Change> {
        let (synced, later) = self.history(node);
        let lucky = |_: &&&Change| self.torn.is_some_and(|dice| dice.below(2) == 0);
        let later = later.iter().filter(lucky);
        synced.iter().chain(later).copied().collect()
    }

    /// The changes up to the last sync, and those behind it.
    fn history(&self, node: Node) -> (&[&Change], &[&Change]) {
        let all = self.changes.get(&node).map_or(&[][..], Vec::as_slice);
        let synced = all
            .iter()
            .rposition(|change| matches!(change, Change::Sync));
        all.split_at(synced.map_or(0, |last| last + 1))
    }
}

fn write_torn(file: &File, at: u64, bytes: &[u8], dice: &Random) -> io::Result<()> {
    let end = at + bytes.len() as u64;
    let mut from = at;
    while from < end {
        let to = end.min((from / SECTOR_BYTES + 1) * SECTOR_BYTES);
        if dice.below(2) == 0 {
            let sector = &bytes[(from - at) as usize..(to - at) as usize];
            file.write_all_at(sector, from)?;
        }
        from = to;
    }
    Ok(())
}
