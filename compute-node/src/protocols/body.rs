//! Bodies of requests: counted, unpacked, bounded.
//!
//! A body is read whole, at most `wire_bytes_max` of it; what it unpacks to is bounded by
//! `decoded_bytes_max` and by a ratio of 100, so that a small bomb is refused after little work.

use std::io::Read;

use auxo_proto::error::{ErrorCode, Failure};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

/// How much of a body is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes as sent.
    pub wire_bytes_max: usize,
    /// Bytes after unpacking.
    pub decoded_bytes_max: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            wire_bytes_max: 16 << 20,
            decoded_bytes_max: 64 << 20,
        }
    }
}

/// Most bytes that one byte may unpack to.
const RATIO_MAX: usize = 100;

/// The body of a request, unpacked.
///
/// * errors: `BODY_TOO_LARGE` before more than the limit is held; `BAD_ENCODING` for bytes that do
///   not unpack or a connection that ended early; `UNSUPPORTED_MEDIA_TYPE` for another encoding.
pub async fn read(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<Bytes, Failure> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.wire_bytes_max) {
        return Err(too_large("body", limits.wire_bytes_max));
    }
    let mut stream = body.into_data_stream();
    let mut raw = BytesMut::with_capacity(announced.unwrap_or(0).min(limits.wire_bytes_max));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::new(ErrorCode::BadEncoding, format!("body ended early: {error}"))
        })?;
        if raw.len() + chunk.len() > limits.wire_bytes_max {
            return Err(too_large("body", limits.wire_bytes_max));
        }
        raw.extend_from_slice(&chunk);
    }
    let raw = raw.freeze();
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str());
    match encoding {
        None | Some(Ok("" | "identity")) => Ok(raw),
        Some(Ok("gzip" | "x-gzip")) => unpack(
            flate2::read::MultiGzDecoder::new(&raw[..]),
            raw.len(),
            limits,
            "gzip",
        ),
        Some(Ok("zstd")) => {
            let mut decoder = zstd::stream::read::Decoder::new(&raw[..]).map_err(|error| {
                Failure::new(ErrorCode::BadEncoding, format!("zstd body: {error}"))
            })?;
            let window = decoder.window_log_max(23);
            window.map_err(|error| Failure::new(ErrorCode::BadEncoding, error.to_string()))?;
            unpack(decoder, raw.len(), limits, "zstd")
        }
        Some(other) => {
            let named = other.unwrap_or("that is no text");
            let detail = format!("Content-Encoding {named} is none of gzip, zstd, identity");
            Err(Failure::new(ErrorCode::UnsupportedMediaType, detail))
        }
    }
}

fn unpack(
    mut decoder: impl Read,
    packed: usize,
    limits: BodyLimits,
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
    };

    async fn take(encoding: &'static str, body: Vec<u8>) -> Result<Bytes, ErrorCode> {
        let mut headers = HeaderMap::new();
        if !encoding.is_empty() {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        read(&headers, Body::from(body), LIMITS)
            .await
            .map_err(|failure| failure.code)
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
        assert_eq!(take("gzip", gzip(&plain)).await.unwrap(), plain);
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
