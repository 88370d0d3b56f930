//! One client's watch stream: its watchers, their positions, and what they are sent.
//!
//! Each turn of the loop takes one request or one signal, then delivers: first to the watchers within
//! the ring, then one piece of the history to those behind it. All events of one revision go out in one
//! answer, unless the watcher asked for fragments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbResponseHeader, PbWatchResponse};
use futures::{Stream as Requests, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::Feed;
use crate::mvcc::{Changes, Fault, Keys, Piece, point_at};

/// Watchers that are replayed from the history at one turn.
const BEHIND_PER_TURN: usize = 512;
/// An answer is closed at the revision that brings it past this.
const ANSWER_BYTES: usize = 1 << 20;
/// No watcher: the answer is about the stream, or about a watcher that never was.
const NO_WATCHER: i64 = -1;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";

/// What a client asks of its stream.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Create(Create),
    Cancel(i64),
    Progress,
}

/// A watcher to make.
#[derive(Debug, Clone, Default)]
pub(crate) struct Create {
    pub(crate) key: Vec<u8>,
    pub(crate) range_end: Vec<u8>,
    /// 0 means after the head.
    pub(crate) start_revision: i64,
    pub(crate) progress_notify: bool,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) prev_kv: bool,
    /// 0 means that one is chosen.
    pub(crate) watch_id: i64,
    pub(crate) fragment: bool,
}

struct Watcher {
    wanted: Create,
    /// The first revision it has not been sent.
    next: i64,
    /// Sent no event since the last progress notice.
    idle: bool,
}

impl Watcher {
    fn wants(&self, event: &PbEvent) -> bool {
        let filtered = if event.r#type == EventType::Delete as i32 {
            self.wanted.no_delete
        } else {
            self.wanted.no_put
        };
        let keys = Keys::of(&self.wanted.key, &self.wanted.range_end);
        !filtered && event.kv.as_ref().is_some_and(|kv| keys.contains(&kv.key))
    }
}

/// Why a stream ends.
enum End {
    /// The client has gone, or the server stops.
    Closed,
    /// The tables cannot be read.
    Broken(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

/// One watch stream.
pub(crate) struct Stream {
    feed: Arc<Feed>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// Progress requests to answer once all watchers have been sent everything.
    progress_wanted: usize,
    answers: mpsc::Sender<PbWatchResponse>,
    stop: CancellationToken,
    fragment_bytes: usize,
}

impl Stream {
    /// * `answers`: their headers carry the revision alone.
    /// * `fragment_bytes`: no piece of a fragmented answer is longer, if events allow.
    pub(crate) fn new(
        feed: Arc<Feed>,
        answers: mpsc::Sender<PbWatchResponse>,
        stop: CancellationToken,
        fragment_bytes: usize,
    ) -> Self {
        Self {
            feed,
            watchers: BTreeMap::new(),
            next_id: 0,
            progress_wanted: 0,
            answers,
            stop,
            fragment_bytes,
        }
    }

    /// Serves the stream until nobody takes answers any longer, or it is stopped. The end of requests
    /// is not the end: watchers go on.
    ///
    /// * errors: the tables cannot be read.
    pub(crate) async fn run(
        mut self,
        requests: impl Requests<Item = Request> + Unpin,
        notify_every: Duration,
    ) -> Result<(), Fault> {
        match self.serve(requests, notify_every).await {
            End::Closed => Ok(()),
            End::Broken(fault) => Err(fault),
        }
    }

    async fn serve(
        &mut self,
        mut requests: impl Requests<Item = Request> + Unpin,
        notify_every: Duration,
    ) -> End {
        let mut head = self.feed.subscribe();
        let mut notify = interval_at(Instant::now() + notify_every, notify_every);
        notify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let answers = self.answers.clone();
        let mut more_requests = true;
        let mut behind = false;
        loop {
            let turn = tokio::select! {
                () = stop.cancelled() => Err(End::Closed),
                () = answers.closed() => Err(End::Closed),
                request = requests.next(), if more_requests => match request {
                    Some(request) => self.obey(request).await,
                    None => {
                        more_requests = false;
                        Ok(())
                    }
                },
                _ = head.changed() => Ok(()),
                _ = notify.tick() => self.notify().await,
                () = std::future::ready(()), if behind => Ok(()),
            };
            if let Err(end) = turn {
                return end;
            }
            match self.deliver().await {
                Ok(still_behind) => behind = still_behind,
                Err(end) => return end,
            }
        }
    }

    async fn obey(&mut self, request: Request) -> Result<(), End> {
        match request {
            Request::Create(create) => self.create(create).await,
            Request::Cancel(id) => {
                if self.watchers.remove(&id).is_none() {
                    return Ok(());
                }
                self.send(PbWatchResponse {
                    canceled: true,
                    ..answer(id, self.feed.head())
                })
                .await
            }
            Request::Progress => {
                self.progress_wanted += 1;
                Ok(())
            }
        }
    }

    async fn create(&mut self, mut wanted: Create) -> Result<(), End> {
        if wanted.key.is_empty() {
            wanted.key = vec![0];
        }
        let head = self.feed.head();
        let refused = if wanted.start_revision < 0 {
            Some(COMPACTED)
        } else if Keys::of(&wanted.key, &wanted.range_end).is_empty() {
            Some(EMPTY_RANGE)
        } else if wanted.watch_id != 0 && self.watchers.contains_key(&wanted.watch_id) {
            Some(DUPLICATE)
        } else {
            None
        };
        if let Some(reason) = refused {
            return self
                .send(PbWatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason: reason.to_owned(),
                    ..answer(NO_WATCHER, head)
                })
                .await;
        }
        let id = if wanted.watch_id == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        } else {
            wanted.watch_id
        };
        let next = match wanted.start_revision {
            0 => head + 1,
            start => start,
        };
        let watcher = Watcher {
            wanted,
            next,
            idle: true,
        };
        self.watchers.insert(id, watcher);
        self.send(PbWatchResponse {
            created: true,
            ..answer(id, head)
        })
        .await?;
        // The ring may still hold what is compacted: asking for it is refused all the same.
        self.cancel_behind(&[id], self.feed.compacted()).await
    }

    /// Tells idle watchers that want to know how far they have come.
    async fn notify(&mut self) -> Result<(), End> {
        let head = self.feed.head();
        let mut notices = Vec::new();
        for (id, watcher) in &mut self.watchers {
            if watcher.wanted.progress_notify && watcher.idle && watcher.next > head {
                notices.push(*id);
            }
            watcher.idle = true;
        }
        for id in notices {
            self.send(answer(id, head)).await?;
        }
        Ok(())
    }

    /// One turn of delivery.
    ///
    /// * returns: whether some watcher is still behind.
    async fn deliver(&mut self) -> Result<bool, End> {
        let head = self.feed.head();
        let (mut current, mut behind) = (Vec::new(), Vec::new());
        for (id, watcher) in &self.watchers {
            if watcher.next > head {
                continue;
            }
            if self.feed.holds(watcher.next) {
                current.push(*id);
            } else if behind.len() < BEHIND_PER_TURN {
                behind.push(*id);
            }
        }
        for ids in [current, behind] {
            let nexts = ids.iter().filter_map(|id| self.watchers.get(id));
            let Some(from) = nexts.map(|watcher| watcher.next).min() else {
                continue;
            };
            match self.read(from).await? {
                Piece::Changes { changes, upto } => self.hand_out(&ids, &changes, upto).await?,
                Piece::Compacted(boundary) => self.cancel_behind(&ids, boundary).await?,
            }
        }
        let head = self.feed.head();
        let still_behind = self.watchers.values().any(|watcher| watcher.next <= head);
        while !still_behind && self.progress_wanted > 0 {
            self.progress_wanted -= 1;
            self.send(answer(NO_WATCHER, head)).await?;
        }
        Ok(still_behind)
    }

    /// Reads a piece: at once from memory, on a thread of its own from the tables.
    async fn read(&self, from: i64) -> Result<Piece, Fault> {
        if self.feed.holds(from) {
            return self.feed.since(from);
        }
        let feed = self.feed.clone();
        let read = tokio::task::spawn_blocking(move || feed.since(from));
        read.await
            .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?
    }

    /// Moves the watchers on over a piece, one after the other.
    async fn hand_out(
        &mut self,
        ids: &[i64],
        changes: &[Arc<Changes>],
        upto: i64,
    ) -> Result<(), End> {
        for id in ids {
            let Some(watcher) = self.watchers.get_mut(id) else {
                continue;
            };
            let answers = pieces(watcher, changes, &self.feed)?;
            watcher.idle &= answers.is_empty();
            watcher.next = watcher.next.max(upto + 1);
            let fragment = watcher.wanted.fragment;
            for events in answers {
                let whole = PbWatchResponse {
                    events,
                    ..answer(*id, upto)
                };
                if !fragment {
                    self.send(whole).await?;
                    continue;
                }
                for piece in fragments(whole, self.fragment_bytes) {
                    self.send(piece).await?;
                }
            }
        }
        Ok(())
    }

    async fn cancel_behind(&mut self, ids: &[i64], boundary: i64) -> Result<(), End> {
        for id in ids {
            if self
                .watchers
                .get(id)
                .is_some_and(|watcher| watcher.next < boundary)
            {
                self.watchers.remove(id);
                self.send(PbWatchResponse {
                    canceled: true,
                    compact_revision: boundary,
                    cancel_reason: COMPACTED.to_owned(),
                    ..answer(*id, self.feed.head())
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn send(&self, answer: PbWatchResponse) -> Result<(), End> {
        tokio::select! {
            () = self.stop.cancelled() => Err(End::Closed),
            sent = self.answers.send(answer) => sent.map_err(|_| End::Closed),
        }
    }
}

fn answer(id: i64, revision: i64) -> PbWatchResponse {
    PbWatchResponse {
        header: Some(PbResponseHeader {
            revision,
            ..Default::default()
        }),
        watch_id: id,
        ..Default::default()
    }
}

/// The events a watcher wants, in pieces of whole revisions.
fn pieces(
    watcher: &Watcher,
    changes: &[Arc<Changes>],
    feed: &Feed,
) -> Result<Vec<Vec<PbEvent>>, Fault> {
    let mut done = Vec::new();
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut view = None;
    for change in changes
        .iter()
        .filter(|change| change.revision >= watcher.next)
    {
        for event in change.events.iter().filter(|event| watcher.wants(event)) {
            let mut event = event.clone();
            if watcher.wanted.prev_kv
                && let Some(kv) = event.kv.as_ref().filter(|kv| !is_creation(kv))
            {
                let view = match &mut view {
                    Some(view) => view,
                    none => none.insert(feed.store().view()?),
                };
                event.prev_kv = point_at(view, &kv.key, kv.mod_revision - 1)?;
            }
            bytes += event.encoded_len();
            events.push(event);
        }
        if bytes >= ANSWER_BYTES {
            done.push(std::mem::take(&mut events));
            bytes = 0;
        }
    }
    if !events.is_empty() {
        done.push(events);
    }
    Ok(done)
}

/// A deletion carries no creation revision, thus is none.
fn is_creation(kv: &etcd_client::proto::PbKeyValue) -> bool {
    kv.create_revision == kv.mod_revision
}

/// Splits an answer by its events so that each piece keeps within `bytes_max`, or holds one event.
fn fragments(whole: PbWatchResponse, bytes_max: usize) -> Vec<PbWatchResponse> {
    /// Field number, length, and the flag of a fragment.
    const AROUND_EVENT: usize = 16;
    let empty = PbWatchResponse {
        events: Vec::new(),
        ..whole.clone()
    };
    let start = empty.encoded_len();
    let mut bytes = start;
    let mut pieces = vec![empty.clone()];
    for event in whole.events {
        let more = event.encoded_len() + AROUND_EVENT;
        if bytes + more > bytes_max && bytes > start {
            pieces.push(empty.clone());
            bytes = start;
        }
        bytes += more;
        if let Some(piece) = pieces.last_mut() {
            piece.events.push(event);
        }
    }
    let last = pieces.len() - 1;
    for piece in &mut pieces[..last] {
        piece.fragment = true;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::*;

    #[test]
    fn fragments_hold_all_events_in_order_and_within_bounds() {
        let event = |n: u8| PbEvent {
            kv: Some(PbKeyValue {
                key: vec![n; 100],
                ..Default::default()
            }),
            ..Default::default()
        };
        let whole = PbWatchResponse {
            events: (0..10).map(event).collect(),
            ..answer(3, 7)
        };
        let pieces = fragments(whole.clone(), 400);
        assert!(pieces.len() > 2);
        assert!(pieces.iter().all(|piece| piece.encoded_len() <= 400));
        let (last, others) = pieces.split_last().unwrap();
        assert!(!last.fragment && others.iter().all(|piece| piece.fragment));
        let events: Vec<_> = pieces
            .iter()
            .flat_map(|piece| piece.events.clone())
            .collect();
        assert_eq!(events, whole.events);
        assert_eq!(fragments(whole.clone(), 1 << 20), [whole]);
    }
}
