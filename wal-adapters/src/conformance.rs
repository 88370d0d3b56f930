//! The suite that every adapter passes: 38 cases, one list, run over whatever an adapter offers.
//!
//! An adapter brings an [`Adapter`], which gives each case a [`Subject`] of its own: a service to join
//! and leave, and the trouble it can be put to. A case that asks for what an adapter cannot have ends
//! as [`Ended::NotApplicable`] with the reason; it is never silently passed.
//!
//! Rooms: this file (what a case is, and how the list is run), `append`, `read`, `truncate`, `service`
//! and `acceptance` (the cases), `ground` (what they share), [`child`] (the writer that is killed),
//! [`subjects`] (memory and local). Never here: a rule that only one adapter obeys.

use std::fmt;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auxo_proto::random::Random;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{AppendError, Durability, Offset, RegionId, Wal, WalError};

use ground::Ground;

mod acceptance;
mod append;
pub mod child;
mod ground;
mod read;
mod service;
pub mod subjects;
mod truncate;

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The adapter broke the contract.
    Failed(String),
    /// The adapter cannot be in the situation, and why.
    NotApplicable(String),
}

impl Stop {
    fn failed(what: impl fmt::Display) -> Self {
        Self::Failed(what.to_string())
    }

    fn not_applicable(why: &str) -> Self {
        Self::NotApplicable(why.to_owned())
    }
}

impl From<WalError> for Stop {
    fn from(error: WalError) -> Self {
        Self::failed(error)
    }
}

impl From<AppendError> for Stop {
    fn from(error: AppendError) -> Self {
        Self::failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::failed(error)
    }
}

type Done = Result<(), Stop>;

/// What a subject can be put to. Those that last until called off come in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing lands until `Resume`.
    Stall,
    /// Nothing of this region lands until `Resume`, of others it does.
    Slow,
    /// Ends `Stall` and `Slow`.
    Resume,
    /// The next append lands, or not, and its reply is lost.
    LoseReply {
        /// Whether it lands.
        landed: bool,
    },
    /// The next append says `Unknown` and lands at `LandLate`.
    Delay,
    /// What was delayed lands.
    LandLate,
    /// The next append is refused.
    Refuse,
    /// The service leaves out that many offsets before the next append.
    Hole {
        /// Offsets left out.
        width: u64,
    },
    /// No room for new bytes until `RoomAgain`.
    FullDisk,
    /// Ends `FullDisk`.
    RoomAgain,
    /// One bit of the frame at that offset flips.
    Rot {
        /// The frame's place.
        at: Offset,
    },
    /// Half a frame lies behind the end, as a crash in mid-write leaves it. Nobody has joined.
    Tear,
    /// The log loses everything from there on, behind its users' backs.
    Cut {
        /// The new end.
        to: Offset,
    },
    /// The service cannot be reached until `Back`.
    Away,
    /// Ends `Away`.
    Back,
}

/// One service with its data, made for one case.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The service as one more user sees it: another process where the adapter has many, else another
    /// handle of this one.
    async fn join(&self) -> Result<Arc<dyn Wal>, Stop>;

    /// Every user ends. Who joins then is a process started afterwards.
    async fn leave(&self) -> Result<(), Stop>;

    /// Makes the trouble, or says why it cannot happen to this adapter.
    async fn trouble(&self, region: RegionId, trouble: Trouble) -> Result<(), Stop>;

    /// What a service says of itself for each setting that would lose acknowledged frames or is out
    /// of its range: name of the setting, answer.
    async fn misconfigured(&self) -> Result<Vec<(String, Result<Durability, WalError>)>, Stop>;

    /// The program that runs [`child::child_main`] on that region of this service.
    fn child(&self, region: RegionId) -> Result<Command, Stop>;

    /// Changes of the disk so far; the power may fail after each.
    fn steps(&self) -> Result<usize, Stop>;

    /// The service as found after a power loss behind that many changes: only what was synced, or with
    /// dice also some of what was not.
    async fn after_power_loss(
        &self,
        steps: usize,
        torn: Option<&Random>,
    ) -> Result<Arc<dyn Wal>, Stop>;
}

/// Makes subjects of one adapter.
#[async_trait]
pub trait Adapter: Send + Sync {
    /// As it is shown in reports.
    fn name(&self) -> &'static str;

    /// A service without regions, for that case.
    async fn subject(&self, case: u8) -> Result<Arc<dyn Subject>, Stop>;
}

/// How much a run does; the default takes some seconds.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Seed of all dice.
    pub seed: u64,
    /// Power losses tried, each once clean and once torn.
    pub images: u32,
    /// Times the writer is killed.
    pub kills: u32,
    /// Operations compared with the reference.
    pub operations: u32,
    /// Idle regions that are open together.
    pub idle_regions: u32,
    /// How long the service stays away.
    pub away: Duration,
    /// Longest a case may take.
    pub deadline: Duration,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            seed: 1,
            images: 24,
            kills: 5,
            operations: 10_000,
            idle_regions: 10_000,
            away: Duration::from_millis(200),
            deadline: Duration::from_secs(120),
        }
    }
}

/// One case of the suite.
pub struct Case {
    /// Its number in the contract.
    pub number: u8,
    /// What it shows.
    pub name: &'static str,
    run: fn(&Ground) -> BoxFuture<'_, Done>,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It holds.
    Passed,
    /// The adapter cannot be in the situation, and why.
    NotApplicable(String),
    /// It does not hold, and what was seen.
    Failed(String),
}

/// A case and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's number.
    pub number: u8,
    /// What it shows.
    pub name: &'static str,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, name, .. } = self;
        match &self.ended {
            Ended::Passed => write!(f, "{number:2} {name}: passed ({:.1?})", self.took),
            Ended::NotApplicable(why) => write!(f, "{number:2} {name}: not applicable: {why}"),
            Ended::Failed(what) => write!(f, "{number:2} {name}: FAILED: {what}"),
        }
    }
}

/// Runs the cases that `wanted` picks, one after the other, each on a subject of its own.
pub async fn run(
    adapter: &dyn Adapter,
    scale: &Scale,
    wanted: impl Fn(&Case) -> bool,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for case in cases().into_iter().filter(wanted) {
        let began = Instant::now();
        let run = tokio::time::timeout(scale.deadline, run_case(adapter, scale, &case));
        let ended = match run.await {
            Ok(Ok(())) => Ended::Passed,
            Ok(Err(Stop::NotApplicable(why))) => Ended::NotApplicable(why),
            Ok(Err(Stop::Failed(what))) => Ended::Failed(what),
            Err(_) => Ended::Failed(format!("did not end within {:?}", scale.deadline)),
        };
        outcomes.push(Outcome {
            number: case.number,
            name: case.name,
            ended,
            took: began.elapsed(),
        });
    }
    outcomes
}

async fn run_case(adapter: &dyn Adapter, scale: &Scale, case: &Case) -> Done {
    let random = Random::seeded(scale.seed.wrapping_add(u64::from(case.number)));
    let ground = Ground {
        subject: adapter.subject(case.number).await?,
        id: RegionId {
            shard: u64::from(case.number),
            incarnation: random.next_u64(),
        },
        random,
        scale: scale.clone(),
    };
    let ended = (case.run)(&ground).await;
    ground.subject.leave().await?;
    ended
}

/// All cases by number.
pub fn cases() -> Vec<Case> {
    macro_rules! case {
        ($number:literal, $name:literal, $run:path) => {
            Case {
                number: $number,
                name: $name,
                run: |ground| Box::pin($run(ground)),
            }
        };
    }
    vec![
        case!(1, "read back the same bytes", append::read_back),
        case!(2, "10 k from one handle rise", append::rise),
        case!(
            3,
            "four users, one order for all readers",
            append::one_order
        ),
        case!(4, "1 B, 8 MiB, and one byte more", append::sizes),
        case!(5, "a dropped future lands", append::dropped_future),
        case!(6, "a full queue is busy at once", append::full_queue),
        case!(7, "kill -9 after At: still there", append::killed_after),
        case!(8, "kill -9 during: whole or absent", append::killed_during),
        case!(9, "power loss keeps all At", append::power_loss),
        case!(10, "a lost reply is never Refused", append::lost_reply),
        case!(11, "Refused never shows up later", append::refused),
        case!(12, "a full disk says so and recovers", append::full_disk),
        case!(13, "an empty region answers within wait", read::empty),
        case!(14, "a tail wakes within 50 ms", read::tail_wakes),
        case!(15, "a read spans holes", read::holes),
        case!(16, "below start: OutOfRange with start", read::below_start),
        case!(17, "a flipped bit: Corrupt there", read::flipped_bit),
        case!(
            18,
            "torn tail cut, rotten middle Corrupt",
            read::torn_or_rotten
        ),
        case!(19, "end covers every acked offset", read::end_covers),
        case!(20, "a log cut behind the handle: Regressed", read::cut),
        case!(
            21,
            "a region remade: no ack on the old handle",
            read::remade
        ),
        case!(
            22,
            "truncate anywhere, again, lower, above",
            truncate::bounds
        ),
        case!(
            23,
            "truncate everything, reopen, append",
            truncate::everything
        ),
        case!(24, "truncate racing read, tail, open", truncate::racing),
        case!(
            25,
            "create and remove twice, open never creates",
            service::idempotent
        ),
        case!(
            26,
            "each wrong setting fails by name",
            service::misconfigured
        ),
        case!(27, "away: Unavailable, recovers alone", service::away),
        case!(28, "slow: bounded, other regions unaffected", service::slow),
        case!(29, "10 k idle regions without a thread each", service::idle),
        case!(
            30,
            "eight racing Claims: one counts",
            acceptance::racing_claims
        ),
        case!(31, "zombie frames are skipped", acceptance::zombies),
        case!(32, "a Claim twice counts once", acceptance::claim_twice),
        case!(
            33,
            "duplicate and late frames give one row",
            acceptance::duplicates
        ),
        case!(
            34,
            "re-claim settles as a full re-read says",
            acceptance::reclaim
        ),
        case!(
            35,
            "an old Seal is skipped, a valid one ends all",
            acceptance::seals
        ),
        case!(36, "floor over truncation, term and n", acceptance::floor),
        case!(37, "a broken witness is Broken", acceptance::witness),
        case!(
            38,
            "random operations equal memory's",
            acceptance::like_memory
        ),
    ]
}
