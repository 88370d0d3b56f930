//! The loop around the decisions: writes what they say to write, has done what they say to do, and
//! gives every caller an answer.
//!
//! Callers are answered from the model: a procedure's end is a key, so it makes no difference which
//! leader brought it there.
//!
//! Never here: what a step does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ddl::DdlRequest;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::ProcedureId;
use auxo_proto::pb::meta::{self, Order};
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::record::{self, TakenUp};
use super::{Around, Kind, Move, NotYet, Progress, Step, TRIES, Task, answered, decide};
use crate::keys::Key;
use crate::model::change::Change;
use crate::model::values::{Done, KeptFailure, Outcome, Procedure, ProcedureState, Verdict};
use crate::reign::{Reign, WriteError};
use crate::sessions::{OrderFailure, Sessions};

/// Steps whose orders are out at once.
const ACTING_MAX: usize = 128;
/// Orders of one step that are out at once.
const ORDERS_MAX: usize = 64;
/// First and longest pause before a step is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Longest that something waits for the model to change before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Called before and after each txn of a procedure, with `{kind}.{step}.{before or after}`; a test
/// that answers `true` ends the reign there, as a crash would.
pub type Trap = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What a caller is told of a change it asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is in the model.
    Done {
        /// The procedure that did it; `None` if one txn did, or nothing had to be done.
        procedure: Option<ProcedureId>,
        /// What it left.
        done: Done,
    },
    /// The caller's time ran out; it goes on.
    Pending(ProcedureId),
    /// It was not done.
    Refused(Failure),
}

/// The procedures of one reign.
pub struct Runner {
    reign: Arc<Reign>,
    sessions: Arc<Sessions>,
    tasks: TaskTracker,
    acting: Semaphore,
    trap: Trap,
}

impl Runner {
    pub(crate) fn new(
        reign: Arc<Reign>,
        sessions: Arc<Sessions>,
        tasks: TaskTracker,
        trap: Trap,
    ) -> Arc<Self> {
        Arc::new(Self {
            reign,
            sessions,
            tasks,
            acting: Semaphore::new(ACTING_MAX),
            trap,
        })
    }

    /// Goes on with every procedure that has not ended and is not stuck.
    pub(crate) fn resume(self: &Arc<Self>) {
        let running: Vec<ProcedureId> = self.reign.mirror.read(|model| {
            let running = model.procedures.iter();
            let running = running.filter(|(_, record)| record.state != ProcedureState::Stuck);
            running.map(|(id, _)| *id).collect()
        });
        for id in running {
            self.spawn(id);
        }
    }

    /// Begins a procedure.
    ///
    /// * errors: `Later` while another holds a lock it needs.
    pub async fn begin(
        self: &Arc<Self>,
        kind: &Kind,
        parent: Option<ProcedureId>,
    ) -> Result<ProcedureId, NotYet> {
        let around = self.around();
        if self.trapped(kind, "begin", "before") {
            return Err(leaderless().into());
        }
        let written = self
            .reign
            .write(|model| record::first(kind, parent, None, self.reign.number, model, &around))
            .await;
        let id = written.map_err(|error| match error {
            WriteError::Refused(not_yet) => not_yet,
            other => NotYet::Never(unavailable(&other)),
        })?;
        if self.trapped(kind, "begin", "after") {
            return Err(leaderless().into());
        }
        self.spawn(id);
        Ok(id)
    }

    /// Carries out what a user asks for, and waits for it until the deadline.
    ///
    /// * returns: `Refused` with `META_UNAVAILABLE` if the reign ended meanwhile: the same request
    ///   under the same key finds out what became of it.
    pub async fn submit(self: &Arc<Self>, request: &DdlRequest, deadline: Instant) -> Answer {
        let taken_up = tokio::select! {
            taken_up = self.take_up(request, deadline) => taken_up,
            () = self.reign.over.cancelled() => Err(leaderless()),
        };
        match taken_up {
            Ok(TakenUp::Done(procedure, done)) => Answer::Done { procedure, done },
            Ok(TakenUp::Begun(id) | TakenUp::Known(id)) => self.outcome(id, deadline).await,
            Err(failure) => Answer::Refused(failure),
        }
    }

    async fn take_up(
        self: &Arc<Self>,
        request: &DdlRequest,
        deadline: Instant,
    ) -> Result<TakenUp, Failure> {
        let mut changes = self.reign.mirror.changes();
        loop {
            let around = self.around();
            changes.borrow_and_update();
            // Looked at first without the writers' turn: most of those who wait are refused here.
            let look = self.reign.mirror.read(|model| {
                let taken_up = record::request(request, self.reign.number, model, &around);
                taken_up.map(|taken_up| taken_up.kind)
            });
            let written = match look {
                Err(not_yet) => Err(WriteError::Refused(not_yet)),
                Ok(kind) => {
                    if let Some(kind) = &kind
                        && self.trapped(kind, "begin", "before")
                    {
                        return Err(leaderless());
                    }
                    let number = self.reign.number;
                    let written = self.reign.write(|model| {
                        let taken_up = record::request(request, number, model, &around)?;
                        Ok((taken_up.change, taken_up.state))
                    });
                    let written = written.await;
                    if let Some(kind) = &kind
                        && self.trapped(kind, "begin", "after")
                    {
                        return Err(leaderless());
                    }
                    written
                }
            };
            let waits_for = match written {
                Ok(taken_up) => {
                    if let TakenUp::Begun(id) = taken_up {
                        self.spawn(id);
                    }
                    return Ok(taken_up);
                }
                Err(WriteError::Refused(NotYet::Satisfied(done))) => {
                    return Ok(TakenUp::Done(None, done));
                }
                Err(WriteError::Refused(NotYet::Never(failure))) => return Err(failure),
                Err(WriteError::Refused(NotYet::Later(what))) => what,
                Err(other) => return Err(unavailable(&other)),
            };
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
            let changed = tokio::time::timeout_at(look_again, changes.changed()).await;
            if changed.is_err() && look_again == deadline {
                let detail = format!("waits for {waits_for}");
                return Err(Failure::new(ErrorCode::SchemaChanging, detail));
            }
        }
    }

    /// Waits for a procedure until the deadline.
    pub async fn outcome(&self, id: ProcedureId, deadline: Instant) -> Answer {
        let known = self.reign.mirror.wait(|model| {
            if let Some(past) = model.past.get(&id) {
                return Some(Some(past.outcome.clone()));
            }
            match model.procedures.get(&id) {
                Some(record) => answered(record).map(|done| Some(Outcome::Done(done))),
                None => Some(None),
            }
        });
        let known = tokio::select! {
            known = tokio::time::timeout_at(deadline, known) => known,
            () = self.reign.over.cancelled() => return Answer::Refused(leaderless()),
        };
        match known {
            Ok(Some(Outcome::Done(done))) => Answer::Done {
                procedure: Some(id),
                done,
            },
            Ok(Some(Outcome::Failed(failure))) => Answer::Refused(Failure::from(&failure)),
            Ok(None) => {
                let detail = format!("procedure {id} ended too long ago");
                Answer::Refused(Failure::new(ErrorCode::NotFound, detail))
            }
            Err(_) => Answer::Pending(id),
        }
    }

    /// Goes on with a procedure that is stuck.
    ///
    /// * errors: a failure for the operator.
    pub async fn retry(self: &Arc<Self>, id: ProcedureId) -> Result<(), Failure> {
        let written = self.reign.write(|model| {
            let stuck = model.procedures.get(&id);
            let stuck = stuck.filter(|record| record.state == ProcedureState::Stuck);
            let Some(mut record) = stuck.cloned() else {
                let detail = format!("there is no stuck procedure {id}");
                return Err(Failure::new(ErrorCode::NotFound, detail));
            };
            record.state = match record.step {
                Step::Undo => ProcedureState::Undoing,
                _ => ProcedureState::Running,
            };
            let mut change = Change::new();
            change.put(Key::Procedure(id), &record);
            Ok((change, ()))
        });
        match written.await {
            Ok(()) => {
                self.spawn(id);
                Ok(())
            }
            Err(WriteError::Refused(failure)) => Err(failure),
            Err(other) => Err(unavailable(&other)),
        }
    }

    fn spawn(self: &Arc<Self>, id: ProcedureId) {
        let runner = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = runner.drive(id) => {}
                () = runner.reign.over.cancelled() => {}
            }
        });
    }

    /// Brings a procedure to its end, or to where it is stuck.
    async fn drive(self: &Arc<Self>, id: ProcedureId) {
        let mut progress = Progress::Entered;
        let mut tried = 0;
        let mut pause = PAUSE.0;
        loop {
            let around = self.around();
            let mut changes = self.reign.mirror.changes();
            changes.borrow_and_update();
            let decided = self.reign.mirror.read(|model| {
                let record = model.procedures.get(&id)?;
                Some((record.clone(), decide(record, &progress, model, &around)))
            });
            let Some((record, decided)) = decided else {
                return;
            };
            match decided {
                Move::Order {
                    tasks,
                    after,
                    tries,
                } => {
                    tokio::time::sleep(after).await;
                    let acted = tokio::select! {
                        acted = self.act(id, &record, &tasks) => acted,
                        failure = self.offline(&tasks) => Err(failure),
                    };
                    match acted {
                        Ok(()) => progress = Progress::Acted,
                        Err(failure) => {
                            tried += 1;
                            tracing::warn!(
                                procedure = %id, kind = record.kind.name(),
                                step = record.step.name(), tried, %failure, "order not done"
                            );
                            if tries.is_none() && TRIES.is_some_and(|many| tried % many == 0) {
                                tracing::error!(procedure = %id, tried, "nothing undoes this step: it goes on");
                            }
                            if failure.permanent || tries.is_some_and(|tries| tried >= tries) {
                                progress = Progress::Failed(KeptFailure {
                                    code: failure.code,
                                    detail: failure.detail,
                                });
                                continue;
                            }
                            tokio::time::sleep(failure.retry_after.unwrap_or(pause)).await;
                            pause = (pause * 2).min(PAUSE.1);
                        }
                    }
                }
                Move::Await { start } => {
                    for kind in start {
                        // Boxed, since a child's task is made of the same future.
                        let child = Box::pin(self.begin(&kind, Some(id))).await;
                        if let Err(NotYet::Never(failure)) = child {
                            tracing::warn!(procedure = %id, %failure, "child cannot begin");
                        }
                    }
                    // Nothing to tell apart: it looks again either way.
                    let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
                }
                Move::Write { .. } | Move::End { .. } | Move::Stick(_) => {
                    let name = step_name(&decided);
                    if self.trapped(&record.kind, name, "before") {
                        return;
                    }
                    if !self.advance(id, &progress, &around).await {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                        continue;
                    }
                    if self.trapped(&record.kind, name, "after") {
                        return;
                    }
                    if matches!(decided, Move::Stick(_)) {
                        tracing::error!(procedure = %id, kind = record.kind.name(), "stuck");
                        return;
                    }
                    progress = Progress::Entered;
                    tried = 0;
                    pause = PAUSE.0;
                }
            }
        }
    }

    /// Writes the next step, decided anew on the newest model; says whether it is written.
    async fn advance(&self, id: ProcedureId, progress: &Progress, around: &Around) -> bool {
        let written = self.reign.write(|model| {
            let Some(record) = model.procedures.get(&id) else {
                return Ok((Change::new(), ()));
            };
            let decided = decide(record, progress, model, around);
            match record::next(id, record, decided, self.reign.number, model, around) {
                Some(change) => Ok((change, ())),
                None => Err(()),
            }
        });
        match written.await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(procedure = %id, %error, "step not written");
                false
            }
        }
    }

    /// Has the tasks of a step done.
    async fn act(
        &self,
        id: ProcedureId,
        record: &Procedure,
        tasks: &[Task],
    ) -> Result<(), OrderFailure> {
        // The semaphore is never closed.
        let _permit = self.acting.acquire().await;
        let orders: Vec<_> = tasks
            .iter()
            .map(|task| self.have_done(id, record.step, task))
            .collect();
        let mut answers = stream::iter(orders).buffer_unordered(ORDERS_MAX);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }

    /// Waits until one of the nodes is judged offline: nobody waits for what it was told to do. What
    /// another node can do as well is then not for this one any more.
    async fn offline(&self, tasks: &[Task]) -> OrderFailure {
        use meta::order::Verb;
        let waited = self.reign.mirror.wait(|model| {
            let offline = |node| {
                let known = model.liveness.get(&node);
                known.is_some_and(|known| known.verdict == Verdict::Offline)
            };
            let mut tasks = tasks.iter();
            let (node, task) = tasks.find_map(|task| {
                let node = task.node.filter(|node| offline(*node))?;
                Some((node, task))
            })?;
            Some(OrderFailure {
                code: ErrorCode::MetaUnavailable.text().to_owned(),
                detail: format!("node {node} is offline"),
                permanent: matches!(task.verb, Verb::Open(_) | Verb::Flush(_)),
                retry_after: None,
            })
        });
        waited.await
    }

    async fn have_done(
        &self,
        id: ProcedureId,
        step: Step,
        task: &Task,
    ) -> Result<(), OrderFailure> {
        let Some(node) = task.node else {
            return Err(OrderFailure {
                code: ErrorCode::NoLeader.text().to_owned(),
                detail: format!("shard {} has no leader", task.shard),
                permanent: false,
                retry_after: None,
            });
        };
        let deadline = deadline_of(&task.verb);
        let order = Order {
            id: format!("{id}.{}.{}", step.name(), task.target),
            reign: Some(meta::Reign {
                restored: self.reign.number.restored.into(),
                revision: self.reign.number.revision as u64,
            }),
            shard: task.shard.0,
            epoch: task.epoch,
            deadline_ms: deadline.as_millis() as u64,
            verb: Some(task.verb.clone()),
        };
        self.sessions.order(node, order, deadline).await?;
        Ok(())
    }

    fn around(&self) -> Around {
        let scores = self.sessions.view(|view, _| {
            let scores = view.online().map(|(node, seen)| {
                let memory = match seen.load.memory_bytes_max {
                    0 => 0.0,
                    max => seen.load.memory_bytes as f64 / max as f64,
                };
                (node, memory.max(seen.load.cpu_percent / 100.0))
            });
            scores.collect::<BTreeMap<_, _>>()
        });
        Around {
            now_ms: self.reign.clock.now_ms(),
            random: self.reign.random.clone(),
            scores,
        }
    }

    fn trapped(&self, kind: &Kind, step: &str, when: &str) -> bool {
        let trapped = (self.trap)(&format!("{}.{step}.{when}", kind.name()));
        if trapped {
            self.reign.over.cancel();
        }
        trapped
    }
}

fn step_name(decided: &Move) -> &'static str {
    match decided {
        Move::Write { step, .. } => step.name(),
        Move::Stick(_) => "stick",
        _ => Step::Commit.name(),
    }
}

fn deadline_of(verb: &meta::order::Verb) -> Duration {
    use meta::order::Verb;
    Duration::from_secs(match verb {
        Verb::Open(_) | Verb::Close(_) => 30,
        Verb::Switch(_) => 5,
        Verb::Flush(_) => 120,
        Verb::CreateTablets(_) | Verb::DropTablets(_) => 10,
    })
}

fn leaderless() -> Failure {
    let detail = "the meta leader changed, the outcome is not known yet";
    Failure::new(ErrorCode::MetaUnavailable, detail)
}

fn unavailable<E>(error: &WriteError<E>) -> Failure {
    match error {
        WriteError::Deposed | WriteError::Refused(_) => leaderless(),
        WriteError::Unavailable(detail) => Failure::new(ErrorCode::MetaUnavailable, detail.clone()),
        WriteError::Impossible(detail) => {
            Failure::new(ErrorCode::StatementTooLarge, detail.clone())
        }
    }
}
