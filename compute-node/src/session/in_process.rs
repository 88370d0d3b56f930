//! A listener and a channel to it inside one process, for a standalone node and for tests: the same
//! gRPC as over a socket.
//!
//! Never here: who is behind the listener.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Bytes on their way in each direction of a connection.
const BUFFER_BYTES: usize = 1 << 20;
/// Connections that are not accepted yet.
const BACKLOG: usize = 16;

/// A channel, and the connections it makes, to be served.
///
/// * returns: the channel connects when it is first used, and again whenever a connection ended.
pub fn in_process() -> (Channel, ReceiverStream<io::Result<DuplexStream>>) {
    let (accept, incoming) = mpsc::channel(BACKLOG);
    let connector = service_fn(move |_: http::Uri| {
        let accept = accept.clone();
        async move {
            let (near, far) = tokio::io::duplex(BUFFER_BYTES);
            let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens");
            accept.send(Ok(far)).await.map_err(gone)?;
            Ok::<_, io::Error>(TokioIo::new(near))
        }
    });
    let channel = Endpoint::from_static("http://in-process").connect_with_connector_lazy(connector);
    (channel, ReceiverStream::new(incoming))
}
