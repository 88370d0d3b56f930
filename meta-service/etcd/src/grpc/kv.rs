//! Range, Put, DeleteRange, Txn, Compact.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse,
    PbTxnOpResponse, PbTxnRequest, PbTxnResponse,
};
use tonic::{Request, Response, Status};

use super::{Api, check, error};
use crate::apply::Answer;
use crate::mvcc::{Fault, ReadView, range, read};
use crate::proposal::Op;

impl Api {
    pub(super) async fn get(&self, request: PbRangeRequest) -> Result<PbRangeResponse, Status> {
        check::range(&request)?;
        let view = self.view(request.serializable).await?;
        let one = request.range_end.is_empty();
        let mut response = look(one, view, move |view| range(view, &request)).await?;
        self.complete(&mut response.header);
        Ok(response)
    }

    pub(super) async fn write(&self, request: PbTxnRequest) -> Result<PbTxnResponse, Status> {
        check::txn(&request, self.limits.txn_ops)?;
        let mut response = match check::reads_only(&request) {
            Some(serializable) => {
                let view = self.view(serializable).await?;
                look(false, view, move |view| read(view, &request)).await?
            }
            None => match self.propose(Op::Txn(request)).await? {
                (Answer::Txn(response), _) => response,
                _ => return Err(another_answer()),
            },
        };
        self.complete(&mut response.header);
        Ok(response)
    }

    pub(super) async fn remove(
        &self,
        request: PbDeleteRequest,
    ) -> Result<PbDeleteResponse, Status> {
        check::delete(&request)?;
        let (Answer::Delete(mut response), _) = self.propose(Op::Delete(request)).await? else {
            return Err(another_answer());
        };
        self.complete(&mut response.header);
        Ok(response)
    }
}

/// Reads one key at once, more on a thread that may take its time.
async fn look<T: Send + 'static>(
    at_once: bool,
    view: ReadView,
    read: impl FnOnce(&ReadView) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Status> {
    if at_once {
        return read(&view).map_err(error::of_fault);
    }
    let read = tokio::task::spawn_blocking(move || read(&view)).await;
    read.map_err(|_| Status::from(error::STOPPED))?
        .map_err(error::of_fault)
}

/// Apply answers every operation with its own answer; anything else is a defect of this program.
fn another_answer() -> Status {
    Status::internal("etcdserver: an answer to another request")
}

/// The first range of a txn's answer.
pub(super) fn first_range(response: &PbTxnResponse) -> Option<&PbRangeResponse> {
    match response.responses.first()?.response.as_ref()? {
        PbTxnOpResponse::ResponseRange(range) => Some(range),
        _ => None,
    }
}

#[tonic::async_trait]
impl PbKvService for Api {
    type RangeStreamStream = tokio_stream::Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn range_stream(
        &self,
        _request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(error::not_yet("RangeStream"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check::put(&request)?;
        let (Answer::Put(mut response), _) = self.propose(Op::Put(request)).await? else {
            return Err(another_answer());
        };
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        Ok(Response::new(self.remove(request.into_inner()).await?))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        Ok(Response::new(self.write(request.into_inner()).await?))
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        let request = request.into_inner();
        let (_, revision) = self.propose(Op::Compact(request)).await?;
        if request.physical {
            let mut removed = self.removed_upto.clone();
            let gone = removed.wait_for(|upto| *upto >= request.revision).await;
            gone.map_err(|_| Status::from(error::STOPPED))?;
        }
        Ok(Response::new(PbCompactionResponse {
            header: Some(self.header(revision)),
        }))
    }
}
