//! Orders that come twice, late, or under a leader that is no more.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use auxo_proto::pb::meta::{Close, NodeLoad};
use tokio::sync::Notify;

use super::*;

/// Closes shards: 1 at once, 2 when told, 3 never, 4 only the second time.
#[derive(Default)]
struct Closer {
    closed: AtomicUsize,
    go: Notify,
}

#[async_trait]
impl Verbs for Closer {
    async fn open(&self, _: OpenShard) -> Result<ShardState, VerbError> {
        Err(VerbError::permanent("UNSUPPORTED", "open"))
    }

    async fn close(&self, shard: ShardId, _: u64) -> Result<(), VerbError> {
        let before = self.closed.fetch_add(1, Ordering::SeqCst);
        match shard.0 {
            2 => self.go.notified().await,
            3 => return Err(VerbError::permanent("PARKED", "needs an operator")),
            4 if before == 0 => return Err(VerbError::passing("BUSY", "later")),
            _ => {}
        }
        Ok(())
    }

    async fn switch(&self, _: ShardId, _: u64, _: ShardRole) -> Result<ShardState, VerbError> {
        Err(VerbError::permanent("UNSUPPORTED", "switch"))
    }

    async fn flush(&self, _: ShardId, _: u64, _: u64) -> Result<ShardState, VerbError> {
        Err(VerbError::permanent("UNSUPPORTED", "flush"))
    }

    async fn create_tablets(
        &self,
        _: ShardId,
        _: u64,
        _: Vec<TabletSpec>,
    ) -> Result<(), VerbError> {
        Ok(())
    }

    async fn drop_tablets(&self, _: ShardId, _: u64, _: Vec<TabletId>) -> Result<(), VerbError> {
        Ok(())
    }

    fn shards(&self) -> Vec<ShardState> {
        vec![ShardState {
            shard: 5,
            epoch: 9,
            ..ShardState::default()
        }]
    }

    fn load(&self) -> NodeLoad {
        NodeLoad::default()
    }
}

struct Desk {
    closer: Arc<Closer>,
    orders: Orders,
    answers: mpsc::Receiver<Answer>,
    kept: Arc<Mutex<Vec<Became>>>,
}

fn desk() -> Desk {
    let closer = Arc::new(Closer::default());
    let orders = Orders::new(Arc::clone(&closer) as Arc<dyn Verbs>, TaskTracker::new());
    let (send, answers) = mpsc::channel(64);
    orders.connect((0, 10), send);
    Desk {
        closer,
        orders,
        answers,
        kept: Arc::default(),
    }
}

impl Desk {
    fn close(&self, id: &str, shard: u64, epoch: u64, revision: u64) {
        let kept = Arc::clone(&self.kept);
        let keep: Keep = Arc::new(move |became| {
            kept.lock().push(became);
            Box::pin(async {})
        });
        let order = Order {
            id: id.to_owned(),
            reign: Some(Reign {
                restored: 0,
                revision,
            }),
            shard,
            epoch,
            verb: Some(Verb::Close(Close {})),
            ..Order::default()
        };
        self.orders.take(order, keep);
    }

    async fn next(&mut self) -> String {
        let answer = self.answers.recv().await.unwrap();
        let what = match answer.outcome.unwrap() {
            Outcome::Accepted(_) => "accepted".to_owned(),
            Outcome::Progress(_) => "progress".to_owned(),
            Outcome::Done(_) => "done".to_owned(),
            Outcome::Failed(failed) => failed.code,
        };
        format!("{} {what}", answer.order)
    }
}

#[tokio::test]
async fn an_order_that_comes_again_is_done_once_and_answered_again() {
    let mut desk = desk();
    desk.close("a", 1, 1, 10);
    assert_eq!(desk.next().await, "a accepted");
    assert_eq!(desk.next().await, "a done");
    desk.close("a", 1, 1, 10);
    assert_eq!(desk.next().await, "a done");
    assert_eq!(desk.closer.closed.load(Ordering::SeqCst), 1);
    assert_eq!(*desk.kept.lock(), [Became::NotLed(ShardId(1))]);
    desk.close("b", 3, 1, 10);
    assert_eq!(desk.next().await, "b accepted");
    assert_eq!(desk.next().await, "b PARKED");
    desk.close("b", 3, 1, 10);
    assert_eq!(desk.next().await, "b PARKED");
}

#[tokio::test]
async fn a_running_order_answers_with_progress_on_the_newest_stream() {
    let mut desk = desk();
    desk.close("a", 2, 1, 10);
    assert_eq!(desk.next().await, "a accepted");
    assert_eq!(desk.orders.unfinished(), ["a"]);
    let (send, answers) = mpsc::channel(64);
    desk.orders.connect((0, 11), send);
    desk.answers = answers;
    desk.close("a", 2, 1, 11);
    assert_eq!(desk.next().await, "a progress");
    desk.closer.go.notify_one();
    assert_eq!(desk.next().await, "a done");
    assert_eq!(desk.closer.closed.load(Ordering::SeqCst), 1);
    assert!(desk.orders.unfinished().is_empty());
}

#[tokio::test]
async fn a_long_order_says_that_it_is_at_it() {
    let mut desk = desk();
    desk.close("a", 2, 1, 10);
    assert_eq!(desk.next().await, "a accepted");
    assert_eq!(desk.next().await, "a progress");
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again() {
    let mut desk = desk();
    desk.close("a", 4, 1, 10);
    assert_eq!(desk.next().await, "a accepted");
    assert_eq!(desk.next().await, "a BUSY");
    desk.close("a", 4, 1, 10);
    assert_eq!(desk.next().await, "a accepted");
    assert_eq!(desk.next().await, "a done");
}

#[tokio::test]
async fn lower_reigns_and_epochs_are_refused() {
    let mut desk = desk();
    desk.close("a", 1, 1, 9);
    assert_eq!(desk.next().await, "a STALE_REIGN");
    desk.close("b", 5, 8, 10);
    assert_eq!(desk.next().await, "b STALE_EPOCH");
    desk.close("c", 5, 9, 12);
    assert_eq!(desk.next().await, "c accepted");
    assert_eq!(desk.next().await, "c done");
    desk.close("d", 1, 1, 11);
    assert_eq!(desk.next().await, "d STALE_REIGN");
    assert_eq!(desk.closer.closed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_oldest_answers_are_forgotten() {
    let mut desk = desk();
    for n in 0..=REMEMBERED {
        desk.close(&n.to_string(), 1, 1, 10);
        assert_eq!(desk.next().await, format!("{n} accepted"));
        assert_eq!(desk.next().await, format!("{n} done"));
    }
    desk.close("1", 1, 1, 10);
    assert_eq!(desk.next().await, "1 done");
    desk.close("0", 1, 1, 10);
    assert_eq!(desk.next().await, "0 accepted");
}
