//! What only the local WAL promises: its files, its lock, and what it does when the disk fails.

use std::collections::BTreeMap;

use auxo_proto::ids::Term;
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{FrameKind, Placed};

const ID: RegionId = RegionId {
    shard: 7,
    incarnation: 0x1122_3344_5566_7788,
};

const SMALL: LocalSettings = LocalSettings {
    segment_bytes: 4096,
    region_queue_frames: 1024,
    region_queue_bytes: 32 << 20,
    queue_bytes: 256 << 20,
};

/// A directory with a tape, and the WAL in it that is open.
struct Place {
    temp: TempDir,
    tape: Arc<Tape>,
    wal: LocalWal,
}

impl Place {
    async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let tape = Arc::new(Tape::new(temp.path()));
        let wal = open(temp.path(), &tape).await;
        wal.create(ID).await.unwrap();
        Self { temp, tape, wal }
    }

    async fn region(&self) -> Arc<dyn Region> {
        self.wal.open(ID).await.unwrap()
    }

    async fn restart(&mut self) -> Arc<dyn Region> {
        self.wal.close().await.unwrap();
        self.wal = open(self.temp.path(), &self.tape).await;
        self.region().await
    }

    fn segment(&self, first: Offset) -> PathBuf {
        segment_path(&self.temp.path().join(ID.to_string()), first)
    }
}

async fn open(dir: &Path, tape: &Arc<Tape>) -> LocalWal {
    let disk = Disk::recording(tape.clone());
    LocalWal::open(dir, SMALL, disk).await.unwrap()
}

/// Frame n at offset n, made when all below was accounted; 1500 bytes of payload, so that two fit
/// into a segment.
fn frame(n: u64) -> Frame {
    Frame {
        kind: FrameKind::Rows,
        incarnation: ID.incarnation,
        term: Term { epoch: 1, inc: 0 },
        writer: 9,
        n: n + 1,
        prev: n,
        prev_n: n,
        payload: Bytes::from(vec![n as u8; 1500]),
    }
}

async fn send(region: &Arc<dyn Region>, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert_eq!(region.append(frame(n)).await.unwrap(), Placed::At(n));
    }
}

/// Numbers of the frames from `from` on, and what ended the reading.
async fn read(region: &Arc<dyn Region>, from: Offset) -> (Vec<u64>, Option<WalError>) {
    let (mut seen, mut next) = (Vec::new(), from);
    loop {
        match region.read(next, 1 << 20, Duration::ZERO).await {
            Err(error) => return (seen, Some(error)),
            Ok(chunk) if chunk.next == next => return (seen, None),
            Ok(chunk) => {
                for (at, found) in &chunk.frames {
                    assert_eq!(*found, frame(found.n - 1), "at {at}");
                    seen.push(found.n - 1);
                }
                next = chunk.next;
            }
        }
    }
}

/// Waits until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    let hold = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, hold).await.unwrap();
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    });
    entries.collect()
}

/// Below this package's folder, in which cargo runs its tests.
fn golden() -> PathBuf {
    PathBuf::from("testdata/segment-1")
}

#[tokio::test]
async fn golden_segments_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join(ID.to_string());
    std::fs::create_dir(&dir).unwrap();
    for (name, content) in files(&golden()) {
        std::fs::write(dir.join(name), content).unwrap();
    }
    let wal = LocalWal::open(temp.path(), SMALL, Disk::real()).await;
    let region = wal.unwrap().open(ID).await.unwrap();
    assert_eq!(read(&region, 0).await.0, [0, 1, 2]);
}

#[tokio::test]
async fn frames_become_the_golden_segments() {
    let place = Place::new().await;
    send(&place.region().await, 0..3).await;
    let made = files(&place.temp.path().join(ID.to_string()));
    assert!(made == files(&golden()), "{:?}", made.keys());
}

#[tokio::test]
async fn what_waits_together_is_one_write_and_one_sync() {
    let temp = tempfile::tempdir().unwrap();
    let tape = Arc::new(Tape::new(temp.path()));
    let disk = Disk::recording(tape.clone());
    let wal = LocalWal::open(temp.path(), LocalSettings::default(), disk).await;
    let wal = wal.unwrap();
    wal.create(ID).await.unwrap();
    let region = wal.open(ID).await.unwrap();
    send(&region, 0..1).await;
    let before = tape.steps();
    tape.hold_syncs(true);
    let first = region.append(frame(1));
    until(|| tape.steps() == before + 1).await;
    let waiting: Vec<_> = (2..100).map(|n| region.append(frame(n))).collect();
    tape.hold_syncs(false);
    assert_eq!(first.await.unwrap(), Placed::At(1));
    for (appending, n) in waiting.into_iter().zip(2..) {
        assert_eq!(appending.await.unwrap(), Placed::At(n));
    }
    // A write and a sync for the first, and a write and a sync for all that waited for it.
    assert_eq!(tape.steps(), before + 4);
}

#[tokio::test]
async fn a_region_that_floods_leaves_room_for_others() {
    let place = Place::new().await;
    let other = RegionId { shard: 8, ..ID };
    place.wal.create(other).await.unwrap();
    let other = place.wal.open(other).await.unwrap();
    let region = place.region().await;
    place.tape.hold_syncs(true);
    let waiting: Vec<_> = (0..1024).map(|n| region.append(frame(n))).collect();
    let refused = region.append(frame(1024)).await;
    let of_other = other.append(frame(0));
    place.tape.hold_syncs(false);
    assert!(matches!(refused, Err(AppendError::Refused(WalError::Busy))));
    assert_eq!(of_other.await.unwrap(), Placed::At(0));
    for (appending, n) in waiting.into_iter().zip(0..) {
        assert_eq!(appending.await.unwrap(), Placed::At(n));
    }
}

#[tokio::test]
async fn a_failed_sync_refuses_its_frames_and_the_next_go_on() {
    for before in 0..4 {
        let mut place = Place::new().await;
        let region = place.region().await;
        send(&region, 0..before).await;
        place.tape.fail_syncs(1);
        let refused = region.append(frame(99)).await;
        assert!(
            matches!(refused, Err(AppendError::Refused(WalError::Unavailable))),
            "behind {before} frames: {refused:?}"
        );
        send(&region, before..before + 5).await;
        let region = place.restart().await;
        let all: Vec<u64> = (0..before + 5).collect();
        assert_eq!(read(&region, 0).await.0, all);
    }
}

#[tokio::test]
async fn a_cut_that_fails_parks_the_region_and_what_is_durable_stays_readable() {
    let mut place = Place::new().await;
    let region = place.region().await;
    send(&region, 0..3).await;
    place.tape.fail_syncs(2);
    let told = region.append(frame(3)).await;
    assert!(matches!(told, Err(AppendError::Unknown(WalError::Io(_)))));
    let told = region.append(frame(3)).await;
    assert!(matches!(told, Err(AppendError::Refused(WalError::Io(_)))));
    assert!(matches!(region.end().await, Err(WalError::Io(_))));
    assert!(matches!(region.truncate(1).await, Err(WalError::Io(_))));
    let (seen, ended) = read(&region, 0).await;
    assert_eq!(seen, [0, 1, 2]);
    assert!(matches!(ended, Some(WalError::Io(_))));
    let region = place.restart().await;
    send(&region, 3..4).await;
    assert_eq!(read(&region, 0).await.0, [0, 1, 2, 3]);
}

#[tokio::test]
async fn frames_that_a_killed_process_had_not_synced_last_once_they_are_shown() {
    let mut place = Place::new().await;
    let region = place.region().await;
    send(&region, 0..1).await;
    place.wal.close().await.unwrap();
    // As if killed between write and sync, in a segment whose name was not synced either.
    let disk = Disk::recording(place.tape.clone());
    let last = disk.open(&place.segment(0)).unwrap();
    let bytes = frame(0).encoded_len() as u64;
    last.set_len(bytes).unwrap();
    last.sync().unwrap();
    let next = disk.create(&place.segment(1), 4096).unwrap();
    next.write_at(&frame(1).encode(), 0).unwrap();
    let region = place.restart().await;
    assert_eq!(read(&region, 0).await.0, [0, 1]);

    let image = tempfile::tempdir().unwrap();
    let steps = place.tape.steps();
    place.tape.image(steps, None, image.path()).unwrap();
    let wal = LocalWal::open(image.path(), SMALL, Disk::real()).await;
    let region = wal.unwrap().open(ID).await.unwrap();
    assert_eq!(read(&region, 0).await.0, [0, 1]);
}

/// Changes a closed region's file and opens it again: what is read, and what ends the reading.
async fn damaged(frames: u64, damage: impl FnOnce(&Place)) -> (Vec<u64>, Option<WalError>) {
    let mut place = Place::new().await;
    send(&place.region().await, 0..frames).await;
    place.wal.close().await.unwrap();
    damage(&place);
    let region = place.restart().await;
    read(&region, 0).await
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = std::fs::read(path).unwrap();
    change(&mut content);
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn damage_in_an_older_segment_is_corrupt_there() {
    let length = frame(0).encoded_len();
    let flipped = damaged(6, |place| {
        change(&place.segment(2), |content| content[length + 100] ^= 1);
    });
    assert!(matches!(
        flipped.await,
        (seen, Some(WalError::Corrupt { at: 3 })) if seen == [0, 1, 2]
    ));
    let shorter = damaged(6, |place| {
        change(&place.segment(2), |content| content.truncate(length));
    });
    assert!(matches!(
        shorter.await,
        (seen, Some(WalError::Corrupt { at: 3 })) if seen == [0, 1, 2]
    ));
    let missing = damaged(6, |place| {
        std::fs::remove_file(place.segment(2)).unwrap();
    });
    assert!(matches!(
        missing.await,
        (seen, Some(WalError::Corrupt { at: 2 })) if seen == [0, 1]
    ));
}

#[tokio::test]
async fn the_rest_of_a_torn_write_is_cut_whatever_it_holds() {
    // A payload that looks like a frame of another region, made far above.
    let mut trap = frame(1000);
    trap.incarnation = 1;
    let trap = trap.encode();
    for torn in [vec![1], vec![0, 0, 1], trap.to_vec()] {
        let (seen, ended) = damaged(1, |place| {
            let end = frame(0).encoded_len();
            change(&place.segment(0), |content| {
                content[end + 1..end + 1 + torn.len()].copy_from_slice(&torn);
            });
        })
        .await;
        assert_eq!(seen, [0]);
        assert!(ended.is_none());
    }
}

#[tokio::test]
async fn a_whole_frame_behind_a_torn_one_never_comes_back() {
    let mut place = Place::new().await;
    send(&place.region().await, 0..1).await;
    place.wal.close().await.unwrap();
    // Of the region's first group of two the first was torn, so neither was answered.
    let second = Frame {
        prev: 0,
        prev_n: 0,
        ..frame(1)
    };
    let length = second.encoded_len();
    change(&place.segment(0), |content| {
        content[..length].fill(0);
        content[length..2 * length].copy_from_slice(&second.encode());
    });
    let region = place.restart().await;
    assert_eq!(read(&region, 0).await.0, [0; 0]);
    // What is sent now takes exactly the torn one's place.
    send(&region, 0..1).await;
    let region = place.restart().await;
    assert_eq!(read(&region, 0).await.0, [0]);
}

#[tokio::test]
async fn a_later_frame_that_knew_the_lost_place_says_it_is_rot() {
    let length = frame(0).encoded_len();
    let (seen, ended) = damaged(2, |place| {
        change(&place.segment(0), |content| content[..length].fill(0));
    })
    .await;
    assert_eq!(seen, [0; 0]);
    assert!(matches!(ended, Some(WalError::Corrupt { at: 0 })));
}

#[tokio::test]
async fn frames_of_a_newer_program_are_refused_and_left_alone() {
    let mut place = Place::new().await;
    send(&place.region().await, 0..2).await;
    place.wal.close().await.unwrap();
    let length = frame(0).encoded_len();
    change(&place.segment(0), |content| content[length + 4] = 2);
    let before = std::fs::read(place.segment(0)).unwrap();
    place.wal = open(place.temp.path(), &place.tape).await;
    let refused = place.wal.open(ID).await.map(drop);
    assert!(
        matches!(&refused, Err(WalError::Misconfigured(what)) if what.contains("version 2")),
        "{refused:?}"
    );
    assert!(std::fs::read(place.segment(0)).unwrap() == before);
}

#[tokio::test]
async fn a_removal_that_a_crash_broke_off_is_finished_at_the_next_start() {
    let mut place = Place::new().await;
    send(&place.region().await, 0..3).await;
    place.wal.close().await.unwrap();
    let doomed = place.temp.path().join(format!("{ID}{REMOVED}"));
    let disk = Disk::recording(place.tape.clone());
    let dir = place.temp.path().join(ID.to_string());
    disk.rename(&dir, &doomed).unwrap();
    place.wal = open(place.temp.path(), &place.tape).await;
    assert!(!doomed.exists());
    assert!(matches!(
        place.wal.open(ID).await.map(drop),
        Err(WalError::Missing)
    ));
    place.wal.create(ID).await.unwrap();
    send(&place.region().await, 0..1).await;
}

#[tokio::test]
async fn a_closed_wal_answers_unavailable_and_lets_go_of_the_directory() {
    let place = Place::new().await;
    let region = place.region().await;
    let waiting: Vec<_> = (0..50).map(|n| region.append(frame(n))).collect();
    place.wal.close().await.unwrap();
    place.wal.close().await.unwrap();
    for (appending, n) in waiting.into_iter().zip(0..) {
        assert_eq!(appending.await.unwrap(), Placed::At(n));
    }
    let told = region.append(frame(50)).await;
    assert!(matches!(
        told,
        Err(AppendError::Refused(WalError::Unavailable))
    ));
    assert!(matches!(region.end().await, Err(WalError::Unavailable)));
    let (seen, ended) = read(&region, 0).await;
    assert!(seen.is_empty() && matches!(ended, Some(WalError::Unavailable)));
    assert!(matches!(
        place.wal.create(ID).await,
        Err(WalError::Unavailable)
    ));
    let again = open(place.temp.path(), &place.tape).await;
    let region = again.open(ID).await.unwrap();
    assert_eq!(read(&region, 0).await.0.len(), 50);
}

#[tokio::test]
async fn a_dropped_wal_commits_what_waits_and_lets_go_of_the_directory() {
    let Place { temp, tape, wal } = Place::new().await;
    let region = wal.open(ID).await.unwrap();
    let last = region.append(frame(0));
    drop((wal, region));
    assert_eq!(last.await.unwrap(), Placed::At(0));
    let again = async {
        loop {
            let disk = Disk::recording(tape.clone());
            if let Ok(wal) = LocalWal::open(temp.path(), SMALL, disk).await {
                return wal;
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(30), again).await;
    let region = again.unwrap().open(ID).await.unwrap();
    assert_eq!(read(&region, 0).await.0, [0]);
}

#[tokio::test]
async fn reads_begin_anywhere_in_a_long_segment() {
    let temp = tempfile::tempdir().unwrap();
    for restarted in [false, true] {
        let settings = LocalSettings::default();
        let wal = LocalWal::open(temp.path(), settings, Disk::real());
        let wal = wal.await.unwrap();
        wal.create(ID).await.unwrap();
        let region = wal.open(ID).await.unwrap();
        if !restarted {
            let waiting: Vec<_> = (0..1000).map(|n| region.append(frame(n))).collect();
            for appending in waiting {
                appending.await.unwrap();
            }
        }
        for from in (0..1000).rev().step_by(97) {
            let chunk = region.read(from, 5000, Duration::ZERO).await.unwrap();
            let seen: Vec<u64> = chunk.frames.iter().map(|(at, _)| *at).collect();
            let expected: Vec<u64> = (from..1000).take(3).collect();
            assert_eq!(seen, expected);
            assert_eq!(chunk.frames[0].1, frame(from));
        }
        wal.close().await.unwrap();
    }
}

#[test]
fn an_image_holds_what_was_synced_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let tape = Arc::new(Tape::new(temp.path()));
    let disk = Disk::recording(tape.clone());
    let dir = temp.path().join("dir");
    disk.make_dir(&dir).unwrap();
    disk.sync_dir(temp.path()).unwrap();
    let kept = disk.create(&dir.join("kept"), 4).unwrap();
    kept.write_at(b"old", 0).unwrap();
    kept.sync().unwrap();
    disk.sync_dir(&dir).unwrap();
    kept.write_at(b"new", 0).unwrap();
    let lost = disk.create(&dir.join("lost"), 4).unwrap();
    lost.sync().unwrap();
    disk.remove_file(&dir.join("kept")).unwrap();

    let image = |steps: usize| {
        let image = tempfile::tempdir().unwrap();
        tape.image(steps, None, image.path()).unwrap();
        let dir = image.path().join("dir");
        dir.exists().then(|| files(&dir))
    };
    let kept = |content: &[u8]| Some(BTreeMap::from([("kept".to_owned(), content.to_vec())]));
    assert_eq!(image(1), None);
    assert_eq!(image(2), Some(BTreeMap::new()));
    assert_eq!(image(tape.steps()), kept(b"old\0"));
    disk.sync_dir(&dir).unwrap();
    let lost = Some(BTreeMap::from([("lost".to_owned(), vec![0; 4])]));
    assert_eq!(image(tape.steps()), lost);
}
