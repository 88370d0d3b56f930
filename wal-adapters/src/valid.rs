//! VALID, the one rule by which a leader, a follower, a child, a tool or a test accepts frames.
//!
//! ```text
//! cur = { term, writer, n, sealed } starts as the manifest's floor
//! cur.sealed                          → Skip, from here on     foreign incarnation → Broken
//! Claim: frame.term > cur.term        → counts: cur = { frame.term, frame.writer, 0, false }; else Skip
//! Rows | Mark | Seal: term = cur.term and writer = cur.writer and n > cur.n
//!                                     → witness holds, else Broken; cur.n = n; Apply; Seal: sealed
//!                     term > cur.term → Broken (rows before their Claim: the log has lost something)
//!                     otherwise       → Skip (zombie, duplicate, late)
//! ```
//!
//! # The witness
//!
//! `prev, prev_n` in a frame says: when it was made, its writer had accounted all below `prev`, and
//! its last accepted number there was `prev_n`. A reader holds that against its own account, which
//! is the list of (offset, n) it accepted from this writer:
//!
//! 1. `prev` above the frame's own place is impossible in one log: the log was cut and grew again.
//! 2. Otherwise the last n the reader accepted below `prev` must be `prev_n`. A smaller one is a
//!    hole: the log has lost a frame that its writer saw in it. A larger one is a frame its writer
//!    never saw there: two readers see different logs.
//! 3. A reader that began at a floor, or has dropped old entries, knows its account only from some
//!    offset `since` on, where the last n was `n_before`. For a `prev` below `since` it can only ask
//!    that `prev_n` is not above `n_before`.
//!
//! An n may be left out: of frames in flight together one may never land while the next does. The
//! frame after the gap was made before its writer knew, so its witness lies below the gap.
//!
//! The entries below an accepted `prev` are dropped, since later frames of the same writer carry the
//! same `prev` or a higher one. What stays is what the writer had in flight, bounded by
//! [`ACCOUNT_FRAMES_MAX`]; past that the oldest entries are dropped too, and rule 3 covers them.
//!
//! Never here: I/O, a clock, or a decision what to do about a verdict.

use std::collections::VecDeque;

use auxo_proto::ids::Term;
use serde::{Deserialize, Serialize};

use crate::{Frame, FrameKind, Offset};

/// Most accepted frames whose places are remembered to hold witnesses against.
pub const ACCOUNT_FRAMES_MAX: usize = 16_384;

/// What a reader carries from frame to frame; stored in the manifest as its `floor`, the state at
/// `flushed`. The default is the floor of a region nobody has claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cur {
    /// Term of the last Claim that counted.
    pub term: Term,
    /// Writer of that Claim.
    pub writer: u64,
    /// Last accepted number of that writer.
    pub n: u64,
    /// Whether a Seal was accepted: nothing after it counts.
    pub sealed: bool,
}

/// What the rule says of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A Claim that takes the region over: every frame of an older term behind it is dead.
    Counts,
    /// Rows, a Mark or a Seal of the current writer: part of the state.
    Apply,
    /// A zombie's, a duplicate, late, or behind a Seal: part of no state.
    Skip,
    /// The log is not one that correct writers and a correct service can produce. The shard is
    /// parked; a broken frame is never skipped.
    Broken(Breach),
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A frame of another incarnation of the shard's log.
    #[error("frame at {at} is of incarnation {found:x}")]
    Incarnation {
        /// Place of the frame.
        at: Offset,
        /// The incarnation it carries.
        found: u64,
    },
    /// Rows of a term whose Claim is not in the log.
    #[error("frame at {at} is of term {term}, whose Claim is missing")]
    Unclaimed {
        /// Place of the frame.
        at: Offset,
        /// Its term.
        term: Term,
    },
    /// The frame's writer had accounted offsets that lie above the frame.
    #[error("frame at {at} was made when the log reached {prev}")]
    Regrown {
        /// Place of the frame.
        at: Offset,
        /// What its writer had accounted.
        prev: Offset,
    },
    /// The frame's writer saw other frames below `prev` than this reader did.
    #[error("frame at {at}: below {prev} its writer saw number {prev_n}, here it is {seen}")]
    Hole {
        /// Place of the frame.
        at: Offset,
        /// What its writer had accounted.
        prev: Offset,
        /// The writer's last accepted number there.
        prev_n: u64,
        /// The last number this reader accepted there.
        seen: u64,
    },
    /// Offsets were fed in falling order, or one twice.
    #[error("frame at {at} came after the log was read up to {next}")]
    Disorder {
        /// Place of the frame.
        at: Offset,
        /// First offset not yet read.
        next: Offset,
    },
}

/// The rule with its state: fed with every frame of a region in order, it says what each one is.
///
/// ```
/// use auxo_proto::ids::Term;
/// use auxo_wal_adapters::{Acceptance, Cur, Frame, FrameKind, Verdict};
///
/// let claim = Frame {
///     kind: FrameKind::Claim,
///     incarnation: 7,
///     term: Term { epoch: 1, inc: 0 },
///     writer: 99,
///     n: 0,
///     prev: 0,
///     prev_n: 0,
///     payload: Default::default(),
/// };
/// let rows = Frame { kind: FrameKind::Rows, n: 1, prev: 1, ..claim.clone() };
/// let mut log = Acceptance::new(7, Cur::default(), 0);
/// assert_eq!(log.valid(0, &claim), Verdict::Counts);
/// assert_eq!(log.valid(1, &rows), Verdict::Apply);
/// assert_eq!(log.valid(2, &rows), Verdict::Skip);
/// assert_eq!(log.cur().n, 1);
/// ```
#[derive(Clone, Debug)]
pub struct Acceptance {
    incarnation: u64,
    cur: Cur,
    /// First offset that was not fed.
    next: Offset,
    account: Account,
    /// The first breach; every later answer repeats it.
    broken: Option<Breach>,
}

/// Where the numbers of the current writer were accepted, as far as later witnesses ask.
#[derive(Clone, Debug)]
struct Account {
    /// Entries are complete from here on.
    since: Offset,
    /// Last number accepted below `since`.
    n_before: u64,
    /// (offset, n) of accepted frames at `since` or above, rising in both.
    accepted: VecDeque<(Offset, u64)>,
}

impl Acceptance {
    /// A reader of the region of that incarnation that begins at `from`, where the state is `floor`.
    pub fn new(incarnation: u64, floor: Cur, from: Offset) -> Self {
        Self {
            incarnation,
            cur: floor,
            next: from,
            account: Account::since(from, floor.n),
            broken: None,
        }
    }

    /// The rule. Feed every frame of the region once, by rising offset.
    ///
    /// * effects: pure; after the first breach every answer repeats it.
    /// * source: docs/invariants.md, "What counts".
    pub fn valid(&mut self, offset: Offset, frame: &Frame) -> Verdict {
        if let Some(breach) = self.broken {
            return Verdict::Broken(breach);
        }
        match self.judge(offset, frame) {
            Ok(verdict) => {
                self.next = offset.saturating_add(1);
                verdict
            }
            Err(breach) => {
                self.broken = Some(breach);
                Verdict::Broken(breach)
            }
        }
    }

    /// The state behind the last frame fed: the floor of a manifest whose `flushed` is
    /// [`Acceptance::next`].
    pub fn cur(&self) -> Cur {
        self.cur
    }

    /// First offset that was not fed.
    pub fn next(&self) -> Offset {
        self.next
    }

    fn judge(&mut self, at: Offset, frame: &Frame) -> Result<Verdict, Breach> {
        if at < self.next {
            let next = self.next;
            return Err(Breach::Disorder { at, next });
        }
        if self.cur.sealed {
            return Ok(Verdict::Skip);
        }
        if frame.incarnation != self.incarnation {
            let found = frame.incarnation;
            return Err(Breach::Incarnation { at, found });
        }
        if frame.kind == FrameKind::Claim {
            if frame.term <= self.cur.term {
                return Ok(Verdict::Skip);
            }
            self.cur = Cur {
                term: frame.term,
                writer: frame.writer,
                n: 0,
                sealed: false,
            };
            self.account = Account::since(0, 0);
            return Ok(Verdict::Counts);
        }
        let current = frame.term == self.cur.term && frame.writer == self.cur.writer;
        if current && frame.n > self.cur.n {
            self.account.holds(at, frame)?;
            self.account.accept(at, frame);
            self.cur.n = frame.n;
            self.cur.sealed = frame.kind == FrameKind::Seal;
            return Ok(Verdict::Apply);
        }
        if frame.term > self.cur.term {
            let term = frame.term;
            return Err(Breach::Unclaimed { at, term });
        }
        Ok(Verdict::Skip)
    }
}

impl Account {
    fn since(since: Offset, n_before: u64) -> Self {
        Self {
            since,
            n_before,
            accepted: VecDeque::new(),
        }
    }

    /// The witness rule, by the numbers of this file's header.
    fn holds(&self, at: Offset, frame: &Frame) -> Result<(), Breach> {
        let (prev, prev_n) = (frame.prev, frame.prev_n);
        if prev > at {
            return Err(Breach::Regrown { at, prev });
        }
        let below = self.accepted.partition_point(|(offset, _)| *offset < prev);
        let seen = match below.checked_sub(1) {
            Some(last) => self.accepted[last].1,
            None => self.n_before,
        };
        let unknown = prev < self.since && prev_n < self.n_before;
        if prev_n == seen || unknown {
            return Ok(());
        }
        Err(Breach::Hole {
            at,
            prev,
            prev_n,
            seen,
        })
    }

    /// Enters an accepted frame and drops what no later witness can ask for.
    fn accept(&mut self, at: Offset, frame: &Frame) {
        if frame.prev > self.since {
            self.forget_below(frame.prev);
        }
        self.accepted.push_back((at, frame.n));
        if self.accepted.len() > ACCOUNT_FRAMES_MAX {
            self.forget_below(self.accepted[1].0);
        }
    }

    fn forget_below(&mut self, bound: Offset) {
        while let Some((_, n)) = self.accepted.pop_front_if(|(offset, _)| *offset < bound) {
            self.n_before = n;
        }
        self.since = bound;
    }
}

#[cfg(test)]
mod tests;
