//! The only code that changes files of the local WAL; with a tape every change is recorded, and
//! fails where the tape says so.
//!
//! Never here: what the bytes mean, or a retry of a sync.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::tape::{Node, Tape};
use crate::WalError;

/// File that holds the lock of a directory.
const LOCK: &str = "LOCK";

/// What statfs says of a file system that lives in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// How files are changed: for real, or for real and on a tape.
#[derive(Clone)]
pub struct Disk {
    tape: Option<Arc<Tape>>,
}

impl Disk {
    /// The machine's disk.
    pub fn real() -> Self {
        Self { tape: None }
    }

    /// The machine's disk, each change also on the tape, under the faults that the tape is told.
    pub fn recording(tape: Arc<Tape>) -> Self {
        Self { tape: Some(tape) }
    }

    /// Makes the directory if there is none and locks it for this process.
    pub(super) fn lock(&self, dir: &Path) -> Result<Lock, WalError> {
        make_dirs(dir)?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(dir.join(LOCK))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                let (dir, pid) = (dir.display(), pid.trim());
                return Err(WalError::Misconfigured(format!(
                    "the WAL directory {dir} is in use by process {pid}"
                )));
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }

    /// Whether the file system lives in memory, so that a sync means nothing.
    pub(super) fn forgets(dir: &Path) -> io::Result<bool> {
        Ok(rustix::fs::statfs(dir)?.f_type as i64 == TMPFS_MAGIC)
    }

    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        match std::fs::create_dir(path) {
            Ok(()) => self.record(|tape| tape.make_dir(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.record(|tape| tape.rename(from, to))
    }

    /// Deletes a directory of files.
    pub(super) fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            self.remove_file(&entry?.path())?;
        }
        std::fs::remove_dir(dir)?;
        self.record(|tape| tape.unlink(dir))
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)?;
        self.record(|tape| tape.unlink(path))
    }

    /// Makes names in the directory durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()?;
        self.record(|tape| tape.sync_dir(dir))
    }

    /// A new file of that many zeros, in place of what an earlier try may have left.
    ///
    /// * errors: on a full disk nothing is left behind.
    pub(super) fn create(&self, path: &Path, bytes: u64) -> io::Result<DiskFile> {
        match self.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        let tape = match &self.tape {
            Some(tape) => Some((tape.clone(), tape.make_file(path)?)),
            None => None,
        };
        let file = DiskFile { file, tape };
        if let Err(error) = file.allocate(bytes) {
            self.remove_file(path)?;
            return Err(error);
        }
        Ok(file)
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<DiskFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let tape = match &self.tape {
            Some(tape) => Some((tape.clone(), tape.find(path)?)),
            None => None,
        };
        Ok(DiskFile { file, tape })
    }

    fn record(&self, step: impl FnOnce(&Tape) -> io::Result<()>) -> io::Result<()> {
        self.tape.as_deref().map_or(Ok(()), step)
    }
}

/// Makes the directory with those above it, each name durable.
fn make_dirs(dir: &Path) -> io::Result<()> {
    let above = dir.ancestors().skip(1);
    let missing = above.take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    let made: Vec<&Path> = std::iter::once(dir).chain(missing).collect();
    std::fs::create_dir_all(dir)?;
    for made in made {
        let parent = made
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// The locked directory; unlocked when dropped, or when the process ends.
pub(super) struct Lock {
    _file: File,
}

/// A file that is written to.
pub(super) struct DiskFile {
    file: File,
    tape: Option<(Arc<Tape>, Node)>,
}

impl DiskFile {
    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        if let Some((tape, node)) = &self.tape {
            tape.write(*node, at, bytes);
        }
        Ok(())
    }

    pub(super) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        if let Some((tape, node)) = &self.tape {
            tape.set_len(*node, bytes);
        }
        Ok(())
    }

    /// Reserves room up to that length; what is new reads as zeros.
    ///
    /// * errors: `StorageFull`. A file system that cannot reserve room lets the disk run full at a
    ///   write instead.
    pub(super) fn allocate(&self, bytes: u64) -> io::Result<()> {
        if let Some((tape, _)) = &self.tape {
            tape.claim_space(bytes)?;
        }
        let reserved = loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP) => break self.file.set_len(bytes),
                done => break done.map_err(io::Error::from),
            }
        };
        reserved?;
        if let Some((tape, node)) = &self.tape {
            tape.set_len(*node, bytes);
        }
        Ok(())
    }

    /// Makes content and length durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some((tape, _)) = &self.tape {
            tape.before_sync()?;
        }
        self.file.sync_data()?;
        if let Some((tape, node)) = &self.tape {
            tape.sync(*node);
        }
        Ok(())
    }
}
