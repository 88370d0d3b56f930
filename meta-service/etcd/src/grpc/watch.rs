//! Watch: translates a client's stream for `watch::Stream`, which does the rest.

use std::pin::Pin;

use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, MESSAGE_OVERHEAD_BYTES, error};
use crate::raft::Leading;
use crate::watch::{Create, Request as WatchRequest, Stream as WatchStream};

/// Answers a client may leave untaken before its stream waits for it.
const ANSWERS_WAITING_MAX: usize = 128;
/// Metadata by which a client asks to be told when there is no leader.
const REQUIRE_LEADER: &str = "hasleader";
const NOPUT: i32 = 0;
const NODELETE: i32 = 1;

#[tonic::async_trait]
impl PbWatchService for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<PbWatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request
            .metadata()
            .get(REQUIRE_LEADER)
            .is_some_and(|value| value == "true");
        let (answers, taken) = mpsc::channel(ANSWERS_WAITING_MAX);
        let fragment_bytes = self.limits.request_bytes + MESSAGE_OVERHEAD_BYTES;
        let stop = self.stop.child_token();
        let stream = WatchStream::new(self.feed.clone(), answers, stop.clone(), fragment_bytes);
        let requests = request
            .into_inner()
            .filter_map(|request| std::future::ready(translate(request)));
        let notify_every = self.limits.watch_progress_every + self.jitter();
        let watching = stream.run(requests, notify_every);
        let leading = self.node.leading();
        let patience = 3 * self.node.timing().election;
        // Ends the stream with an error, which its own task cannot: it only has answers to send.
        let (ending, ended) = tokio::sync::oneshot::channel();
        self.tasks.spawn(async move {
            let end = tokio::select! {
                watched = watching => watched.err().map(error::of_fault),
                () = left_alone(leading, patience), if needs_leader => Some(error::NO_LEADER.into()),
            };
            stop.cancel();
            // The client may have gone already.
            drop(ending.send(end));
        });
        let api = self.clone();
        let answers = ReceiverStream::new(taken).map(move |mut answer: PbWatchResponse| {
            api.complete(&mut answer.header);
            Ok(answer)
        });
        let last = futures::stream::once(ended)
            .filter_map(|end| std::future::ready(end.ok().flatten().map(Err)));
        Ok(Response::new(Box::pin(answers.chain(last))))
    }
}

impl Api {
    /// Up to a tenth of the interval, so that streams opened together are not notified together.
    fn jitter(&self) -> std::time::Duration {
        let tenth = self.limits.watch_progress_every.as_millis() as u64 / 10;
        std::time::Duration::from_millis(self.draw_id() as u64 % tenth.max(1))
    }
}

/// Returns once there has been no leader for as long as `patience`.
async fn left_alone(mut leading: watch::Receiver<Leading>, patience: std::time::Duration) {
    loop {
        if leading
            .wait_for(|leading| leading.leader.is_none())
            .await
            .is_err()
        {
            return;
        }
        let found = leading.wait_for(|leading| leading.leader.is_some());
        if !matches!(tokio::time::timeout(patience, found).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A stream that cannot be read any longer has ended; an empty request is none.
fn translate(request: Result<PbWatchRequest, Status>) -> Option<WatchRequest> {
    match request.ok()?.request_union? {
        PbWatchRequestUnion::CreateRequest(create) => Some(WatchRequest::Create(Create {
            no_put: create.filters.contains(&NOPUT),
            no_delete: create.filters.contains(&NODELETE),
            key: create.key,
            range_end: create.range_end,
            start_revision: create.start_revision,
            progress_notify: create.progress_notify,
            prev_kv: create.prev_kv,
            watch_id: create.watch_id,
            fragment: create.fragment,
        })),
        PbWatchRequestUnion::CancelRequest(cancel) => Some(WatchRequest::Cancel(cancel.watch_id)),
        PbWatchRequestUnion::ProgressRequest(_) => Some(WatchRequest::Progress),
    }
}
