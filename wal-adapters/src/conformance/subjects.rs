//! The adapters of this crate as subjects of the suite.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use auxo_proto::random::Random;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Adapter, Stop, Subject, Trouble, child};
use crate::local::{Disk, LocalSettings, LocalWal, Tape};
use crate::memory::{Fault, MemoryWal};
use crate::{Durability, Frame, Offset, RegionId, Wal, WalError};

/// The reference in memory.
pub struct Memory;

#[async_trait]
impl Adapter for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn subject(&self, _case: u8) -> Result<Arc<dyn Subject>, Stop> {
        Ok(Arc::new(MemoryWal::default()))
    }
}

#[async_trait]
impl Subject for MemoryWal {
    async fn join(&self) -> Result<Arc<dyn Wal>, Stop> {
        Ok(Arc::new(self.clone()))
    }

    async fn leave(&self) -> Result<(), Stop> {
        Ok(())
    }

    async fn trouble(&self, region: RegionId, trouble: Trouble) -> Result<(), Stop> {
        match trouble {
            Trouble::Stall | Trouble::Slow => self.stall(region, true)?,
            Trouble::Resume => self.stall(region, false)?,
            Trouble::LoseReply { landed: true } => self.inject(region, Fault::ReplyLost)?,
            Trouble::LoseReply { landed: false } => self.inject(region, Fault::FrameLost)?,
            Trouble::Delay => self.inject(region, Fault::Late { after: 1_000_000 })?,
            Trouble::LandLate => self.land_late(region)?,
            Trouble::Refuse => self.inject(region, Fault::Unavailable)?,
            Trouble::Hole { width } => self.inject(region, Fault::Hole { width })?,
            Trouble::Rot { at } => self.rot(region, at)?,
            Trouble::Cut { to } => self.regress(region, to)?,
            Trouble::Away => MemoryWal::away(self, true),
            Trouble::Back => MemoryWal::away(self, false),
            Trouble::FullDisk | Trouble::RoomAgain => {
                return Err(Stop::not_applicable("memory has no disk to fill"));
            }
            Trouble::Tear => {
                return Err(Stop::not_applicable(
                    "memory keeps frames, not bytes to tear",
                ));
            }
        }
        Ok(())
    }

    async fn misconfigured(&self) -> Result<Vec<(String, Result<Durability, WalError>)>, Stop> {
        Err(Stop::not_applicable(
            "no setting of memory can lose a frame",
        ))
    }

    fn child(&self, _region: RegionId) -> Result<Command, Stop> {
        Err(Stop::not_applicable("memory ends with its process"))
    }

    fn steps(&self) -> Result<usize, Stop> {
        Err(Stop::not_applicable("memory has no disk"))
    }

    async fn after_power_loss(
        &self,
        _steps: usize,
        _torn: Option<&Random>,
    ) -> Result<Arc<dyn Wal>, Stop> {
        Err(Stop::not_applicable("memory has no disk"))
    }
}

/// The local WAL, in directories made below one that is empty.
pub struct Local {
    /// Where the directories are made.
    pub root: PathBuf,
    /// The program and its first arguments that run [`child::child_main`] with those that follow.
    pub child: Vec<String>,
}

#[async_trait]
impl Adapter for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn subject(&self, case: u8) -> Result<Arc<dyn Subject>, Stop> {
        let place = self.root.join(format!("case-{case:02}"));
        let dir = place.join("wal");
        std::fs::create_dir_all(&dir)?;
        Ok(Arc::new(LocalSubject {
            tape: Arc::new(Tape::new(&dir)),
            dir,
            images: place,
            child: self.child.clone(),
            open: Mutex::default(),
        }))
    }
}

struct LocalSubject {
    dir: PathBuf,
    tape: Arc<Tape>,
    /// Where images of power losses are built.
    images: PathBuf,
    child: Vec<String>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    wal: Option<Arc<LocalWal>>,
    image: Option<(PathBuf, Arc<LocalWal>)>,
    images: usize,
    /// Another process writes too, so the tape is no longer all that happened.
    shared: bool,
}

/// Small segments, so that every case sees several.
fn settings() -> LocalSettings {
    LocalSettings {
        segment_bytes: 256 << 10,
        ..LocalSettings::default()
    }
}

impl LocalSubject {
    async fn close_image(&self) -> Result<(), Stop> {
        let image = self.open.lock().image.take();
        if let Some((dir, wal)) = image {
            wal.close().await?;
            std::fs::remove_dir_all(dir)?;
        }
        Ok(())
    }

    /// The segment that holds the frame at that offset and the byte where it begins; with `None` the
    /// last segment and the byte behind its last frame.
    fn find(&self, region: RegionId, at: Option<Offset>) -> Result<(PathBuf, usize), Stop> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(self.dir.join(region.to_string()))? {
            let path = entry?.path();
            let first = path.file_name().and_then(|name| name.to_str());
            let first: Offset = first
                .and_then(|name| name.parse().ok())
                .ok_or_else(|| Stop::failed("a file that is no segment"))?;
            segments.push((first, path));
        }
        segments.sort();
        let holds = |(first, _): &(Offset, PathBuf)| at.is_none_or(|at| *first <= at);
        let (first, path) = segments
            .into_iter()
            .rfind(holds)
            .ok_or_else(|| Stop::failed("no segment"))?;
        let content = Bytes::from(std::fs::read(&path)?);
        let (mut offset, mut byte) = (first, 0);
        while at != Some(offset) {
            match Frame::decode(&content.slice(byte..)) {
                Ok(frame) => byte += frame.encoded_len(),
                Err(_) if at.is_none() => break,
                Err(error) => return Err(Stop::failed(error)),
            }
            offset += 1;
        }
        Ok((path, byte))
    }
}

/// Overwrites bytes of a file from outside the adapter, as a failing disk would.
fn overwrite(path: &Path, at: usize, with: &[u8]) -> Result<(), Stop> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    Ok(file.write_all_at(with, at as u64)?)
}

#[async_trait]
impl Subject for LocalSubject {
    async fn join(&self) -> Result<Arc<dyn Wal>, Stop> {
        if let Some(wal) = &self.open.lock().wal {
            return Ok(wal.clone());
        }
        let disk = match self.open.lock().shared {
            true => Disk::real(),
            false => Disk::recording(self.tape.clone()),
        };
        let wal = Arc::new(LocalWal::open(&self.dir, settings(), disk).await?);
        self.open.lock().wal = Some(wal.clone());
        Ok(wal)
    }

    async fn leave(&self) -> Result<(), Stop> {
        let wal = self.open.lock().wal.take();
        if let Some(wal) = wal {
            wal.close().await?;
        }
        self.close_image().await
    }

    async fn trouble(&self, region: RegionId, trouble: Trouble) -> Result<(), Stop> {
        match trouble {
            Trouble::Slow => {
                return Err(Stop::not_applicable(
                    "one disk and one commit thread serve all regions: a slow disk is slow for each",
                ));
            }
            Trouble::Stall => self.tape.hold_syncs(true),
            Trouble::Resume => self.tape.hold_syncs(false),
            // The sync fails, and so does the cut that would take the frame back.
            Trouble::LoseReply { .. } => self.tape.fail_syncs(2),
            Trouble::Refuse => self.tape.fail_syncs(1),
            Trouble::FullDisk => self.tape.limit_space(Some(0)),
            Trouble::RoomAgain => self.tape.limit_space(None),
            Trouble::Rot { at } => {
                let (path, byte) = self.find(region, Some(at))?;
                let content = std::fs::read(&path)?;
                let byte = byte + crate::frame::HEADER_BYTES + 3;
                overwrite(&path, byte, &[content[byte] ^ 0x10])?;
            }
            Trouble::Tear => {
                let (path, byte) = self.find(region, None)?;
                let first = Frame::decode(&std::fs::read(&path)?.into()).map_err(Stop::failed)?;
                let half = first.encode().slice(..first.encoded_len() / 2);
                overwrite(&path, byte, &half)?;
            }
            Trouble::Cut { to } => {
                let (path, byte) = self.find(region, Some(to))?;
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                file.set_len(byte as u64)?;
            }
            Trouble::Delay | Trouble::LandLate => {
                return Err(Stop::not_applicable("a local frame lands or never does"));
            }
            Trouble::Hole { .. } => return Err(Stop::not_applicable("local offsets are dense")),
            Trouble::Away | Trouble::Back => {
                return Err(Stop::not_applicable(
                    "the service is this process, it cannot be away from itself",
                ));
            }
        }
        Ok(())
    }

    async fn misconfigured(&self) -> Result<Vec<(String, Result<Durability, WalError>)>, Stop> {
        let right = LocalSettings::default;
        let wrong = [
            (
                "segment_bytes",
                LocalSettings {
                    segment_bytes: 0,
                    ..right()
                },
            ),
            (
                "region_queue_frames",
                LocalSettings {
                    region_queue_frames: 0,
                    ..right()
                },
            ),
            (
                "region_queue_bytes",
                LocalSettings {
                    region_queue_bytes: 8 << 20,
                    ..right()
                },
            ),
            (
                "queue_bytes",
                LocalSettings {
                    queue_bytes: 9 << 20,
                    ..right()
                },
            ),
        ];
        let mut told = Vec::new();
        for (name, settings) in wrong {
            let answer = LocalWal::open(self.images.join("wrong"), settings, Disk::real()).await;
            told.push((name.to_owned(), answer.map(|_| Durability::Disk)));
        }
        // The directory is locked by who has joined.
        let second = LocalWal::open(&self.dir, right(), Disk::real()).await;
        let pid = format!("in use by process {}", std::process::id());
        told.push((pid, second.map(|_| Durability::Disk)));
        Ok(told)
    }

    fn child(&self, region: RegionId) -> Result<Command, Stop> {
        let Some((program, arguments)) = self.child.split_first() else {
            return Err(Stop::not_applicable(
                "no program to run the child was given",
            ));
        };
        self.open.lock().shared = true;
        let place = self.dir.to_string_lossy();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(child::arguments("local", &place, region));
        Ok(command)
    }

    fn steps(&self) -> Result<usize, Stop> {
        Ok(self.tape.steps())
    }

    async fn after_power_loss(
        &self,
        steps: usize,
        torn: Option<&Random>,
    ) -> Result<Arc<dyn Wal>, Stop> {
        self.close_image().await?;
        let dir = {
            let mut open = self.open.lock();
            open.images += 1;
            self.images.join(format!("image-{}", open.images))
        };
        std::fs::create_dir(&dir)?;
        self.tape.image(steps, torn, &dir)?;
        let wal = Arc::new(LocalWal::open(&dir, settings(), Disk::real()).await?);
        self.open.lock().image = Some((dir, wal.clone()));
        Ok(wal)
    }
}
