//! Lock and Unlock: the front of a line owns the name, until its key goes.

use etcd_client::proto::PbDeleteRequest;
use tonic::{Request, Response, Status};

use super::v3lockpb::lock_server::Lock;
use super::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use super::{Api, error};

#[tonic::async_trait]
impl Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let request = request.into_inner();
        let mut place = self
            .line_up(&request.name, request.lease, Vec::new())
            .await?;
        self.wait_turn(&request.name, &mut place, error::SESSION_EXPIRED)
            .await?;
        Ok(Response::new(LockResponse {
            header: Some(self.header(self.feed.head())),
            key: place.key,
        }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let removed = self
            .remove(PbDeleteRequest {
                key: request.into_inner().key,
                ..Default::default()
            })
            .await?;
        Ok(Response::new(UnlockResponse {
            header: removed.header,
        }))
    }
}
