//! Campaign, Proclaim, Leader, Observe, Resign: the front of a line leads, and its key's value is what
//! it proclaims.

use std::pin::Pin;

use etcd_client::EventType;
use etcd_client::proto::{
    PbDeleteRequest, PbKeyValue, PbPutRequest, PbResponseHeader, PbTxnOpRequest, PbTxnRequest,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::turn::{created_at, op, prefix};
use super::v3electionpb::election_server::Election;
use super::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use super::{Api, error};
use crate::mvcc::{Piece, View, first_by_create};

/// Answers an observer may leave untaken before it is waited for.
const ANSWERS_WAITING_MAX: usize = 16;

impl Api {
    async fn set_value(
        &self,
        leader: &LeaderKey,
        value: Vec<u8>,
    ) -> Result<Option<PbResponseHeader>, Status> {
        let put = PbPutRequest {
            key: leader.key.clone(),
            value,
            lease: leader.lease,
            ..Default::default()
        };
        let response = self
            .write(PbTxnRequest {
                compare: vec![created_at(&leader.key, leader.rev)],
                success: vec![op(PbTxnOpRequest::RequestPut(put))],
                ..Default::default()
            })
            .await?;
        if response.succeeded {
            Ok(response.header)
        } else {
            Err(error::NOT_ELECTED.into())
        }
    }

    /// Sends the leader, every value it proclaims, then the next leader, until nobody takes them.
    async fn observe_line(
        &self,
        name: &[u8],
        answers: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Status> {
        let prefix = prefix(name);
        let mut head = self.feed.subscribe();
        'next_leader: loop {
            head.borrow_and_update();
            let view = self.view(true).await?;
            let found = first_by_create(&view, &prefix).map_err(error::of_fault)?;
            let mut next = view.revision() + 1;
            drop(view);
            let Some(leader) = found else {
                tokio::select! {
                    () = self.stop.cancelled() => return Err(error::STOPPED.into()),
                    () = answers.closed() => return Ok(()),
                    _ = head.changed() => continue,
                }
            };
            let (key, created) = (leader.key.clone(), leader.create_revision);
            if !self.tell(answers, leader, next - 1).await {
                return Ok(());
            }
            loop {
                if next > self.feed.head() {
                    tokio::select! {
                        () = self.stop.cancelled() => return Err(error::STOPPED.into()),
                        () = answers.closed() => return Ok(()),
                        _ = head.changed() => {}
                    }
                }
                let (changes, upto) = match self.feed.since(next).map_err(error::of_fault)? {
                    Piece::Changes { changes, upto } => (changes, upto),
                    // Values in between can no longer be told; the leader of now can.
                    Piece::Compacted(_) => continue 'next_leader,
                };
                let events = changes.iter().flat_map(|change| &change.events);
                for event in events {
                    let Some(kv) = event.kv.as_ref().filter(|kv| kv.key == key) else {
                        continue;
                    };
                    let gone = event.r#type == EventType::Delete as i32;
                    if gone || kv.create_revision != created {
                        continue 'next_leader;
                    }
                    if !self.tell(answers, kv.clone(), kv.mod_revision).await {
                        return Ok(());
                    }
                }
                next = next.max(upto + 1);
            }
        }
    }

    /// Whether the answer was taken.
    async fn tell(
        &self,
        answers: &mpsc::Sender<Result<LeaderResponse, Status>>,
        kv: PbKeyValue,
        revision: i64,
    ) -> bool {
        let answer = LeaderResponse {
            header: Some(self.header(revision)),
            kv: Some(kv),
        };
        tokio::select! {
            () = self.stop.cancelled() => false,
            sent = answers.send(Ok(answer)) => sent.is_ok(),
        }
    }
}

#[tonic::async_trait]
impl Election for Api {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let request = request.into_inner();
        let name = request.name;
        let mut place = self
            .line_up(&name, request.lease, request.value.clone())
            .await?;
        let leader = LeaderKey {
            name: name.clone(),
            key: place.key.clone(),
            rev: place.created,
            lease: place.lease,
        };
        let proclaimed_before = place.value_before.as_ref();
        if proclaimed_before.is_some_and(|before| *before != request.value) {
            self.set_value(&leader, request.value).await?;
        }
        self.wait_turn(&name, &mut place, error::ELECTION_LOST)
            .await?;
        Ok(Response::new(CampaignResponse {
            header: place.header,
            leader: Some(leader),
        }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let request = request.into_inner();
        let leader = request.leader.ok_or(error::LEADER_MISSING)?;
        let header = self.set_value(&leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let view = self.view(false).await?;
        let leader = first_by_create(&view, &prefix(&request.into_inner().name));
        let leader = leader.map_err(error::of_fault)?;
        Ok(Response::new(LeaderResponse {
            header: Some(self.header(view.revision())),
            kv: Some(leader.ok_or(error::NO_LEADER_ELECTED)?),
        }))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (answers, taken) = mpsc::channel(ANSWERS_WAITING_MAX);
        let api = self.clone();
        self.tasks.spawn(async move {
            let name = request.into_inner().name;
            if let Err(status) = api.observe_line(&name, &answers).await {
                // The observer may have gone already.
                drop(answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(taken))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let leader = request.into_inner().leader.ok_or(error::LEADER_MISSING)?;
        let delete = PbDeleteRequest {
            key: leader.key.clone(),
            ..Default::default()
        };
        let response = self
            .write(PbTxnRequest {
                compare: vec![created_at(&leader.key, leader.rev)],
                success: vec![op(PbTxnOpRequest::RequestDeleteRange(delete))],
                ..Default::default()
            })
            .await?;
        Ok(Response::new(ResignResponse {
            header: response.header,
        }))
    }
}
