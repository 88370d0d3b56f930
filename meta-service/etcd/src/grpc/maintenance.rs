//! Status, and whether there are alarms: there are none yet.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use tonic::{Request, Response, Status};

use super::{Api, error};

/// The release of etcd whose API this is; clients parse it.
const VERSION: &str = "3.5.30";
const ALARM_GET: i32 = 0;

#[tonic::async_trait]
impl PbMaintenanceService for Api {
    type SnapshotStream = tokio_stream::Empty<Result<PbSnapshotResponse, Status>>;

    async fn status(
        &self,
        _request: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let leading = *self.node.leading().borrow();
        let bytes = self.state_path.metadata().map_or(0, |found| found.len()) as i64;
        let no_leader = Status::from(error::NO_LEADER).message().to_owned();
        Ok(Response::new(PbStatusResponse {
            header: Some(self.header(self.feed.head())),
            version: VERSION.to_owned(),
            db_size: bytes,
            leader: leading.leader.unwrap_or(0),
            raft_index: leading.last,
            raft_term: leading.term,
            raft_applied_index: leading.applied,
            errors: match leading.leader {
                Some(_) => Vec::new(),
                None => vec![no_leader],
            },
            // Free pages are counted as used: telling them apart would stop writes meanwhile.
            db_size_in_use: bytes,
            ..Default::default()
        }))
    }

    async fn alarm(
        &self,
        request: Request<PbAlarmRequest>,
    ) -> Result<Response<PbAlarmResponse>, Status> {
        if request.into_inner().action != ALARM_GET {
            return Err(error::not_yet("changing an alarm"));
        }
        Ok(Response::new(PbAlarmResponse {
            header: Some(self.header(self.feed.head())),
            alarms: Vec::new(),
        }))
    }

    async fn defragment(
        &self,
        _request: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Err(error::not_yet("Defragment"))
    }

    async fn hash(
        &self,
        _request: Request<PbHashRequest>,
    ) -> Result<Response<PbHashResponse>, Status> {
        Err(error::not_yet("Hash"))
    }

    async fn hash_kv(
        &self,
        _request: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        Err(error::not_yet("HashKV"))
    }

    async fn snapshot(
        &self,
        _request: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(error::not_yet("Snapshot"))
    }

    async fn move_leader(
        &self,
        _request: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(error::not_yet("MoveLeader"))
    }

    async fn downgrade(
        &self,
        _request: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(error::not_yet("Downgrade"))
    }
}
