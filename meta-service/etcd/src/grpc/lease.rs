//! LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.

use std::pin::Pin;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseService, PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, error};
use crate::lease::{TTL_MAX_S, ttl_min_s};
use crate::mvcc::{Refusal, lease_keys};
use crate::proposal::Op;
use crate::raft::NodeError;

/// Ids that are drawn before giving up on finding a free one.
const DRAWS_MAX: usize = 8;

impl Api {
    /// Grants a lease; a TTL below the smallest becomes that, id 0 a free one.
    pub(super) async fn grant(
        &self,
        request: PbLeaseGrantRequest,
    ) -> Result<PbLeaseGrantResponse, Status> {
        if request.ttl > TTL_MAX_S {
            return Err(error::TTL_TOO_LARGE.into());
        }
        let ttl = request.ttl.max(ttl_min_s(self.node.timing().election));
        for _ in 0..DRAWS_MAX {
            let id = match request.id {
                0 => self.draw_id(),
                id => id,
            };
            let applied = self
                .node
                .propose(Op::Grant(PbLeaseGrantRequest { ttl, id }));
            let applied = applied.await.map_err(error::of_node)?;
            match applied.outcome {
                Ok(_) => {
                    return Ok(PbLeaseGrantResponse {
                        header: Some(self.header(applied.revision)),
                        id,
                        ttl,
                        error: String::new(),
                    });
                }
                Err(Refusal::LeaseExists) if request.id == 0 => {}
                Err(refusal) => return Err(error::of_refusal(refusal)),
            }
        }
        Err(error::LEASE_EXISTS.into())
    }

    /// Renews a lease if this member still leads; TTL 0 for an unknown one.
    async fn keep_alive(&self, id: i64) -> Result<PbLeaseKeepAliveResponse, NodeError> {
        let header = self.header(self.feed.head());
        self.node.read_index().await?;
        Ok(PbLeaseKeepAliveResponse {
            header: Some(header),
            id,
            ttl: self.lessor.renew(id, Instant::now()).unwrap_or(0),
        })
    }
}

#[tonic::async_trait]
impl PbLeaseService for Api {
    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<PbLeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        Ok(Response::new(self.grant(request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let (_, revision) = self.propose(Op::Revoke(request.into_inner())).await?;
        Ok(Response::new(PbLeaseRevokeResponse {
            header: Some(self.header(revision)),
        }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let answers = futures::stream::try_unfold(
            (self.clone(), request.into_inner()),
            |(api, mut requests)| async move {
                let request = tokio::select! {
                    () = api.stop.cancelled() => return Err(error::STOPPED.into()),
                    request = requests.message() => request?,
                };
                let Some(request) = request else {
                    return Ok(None);
                };
                let answer = api.keep_alive(request.id).await.map_err(error::of_node)?;
                Ok(Some((answer, (api, requests))))
            },
        );
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let view = self.view(false).await?;
        let header = Some(self.header(self.feed.head()));
        let Some(remaining) = self.lessor.remaining(request.id, Instant::now()) else {
            return Ok(Response::new(PbLeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                ..Default::default()
            }));
        };
        let keys = if request.keys {
            lease_keys(&view, request.id).map_err(error::of_fault)?
        } else {
            Vec::new()
        };
        Ok(Response::new(PbLeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: remaining.left_s,
            granted_ttl: remaining.ttl_s,
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        _request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        self.node.read_index().await.map_err(error::of_node)?;
        let leases = self.lessor.ids().into_iter();
        Ok(Response::new(PbLeaseLeasesResponse {
            header: Some(self.header(self.feed.head())),
            leases: leases.map(|id| PbLeaseStatus { id }).collect(),
        }))
    }
}
