//! Bodies of requests: counted, unpacked, bounded.
//!
//! A body is read whole, at most `wire_bytes_max` of it, within `time`; what it unpacks to is bounded by
//! `decoded_bytes_max` and by a ratio of 100, so that a small bomb is refused after little work. All
//! bodies of a node share `together_bytes_max`: each takes its part as it arrives and keeps it until the
//! request is done with it, so that many slow clients hold no more than a few fast ones.

use std::io::Read;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How much of a body is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes as sent.
    pub wire_bytes_max: usize,
    /// Bytes after unpacking.
    pub decoded_bytes_max: usize,
    /// Bytes of all bodies at once, as sent and unpacked; one of the largest always has its place.
    pub together_bytes_max: usize,
    /// How long a body may take to arrive.
    pub time: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            wire_bytes_max: 16 << 20,
            decoded_bytes_max: 64 << 20,
            together_bytes_max: 256 << 20,
            time: Duration::from_secs(60),
        }
    }
}

/// Longest wait of a body for others to make room, each time it needs more: those that wait for each
/// other are all refused after it.
const ROOM_TIME: Duration = Duration::from_secs(1);

/// Bytes that are counted as one; a permit of the semaphore.
const UNIT_BYTES: usize = 1 << 10;

/// Where the bodies of a node are read. Clones share its room.
#[derive(Clone, Debug)]
pub struct Intake {
    limits: BodyLimits,
    room: Arc<Semaphore>,
}

/// A body in memory; its room is free again when this is dropped.
#[derive(Debug)]
pub struct Taken {
    bytes: Bytes,
    _held: Held,
}

impl Deref for Taken {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// Room of one body.
#[derive(Debug)]
struct Held {
    room: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn bytes(&self) -> usize {
        let permit = self.permit.as_ref();
        permit.map_or(0, OwnedSemaphorePermit::num_permits) * UNIT_BYTES
    }

    /// Permits that are missing for so many bytes.
    fn missing(&self, bytes: usize) -> u32 {
        let missing = bytes.saturating_sub(self.bytes()).div_ceil(UNIT_BYTES);
        u32::try_from(missing).unwrap_or(u32::MAX)
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
    }

    /// Holds room for so many bytes in all, waited for a little.
    async fn reach(&mut self, bytes: usize) -> Result<(), Failure> {
        let missing = self.missing(bytes);
        if missing == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.room).acquire_many_owned(missing);
        match timeout(ROOM_TIME, more).await {
            Ok(Ok(more)) => self.add(more),
            Ok(Err(_)) | Err(_) => return Err(crowded()),
        }
        Ok(())
    }

    /// The same without a wait.
    fn reach_now(&mut self, bytes: usize) -> Result<(), Failure> {
        let missing = self.missing(bytes);
        if missing > 0 {
            let more = Arc::clone(&self.room).try_acquire_many_owned(missing);
            self.add(more.map_err(|_| crowded())?);
        }
        Ok(())
    }
}

fn crowded() -> Failure {
    let detail = "the bodies of other requests take the memory that there is for bodies";
    Failure::new(ErrorCode::Busy, detail)
}

/// Most bytes that one byte may unpack to.
const RATIO_MAX: usize = 100;

/// Longest time in which a body that is refused is still taken.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Intake {
    /// An intake with its own room.
    pub fn new(limits: BodyLimits) -> Self {
        let whole = limits
            .wire_bytes_max
            .saturating_add(limits.decoded_bytes_max);
        let units = limits.together_bytes_max.max(whole).div_ceil(UNIT_BYTES);
        Self {
            limits,
            room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The body of a request, unpacked.
    ///
    /// * errors: `BODY_TOO_LARGE` before more than the limit is held; `BAD_ENCODING` for bytes that do
    ///   not unpack or a connection that ended early; `UNSUPPORTED_MEDIA_TYPE` for another encoding;
    ///   `BODY_TIMEOUT` and `BUSY`, after which it may be sent again.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Taken, Failure> {
        let limits = self.limits;
        let mut held = Held {
            room: Arc::clone(&self.room),
            permit: None,
        };
        let mut stream = body.into_data_stream();
        let arrived = timeout(limits.time, arrive(headers, &mut stream, limits, &mut held));
        let raw = match arrived.await {
            Ok(Ok(raw)) => raw,
            Ok(Err(failure)) => {
                drop(held);
                if failure.code != ErrorCode::BadEncoding {
                    drain(stream, limits).await;
                }
                return Err(failure);
            }
            Err(_) => {
                let detail = format!("the body did not arrive within {:?}", limits.time);
                return Err(Failure::new(ErrorCode::BodyTimeout, detail));
            }
        };
        let bytes = decode(headers, raw, limits, &mut held)?;
        Ok(Taken { bytes, _held: held })
    }
}

/// The bytes as they were sent.
async fn arrive(
    headers: &HeaderMap,
    stream: &mut BodyDataStream,
    limits: BodyLimits,
    held: &mut Held,
) -> Result<Bytes, Failure> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.wire_bytes_max) {
        return Err(too_large("body", limits.wire_bytes_max));
    }
    // What is announced takes no memory before it comes.
    let most = announced.unwrap_or(limits.wire_bytes_max);
    let mut raw = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::new(ErrorCode::BadEncoding, format!("body ended early: {error}"))
        })?;
        let bytes = raw.len() + chunk.len();
        if bytes > limits.wire_bytes_max {
            return Err(too_large("body", limits.wire_bytes_max));
        }
        if bytes > raw.capacity() {
            let capacity = (2 * bytes).min(most).max(bytes);
            held.reach(capacity).await?;
            raw.reserve(capacity - raw.len());
        }
        raw.extend_from_slice(&chunk);
    }
    Ok(raw.freeze())
}

fn decode(
    headers: &HeaderMap,
    raw: Bytes,
    limits: BodyLimits,
    held: &mut Held,
) -> Result<Bytes, Failure> {
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().map(str::to_ascii_lowercase));
    let encoding = encoding.as_ref().map(|name| name.as_deref());
    match encoding {
        None | Some(Ok("" | "identity")) => Ok(raw),
        Some(Ok("gzip" | "x-gzip")) => {
            let decoder = flate2::read::MultiGzDecoder::new(&raw[..]);
            unpack(decoder, raw.len(), limits, held, "gzip")
        }
        Some(Ok("zstd")) => {
            let mut decoder = zstd::stream::read::Decoder::new(&raw[..]).map_err(|error| {
                Failure::new(ErrorCode::BadEncoding, format!("zstd body: {error}"))
            })?;
            let window = decoder.window_log_max(23);
            window.map_err(|error| Failure::new(ErrorCode::BadEncoding, error.to_string()))?;
            unpack(decoder, raw.len(), limits, held, "zstd")
        }
        Some(other) => {
            let named = other.unwrap_or("that is no text");
            let detail = format!("Content-Encoding {named} is none of gzip, zstd, identity");
            Err(Failure::new(ErrorCode::UnsupportedMediaType, detail))
        }
    }
}

/// Takes some of what nobody wants: a client that is still sending when the connection is closed
/// would not see the answer.
async fn drain(mut stream: BodyDataStream, limits: BodyLimits) {
    let drained = async {
        let mut left = limits.wire_bytes_max.saturating_mul(2);
        while let Some(Ok(chunk)) = stream.next().await
            && left > 0
        {
            left = left.saturating_sub(chunk.len());
        }
    };
    // What is not there by then is not waited for.
    let _ = timeout(DRAIN_TIME, drained).await;
}

fn unpack(
    mut decoder: impl Read,
    packed: usize,
    limits: BodyLimits,
    held: &mut Held,
    name: &str,
) -> Result<Bytes, Failure> {
    let ratio_max = packed.saturating_mul(RATIO_MAX).max(1 << 16);
    let most = limits.decoded_bytes_max.min(ratio_max);
    let mut out = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = decoder.read(&mut piece).map_err(|error| {
            Failure::new(ErrorCode::BadEncoding, format!("{name} body: {error}"))
        })?;
        if read == 0 {
            return Ok(out.into());
        }
        if out.len() + read > most {
            return Err(too_large("unpacked body", most));
        }
        held.reach_now(packed + out.len() + read)?;
        out.extend_from_slice(&piece[..read]);
    }
}

fn too_large(what: &str, most: usize) -> Failure {
    Failure::new(
        ErrorCode::BodyTooLarge,
        format!("{what} is above {most} bytes"),
    )
    .hint("send smaller pieces")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIMITS: BodyLimits = BodyLimits {
        wire_bytes_max: 1_000,
        decoded_bytes_max: 100_000,
        together_bytes_max: 0,
        time: Duration::from_secs(60),
    };

    async fn take(encoding: &'static str, body: Vec<u8>) -> Result<Bytes, ErrorCode> {
        let mut headers = HeaderMap::new();
        if !encoding.is_empty() {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        let taken = Intake::new(LIMITS).read(&headers, Body::from(body)).await;
        taken
            .map(|taken| taken.bytes.clone())
            .map_err(|failure| failure.code)
    }

    /// A body that sends so many bytes and then nothing.
    fn stalls_after(bytes: usize) -> Body {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(vec![b'x'; bytes])]);
        Body::from_stream(first.chain(futures::stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let intake = Intake::new(BodyLimits {
            time: Duration::from_millis(20),
            ..LIMITS
        });
        let failure = intake.read(&HeaderMap::new(), stalls_after(10)).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.code, ErrorCode::BodyTimeout);
        assert!(failure.retryable());
    }

    #[tokio::test]
    async fn bodies_share_what_there_is_and_give_it_back() {
        // Room for 99 units: the largest body as sent and unpacked.
        let intake = Intake::new(LIMITS);
        let tasks = tokio_util::task::TaskTracker::new();
        let read = |body| {
            let intake = intake.clone();
            tasks.spawn(async move { intake.read(&HeaderMap::new(), body).await })
        };
        let mut slow: Vec<_> = (0..99).map(|_| read(stalls_after(1_000))).collect();
        let taken_up = async {
            while intake.room.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), taken_up).await.unwrap();
        let failure = read(Body::from(vec![0; 10])).await.unwrap().unwrap_err();
        assert_eq!(failure.code, ErrorCode::Busy);
        assert!(failure.retryable());

        slow.pop().unwrap().abort();
        // Waits for the room that the aborted one gives back.
        let taken = read(Body::from(vec![0; 10])).await.unwrap().unwrap();
        let failure = read(Body::from(vec![0; 10])).await.unwrap().unwrap_err();
        assert_eq!((taken.len(), failure.code), (10, ErrorCode::Busy));
        drop(taken);
        read(Body::from(vec![0; 10])).await.unwrap().unwrap();

        for slow in slow {
            slow.abort();
            assert!(slow.await.unwrap_err().is_cancelled());
        }
        assert_eq!(intake.room.available_permits(), 99);
    }

    #[tokio::test]
    async fn what_a_body_unpacks_to_counts_as_well() {
        let intake = Intake::new(LIMITS);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        let packed = gzip(&vec![0; 60_000]);
        let taken = intake.read(&headers, Body::from(packed.clone())).await;
        let taken = taken.unwrap();
        let again = intake.read(&headers, Body::from(packed)).await;
        assert_eq!(
            (taken.len(), again.unwrap_err().code),
            (60_000, ErrorCode::Busy)
        );
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn plain_and_packed_bodies_come_out_the_same() {
        let plain = b"cpu,host=a v=1".repeat(20);
        assert_eq!(take("", plain.clone()).await.unwrap(), plain);
        assert_eq!(take("identity", plain.clone()).await.unwrap(), plain);
        for gzipped in ["gzip", "x-gzip", "GZIP"] {
            assert_eq!(take(gzipped, gzip(&plain)).await.unwrap(), plain);
        }
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        assert_eq!(take("zstd", zstd).await.unwrap(), plain);
    }

    #[tokio::test]
    async fn bombs_and_broken_bodies_are_refused_by_name() {
        assert_eq!(take("", vec![0; 1_001]).await, Err(ErrorCode::BodyTooLarge));
        assert_eq!(
            take("gzip", gzip(&vec![0; 900_000])).await,
            Err(ErrorCode::BodyTooLarge)
        );
        let zstd = zstd::encode_all(&vec![0; 50_000_000][..], 19).unwrap();
        assert_eq!(take("zstd", zstd).await, Err(ErrorCode::BodyTooLarge));
        assert_eq!(
            take("gzip", b"no gzip".to_vec()).await,
            Err(ErrorCode::BadEncoding)
        );
        let cut = gzip(b"cpu v=1").split_at(12).0.to_vec();
        assert_eq!(take("gzip", cut).await, Err(ErrorCode::BadEncoding));
        assert_eq!(
            take("br", b"x".to_vec()).await,
            Err(ErrorCode::UnsupportedMediaType)
        );
    }
}
