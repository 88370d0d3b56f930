//! Asks meta for changes of the model, until it answers or the caller's time is over.
//!
//! Each change bears a request key, so that asking again after a lost answer or a new leader is the
//! same change, not another one.
//!
//! Never here: what a statement means.

use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::ddl::DdlRequest;
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::ProcedureId;
use auxo_proto::pb::meta::meta_client::MetaClient as Generated;
use auxo_proto::pb::meta::{AdminCall, DdlCall, DdlDone, Refused, admin_reply, ddl_reply};
use auxo_proto::random::Random;
use auxo_proto::schema::TableInfo;
use auxo_proto::topology::DatabaseInfo;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::doors::Doors;

/// First and longest pause before meta is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Time that a call gets beyond the time meta is given for it.
const BEYOND: Duration = Duration::from_millis(500);

/// What a change left in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The procedure that did it, if one was needed.
    pub procedure: Option<ProcedureId>,
    /// Number of a topology that shows it; see [`super::Session::wait_topology`].
    pub topology: u64,
    /// The table as it is now, unless it was dropped or the change was about none.
    pub table: Option<TableInfo>,
    /// The database as it is now, unless it was dropped or the change was about none.
    pub database: Option<DatabaseInfo>,
}

/// What became of one call.
enum Call<T> {
    Answered(T),
    /// It could not be done now; ask again.
    Again(Failure),
    /// Another meta node leads; empty if nobody is known to.
    Elsewhere(String),
}

/// Asks meta. Clones share the addresses they learn.
#[derive(Clone)]
pub struct MetaClient {
    doors: Doors,
    clock: Clock,
    random: Random,
}

impl MetaClient {
    /// A client through these doors.
    pub fn new(doors: Doors, clock: Clock, random: Random) -> Self {
        Self {
            doors,
            clock,
            random,
        }
    }

    /// Has a change carried out.
    ///
    /// * errors: what meta refused it with, as it is. `META_UNAVAILABLE` if meta could not be asked
    ///   in time, `TIMEOUT` if the change goes on after it; after both it may yet be carried out.
    /// * effects: carried out once, however often it was asked.
    pub async fn ddl(&self, mut request: DdlRequest, within: Duration) -> Result<Changed, Failure> {
        let key = || self.random.uuid_v7(self.clock.now_ms()).to_string();
        request.request_key.get_or_insert_with(key);
        let request = serde_json::to_vec(&request)
            .unwrap_or_else(|error| unreachable!("a request is plain data: {error}"));
        let request = Bytes::from(request);
        let deadline = Instant::now() + within;
        self.until(deadline, |mut client, left| {
            let call = DdlCall {
                request: request.clone(),
                // 0 would leave the time to meta.
                deadline_ms: left.as_millis().max(1) as u64,
            };
            async move {
                let reply = client.ddl(call).await?.into_inner();
                Ok(match reply.result {
                    Some(ddl_reply::Result::Done(done)) => Call::Answered(changed(done)),
                    Some(ddl_reply::Result::Pending(pending)) => {
                        let detail = format!("procedure {} goes on", pending.procedure);
                        Call::Answered(Err(Failure::new(ErrorCode::Timeout, detail)))
                    }
                    Some(ddl_reply::Result::Refused(refused)) => refused_call(refused),
                    Some(ddl_reply::Result::NotLeader(other)) => Call::Elsewhere(other.hint),
                    None => Call::Again(silent("meta answered nothing")),
                })
            }
        })
        .await?
    }

    /// Asks for something to show or do, and returns its JSON.
    ///
    /// * errors: as for [`MetaClient::ddl`].
    pub async fn admin(
        &self,
        verb: &str,
        target: &str,
        within: Duration,
    ) -> Result<String, Failure> {
        let deadline = Instant::now() + within;
        self.until(deadline, |mut client, _| {
            let call = AdminCall {
                verb: verb.to_owned(),
                target: target.to_owned(),
            };
            async move {
                let reply = client.admin(call).await?.into_inner();
                Ok(match reply.result {
                    Some(admin_reply::Result::Json(json)) => Call::Answered(Ok(json)),
                    Some(admin_reply::Result::Refused(refused)) => refused_call(refused),
                    Some(admin_reply::Result::NotLeader(other)) => Call::Elsewhere(other.hint),
                    None => Call::Again(silent("meta answered nothing")),
                })
            }
        })
        .await?
    }

    /// Calls until it is answered or the deadline has passed.
    async fn until<T, F>(
        &self,
        deadline: Instant,
        mut call: impl FnMut(Generated<Channel>, Duration) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Call<T>, tonic::Status>>,
    {
        let (mut pause, mut sent) = (PAUSE.0, false);
        loop {
            let (address, channel) = self.doors.next();
            let left = deadline.saturating_duration_since(Instant::now());
            let client = Generated::new(channel);
            let called = tokio::time::timeout(left + BEYOND, call(client, left)).await;
            let failure = match called {
                Ok(Ok(Call::Answered(answer))) => return Ok(answer),
                Ok(Ok(Call::Again(failure))) => {
                    sent = true;
                    failure
                }
                Ok(Ok(Call::Elsewhere(leader))) => {
                    match leader.is_empty() {
                        true => self.doors.failed(&address),
                        false => self.doors.leads(&leader),
                    }
                    silent("no meta node leads")
                }
                Ok(Err(status)) => {
                    self.doors.failed(&address);
                    sent = true;
                    silent(status.message())
                }
                Err(_) => {
                    let failure = silent("meta did not answer in time");
                    return Err(failure.outcome(Outcome::Unknown));
                }
            };
            if Instant::now() + pause >= deadline {
                // What meta once took it may still bring to its end.
                return Err(match sent {
                    true => failure.outcome(Outcome::Unknown),
                    false => failure,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

fn refused_call<T>(refused: Refused) -> Call<Result<T, Failure>> {
    let code = ErrorCode::of_number(refused.code).unwrap_or(ErrorCode::Internal);
    let mut failure = Failure::new(code, refused.detail);
    failure.hint = (!refused.hint.is_empty()).then_some(refused.hint);
    failure.retry_after_ms = (refused.retry_after_ms > 0).then_some(refused.retry_after_ms);
    match code {
        ErrorCode::MetaUnavailable => Call::Again(failure),
        _ => Call::Answered(Err(failure)),
    }
}

fn changed(done: DdlDone) -> Result<Changed, Failure> {
    Ok(Changed {
        procedure: (done.procedure != 0).then_some(ProcedureId(done.procedure)),
        topology: done.topology,
        table: decode(&done.table)?,
        database: decode(&done.database)?,
    })
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<Option<T>, Failure> {
    if json.is_empty() {
        return Ok(None);
    }
    let decoded = serde_json::from_slice(json).map(Some);
    decoded.map_err(|error| {
        let detail = format!("meta's answer cannot be read: {error}");
        Failure::new(ErrorCode::Internal, detail)
    })
}

fn silent(detail: &str) -> Failure {
    Failure::new(ErrorCode::MetaUnavailable, detail)
}
