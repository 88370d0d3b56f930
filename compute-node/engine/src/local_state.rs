//! The number of the last claim under an epoch, kept on the node's own disk before it is used.
//!
//! A node that restarts, or has to claim again, goes on under the same epoch with a higher `inc`;
//! that is only safe if no `inc` is ever used twice, hence the file. A node that has lost the file
//! needs a new epoch.
//!
//! One file a shard, `{shard}.term`, text `{epoch}.{inc}`, replaced whole: write beside it, sync, rename, sync the
//! directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use auxo_proto::ids::{ShardId, Term};

/// Where the terms of this node's claims are kept.
#[derive(Clone, Debug)]
pub struct LocalTerms {
    folder: Option<PathBuf>,
}

impl LocalTerms {
    /// Keeps them in the given directory, which is made if absent.
    ///
    /// * effects: blocks on the disk.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: Some(folder.to_owned()),
        })
    }

    /// Keeps nothing: for tests, in which every open has a new epoch.
    pub fn nowhere() -> Self {
        Self { folder: None }
    }

    /// The term last stored for a shard.
    ///
    /// * errors: `InvalidData` names the file when it is damaged.
    pub fn read(&self, shard: ShardId) -> io::Result<Option<Term>> {
        let Some(path) = self.path(shard) else {
            return Ok(None);
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || {
            let name = path.display();
            io::Error::new(io::ErrorKind::InvalidData, format!("{name} holds no term"))
        };
        let (epoch, inc) = text.trim_end().split_once('.').ok_or_else(damaged)?;
        let epoch = epoch.parse().map_err(|_| damaged())?;
        let inc = inc.parse().map_err(|_| damaged())?;
        Ok(Some(Term { epoch, inc }))
    }

    /// Stores a term; durable when it returns.
    pub fn write(&self, shard: ShardId, term: Term) -> io::Result<()> {
        let (Some(path), Some(folder)) = (self.path(shard), &self.folder) else {
            return Ok(());
        };
        let staged = path.with_extension("staged");
        let mut file = File::create(&staged)?;
        writeln!(file, "{term}")?;
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        File::open(folder)?.sync_all()
    }

    fn path(&self, shard: ShardId) -> Option<PathBuf> {
        self.folder
            .as_ref()
            .map(|folder| folder.join(format!("{shard}.term")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_term_is_read_back_and_rot_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let terms = LocalTerms::open(folder.path()).unwrap();
        let shard = ShardId(7);
        assert_eq!(terms.read(shard).unwrap(), None);
        for inc in 0..3 {
            terms.write(shard, Term { epoch: 5, inc }).unwrap();
        }
        assert_eq!(terms.read(shard).unwrap(), Some(Term { epoch: 5, inc: 2 }));
        fs::write(folder.path().join("7.term"), "5").unwrap();
        let error = terms.read(shard).unwrap_err();
        assert!(error.to_string().contains("7.term"), "{error}");
    }
}
