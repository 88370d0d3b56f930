//! The gRPC services of a meta node: `Sessions` for nodes, `Meta` for changes and operators.
//!
//! Only the leader answers; the others say who leads. Room: [`admin`] (what is shown as JSON).
//!
//! Never here: how a change is carried out.

pub mod admin;

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ddl::DdlRequest;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::pb::meta::meta_server::Meta;
use auxo_proto::pb::meta::sessions_server::Sessions;
use auxo_proto::pb::meta::{
    AdminCall, AdminReply, DdlCall, DdlDone, DdlReply, Down, NotLeader, Pending, Redirect, Refused,
    Retry, Up, admin_reply, ddl_reply, down,
};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::lead::Lead;
use crate::model::values::Done;
use crate::procedure::runner::Answer;
use crate::sessions::stream;

/// Calls that are carried out at once; more are told to come again.
const CALLS_MAX: usize = 1_024;
/// Time for a call that names none.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest time that a caller can ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(600);
/// Messages to one node that tonic has not sent yet.
const SINK: usize = 16;

/// Whether this meta node leads.
#[derive(Clone)]
pub enum Standing {
    /// It does.
    Leading(Arc<Lead>),
    /// Another one does, at this API address, if any does.
    Following(Option<String>),
}

/// The services of one meta node.
#[derive(Clone)]
pub struct Api {
    standing: watch::Receiver<Standing>,
    streams: TaskTracker,
    calls: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(standing: watch::Receiver<Standing>, streams: TaskTracker) -> Self {
        Self {
            standing,
            streams,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    fn lead(&self) -> Result<Arc<Lead>, NotLeader> {
        match &*self.standing.borrow() {
            Standing::Leading(lead) => Ok(Arc::clone(lead)),
            Standing::Following(leader) => Err(NotLeader {
                hint: leader.clone().unwrap_or_default(),
            }),
        }
    }

    async fn ddl(&self, call: DdlCall) -> ddl_reply::Result {
        let lead = match self.lead() {
            Ok(lead) => lead,
            Err(other) => return ddl_reply::Result::NotLeader(other),
        };
        let Ok(_permit) = self.calls.try_acquire() else {
            let failure = Failure::new(ErrorCode::Busy, "too many changes at once");
            return ddl_reply::Result::Refused(refused(&failure));
        };
        let request: DdlRequest = match serde_json::from_slice(&call.request) {
            Ok(request) => request,
            Err(error) => {
                let failure = Failure::new(ErrorCode::BadRequest, error.to_string());
                return ddl_reply::Result::Refused(refused(&failure));
            }
        };
        let time = match call.deadline_ms {
            0 => DEADLINE,
            ms => Duration::from_millis(ms).min(DEADLINE_MAX),
        };
        match lead.runner.submit(&request, Instant::now() + time).await {
            Answer::Done { procedure, done } => ddl_reply::Result::Done(DdlDone {
                procedure: procedure.map_or(0, |id| id.0),
                topology: done.topology,
                ..shown(&lead, done)
            }),
            Answer::Pending(id) => ddl_reply::Result::Pending(Pending { procedure: id.0 }),
            Answer::Refused(failure) => ddl_reply::Result::Refused(refused(&failure)),
        }
    }

    async fn admin(&self, call: AdminCall) -> admin_reply::Result {
        let lead = match self.lead() {
            Ok(lead) => lead,
            Err(other) => return admin_reply::Result::NotLeader(other),
        };
        match admin::answer(&lead, &call.verb, &call.target).await {
            Ok(json) => admin_reply::Result::Json(json.to_string()),
            Err(failure) => admin_reply::Result::Refused(refused(&failure)),
        }
    }
}

#[tonic::async_trait]
impl Sessions for Api {
    type SessionStream = ReceiverStream<Result<Down, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sink, stream) = mpsc::channel(SINK);
        let standing = self.standing.borrow().clone();
        match standing {
            Standing::Leading(lead) => {
                let served = stream::serve(lead, request.into_inner(), sink);
                self.streams.spawn(served);
            }
            Standing::Following(leader) => {
                let content = match leader.filter(|api| !api.is_empty()) {
                    Some(api) => down::Content::Redirect(Redirect { api }),
                    None => down::Content::Retry(Retry { after_ms: 100 }),
                };
                let content = Some(content);
                // The queue is new and has room.
                let _ = sink.try_send(Ok(Down { content }));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Meta for Api {
    async fn ddl(&self, request: Request<DdlCall>) -> Result<Response<DdlReply>, Status> {
        let result = Some(Api::ddl(self, request.into_inner()).await);
        Ok(Response::new(DdlReply { result }))
    }

    async fn admin(&self, request: Request<AdminCall>) -> Result<Response<AdminReply>, Status> {
        let result = Some(Api::admin(self, request.into_inner()).await);
        Ok(Response::new(AdminReply { result }))
    }
}

/// The table and database that a change left, as the model has them now.
fn shown(lead: &Lead, done: Done) -> DdlDone {
    let json = |value: Option<Vec<u8>>| value.map_or_else(Bytes::new, Bytes::from);
    lead.reign.mirror.read(|model| DdlDone {
        table: json(done.table.and_then(|id| encode(model.table_info(id)?))),
        database: json(
            done.database
                .and_then(|id| encode(&model.database_info(id)?)),
        ),
        ..DdlDone::default()
    })
}

fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

fn refused(failure: &Failure) -> Refused {
    Refused {
        code: failure.code.number().into(),
        detail: failure.detail.clone(),
        hint: failure.hint.clone().unwrap_or_default(),
        retry_after_ms: failure.retry_after_ms.unwrap_or_default(),
    }
}
