//! The writer that is killed: a process of its own that says what was acknowledged, and its parent.
//!
//! Protocol: arguments `adapter place shard incarnation(hex)`; the child appends frames of known
//! content, eight in flight, and writes a line `n offset` for each acknowledged one, until it is
//! killed or nobody reads its lines. Never here: an acknowledgement before the adapter's.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Stdio;

use auxo_proto::random::Random;
use bytes::Bytes;

use super::ground::{Ground, at, ensure, read_all};
use super::{Done, Stop};
use crate::kafka::{KafkaSettings, KafkaWal};
use crate::local::{Disk, LocalSettings, LocalWal};
use crate::{Frame, FrameKind, Offset, RegionId, Wal};

/// Frames the child keeps in flight.
const IN_FLIGHT: usize = 8;

/// The child: appends until killed. The region exists, and what is in it is from earlier children.
///
/// * errors: arguments that name no adapter or region, or an adapter that fails; also when nobody
///   reads the lines any more.
pub async fn child_main(arguments: &[String]) -> Result<(), Stop> {
    let [adapter, place, shard, incarnation] = arguments else {
        return Err(Stop::failed("arguments: adapter place shard incarnation"));
    };
    let region = RegionId {
        shard: shard.parse().map_err(Stop::failed)?,
        incarnation: u64::from_str_radix(incarnation, 16).map_err(Stop::failed)?,
    };
    let wal: Box<dyn Wal> = match adapter.as_str() {
        "local" => {
            let settings = LocalSettings::default();
            Box::new(LocalWal::open(place, settings, Disk::real()).await?)
        }
        "kafka" => {
            let Some((cluster, bootstrap)) = place.split_once('@') else {
                return Err(Stop::failed("place of kafka: cluster@bootstrap"));
            };
            let settings = KafkaSettings {
                bootstrap: bootstrap.to_owned(),
                cluster: cluster.to_owned(),
                allow_weak: true,
                ..KafkaSettings::default()
            };
            Box::new(KafkaWal::open(settings, Random::from_system()).await?)
        }
        other => return Err(Stop::failed(format!("no child for adapter {other}"))),
    };
    let region_handle = wal.open(region).await?;
    let mut flight = VecDeque::new();
    let mut accounted = region_handle.end().await?.offset;
    for n in accounted + 1.. {
        let frame = frame(region, n, accounted);
        flight.push_back((n, region_handle.append(frame)));
        if flight.len() < IN_FLIGHT {
            continue;
        }
        if let Some((n, appending)) = flight.pop_front() {
            let at = at(appending).await?;
            accounted = at + 1;
            let mut out = io::stdout().lock();
            writeln!(out, "{n} {at}")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// The arguments that make [`child_main`] write to a region of that adapter.
///
/// * `place`: the directory of `local`, or `cluster@bootstrap` of `kafka`.
pub fn arguments(adapter: &str, place: &str, region: RegionId) -> [String; 4] {
    [
        adapter.to_owned(),
        place.to_owned(),
        region.shard.to_string(),
        format!("{:x}", region.incarnation),
    ]
}

/// Frame n as every child makes it.
fn frame(region: RegionId, n: u64, accounted: Offset) -> Frame {
    let length = (n * 7919 % 6000) as usize;
    let payload: Vec<u8> = (0..length).map(|at| (n as usize * 31 + at) as u8).collect();
    Frame {
        kind: FrameKind::Rows,
        incarnation: region.incarnation,
        term: auxo_proto::ids::Term { epoch: 1, inc: 0 },
        writer: 1,
        n,
        prev: accounted,
        prev_n: accounted,
        payload: Bytes::from(payload),
    }
}

/// The parent's account of its children, one after the other on one region.
pub(super) struct Killed {
    region: RegionId,
    command: std::process::Command,
    /// (n, offset) as the children said.
    pub(super) acked: Vec<(u64, Offset)>,
}

impl Killed {
    pub(super) async fn new(ground: &Ground) -> Result<Self, Stop> {
        let command = ground.subject.child(ground.id)?;
        ground.region().await?;
        ground.subject.leave().await?;
        Ok(Self {
            region: ground.id,
            command,
            acked: Vec::new(),
        })
    }

    /// Runs a child and kills it (SIGKILL) once it has said that many lines.
    pub(super) async fn after(&mut self, lines: usize) -> Done {
        let spawned = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = spawned?;
        let said = tokio::task::spawn_blocking(move || {
            let mut said = Vec::new();
            let out = child.stdout.take();
            let mut out = out.map(BufReader::new).into_iter().flat_map(BufRead::lines);
            for line in out.by_ref().take(lines) {
                said.push(line?);
            }
            child.kill()?;
            // What it said before it died counts as well.
            for line in out {
                said.push(line?);
            }
            child.wait()?;
            Ok::<_, io::Error>(said)
        });
        for line in said.await.map_err(Stop::failed)?? {
            let words = line.split_once(' ');
            let parsed = words.and_then(|(n, at)| Some((n.parse().ok()?, at.parse().ok()?)));
            let acked = parsed.ok_or_else(|| Stop::failed(format!("the child said {line:?}")))?;
            self.acked.push(acked);
        }
        Ok(())
    }

    /// Every acknowledged frame is there, and every frame that is there is whole.
    pub(super) async fn verify(&self, ground: &Ground) -> Done {
        let region = ground.join().await?;
        let seen = read_all(&region, 0).await?;
        for (index, (at, found)) in seen.iter().enumerate() {
            let whole = frame(self.region, found.n, found.prev).payload == found.payload;
            ensure(whole, || format!("frame {} at {at} is not whole", found.n))?;
            ensure(found.n == index as u64 + 1, || {
                format!("frame {} is the {index}th", found.n)
            })?;
        }
        for (n, at) in &self.acked {
            let there = seen
                .iter()
                .any(|(offset, frame)| offset == at && frame.n == *n);
            ensure(there, || format!("frame {n}, acked at {at}, is lost"))?;
        }
        Ok(())
    }
}
