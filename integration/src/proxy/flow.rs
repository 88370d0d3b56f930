//! One direction of a connection: what one side says, queued, and handed on when it is due and its way
//! is open.

use anyhow::Result;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::appends::Unanswered;
use super::{Order, PIECES, Shared, Speech, Way};

/// Most bytes of one piece where nothing is understood.
pub(super) const CHUNK: usize = 16 << 10;

/// Something to be handed on, and when.
pub(super) struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// Where the pieces of one direction wait.
pub(super) struct Queue {
    pieces: mpsc::Sender<Piece>,
    orders: watch::Receiver<Order>,
}

impl Queue {
    /// Puts something behind what waits, once there is room.
    pub(super) async fn put(&self, bytes: Bytes) -> Result<()> {
        let due = Instant::now() + self.orders.borrow().delay();
        Ok(self.pieces.send(Piece { due, bytes }).await?)
    }
}

impl Shared {
    /// What the client says, until it has said all.
    pub(super) async fn requests(
        &self,
        client: ReadHalf<'_>,
        server: WriteHalf<'_>,
        unanswered: &Unanswered,
    ) -> Result<()> {
        let (queue, pieces) = self.queue();
        let client = BufReader::with_capacity(CHUNK, client);
        let read = async move {
            match &self.speech {
                Speech::Bytes => chunks(client, &queue).await,
                Speech::Kafka => self.kafka_requests(client, &queue, unanswered).await,
                Speech::Http(dice) => self.http_requests(client, &queue, dice).await,
            }
        };
        let handed_on = hand_on(pieces, server, Way::ToServer, self.order.subscribe());
        tokio::try_join!(read, handed_on).map(|_| ())
    }

    /// What the server says, until it has said all.
    pub(super) async fn answers(
        &self,
        server: ReadHalf<'_>,
        client: WriteHalf<'_>,
        unanswered: &Unanswered,
    ) -> Result<()> {
        let (queue, pieces) = self.queue();
        let server = BufReader::with_capacity(CHUNK, server);
        let read = async move {
            match &self.speech {
                Speech::Kafka => self.kafka_answers(server, &queue, unanswered).await,
                Speech::Bytes | Speech::Http(_) => chunks(server, &queue).await,
            }
        };
        let handed_on = hand_on(pieces, client, Way::ToClient, self.order.subscribe());
        tokio::try_join!(read, handed_on).map(|_| ())
    }

    fn queue(&self) -> (Queue, mpsc::Receiver<Piece>) {
        let (pieces, waiting) = mpsc::channel(PIECES);
        let orders = self.order.subscribe();
        (Queue { pieces, orders }, waiting)
    }
}

/// Waits until that way is open.
pub(super) async fn open(orders: &mut watch::Receiver<Order>, way: Way) {
    // Without anybody who gives orders the proxy ends, and this with it.
    let _ = orders.wait_for(|order| !order.holds(way)).await;
}

/// Queues what comes as it comes. A side that broke off has said all.
async fn chunks(mut from: impl AsyncRead + Unpin, queue: &Queue) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    while let Ok(1..) = fill(&mut from, &mut chunk).await {
        queue.put(Bytes::copy_from_slice(&chunk)).await?;
        chunk.resize(CHUNK, 0);
    }
    Ok(())
}

/// Reads what is there, shortening the chunk to it.
async fn fill(from: &mut (impl AsyncRead + Unpin), chunk: &mut Vec<u8>) -> std::io::Result<usize> {
    let read = from.read(chunk).await?;
    chunk.truncate(read);
    Ok(read)
}

/// Hands pieces on in order and then says that nothing more comes. What a receiver that is gone does
/// not take is dropped.
async fn hand_on(
    mut pieces: mpsc::Receiver<Piece>,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut orders: watch::Receiver<Order>,
) -> Result<()> {
    let mut gone = false;
    while let Some(piece) = pieces.recv().await {
        tokio::time::sleep_until(piece.due).await;
        open(&mut orders, way).await;
        gone = gone || to.write_all(&piece.bytes).await.is_err();
    }
    open(&mut orders, way).await;
    let _ = to.shutdown().await;
    Ok(())
}
