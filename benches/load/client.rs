//! What asks: gRPC over HTTP/2 as Envoy speaks it, a fixed number of checks in flight at any time.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use h2::client::SendRequest;
use http::{HeaderValue, Request};
use prost::Message as _;
use tokio::{net::TcpStream, task::JoinSet};

/// Connections, as an Envoy with two worker threads holds them: one each.
const CONNECTIONS: usize = 2;

/// What one connection may have received and not yet given back; far more than answers take up, so
/// that flow control costs neither server anything.
const WINDOW: u32 = 16 << 20;

/// Open connections to one server.
pub(crate) struct Client {
    connections: Vec<SendRequest<Bytes>>,
    head: Request<()>,
}

/// What one measured window saw.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Checks answered.
    pub(crate) checks: usize,
    /// From the first question to the last answer.
    pub(crate) elapsed: Duration,
    /// Nanoseconds of each check, sorted.
    latencies: Vec<u64>,
}

impl Window {
    /// Returns checks per second.
    pub(crate) fn rate(&self) -> f64 {
        self.checks as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the latency in microseconds that `percent` of the checks did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1000.0)
    }
}

impl Client {
    /// Connects. Must run within a `LocalSet`.
    ///
    /// # Errors
    /// When a connection is refused or is not HTTP/2.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake(stream)
                .await?;
            tokio::task::spawn_local(async move {
                // A connection's end shows in the checks that are on it.
                drop(connection.await);
            });
            connections.push(sender);
        }
        Ok(Self { connections, head: head(address)? })
    }

    /// Asks one check and returns the decoded answer.
    ///
    /// # Errors
    /// When the RPC fails or the answer cannot be decoded.
    pub(crate) async fn ask(&self, check: Bytes) -> anyhow::Result<CheckResponse> {
        let sender = self.connections.first().context("a connection")?.clone();
        let body = exchange(sender, self.head.clone(), check).await?;
        Ok(CheckResponse::decode(body.get(5..).context("a gRPC message")?)?)
    }

    /// Asks `count` checks in their order, from `first` on and around, with `in_flight` at a time,
    /// and looks at every answer: all must be allowed.
    ///
    /// # Errors
    /// When an RPC fails or a check is not allowed.
    pub(crate) async fn run(
        &self,
        checks: &Rc<Vec<Bytes>>,
        first: usize,
        count: usize,
        in_flight: usize,
    ) -> anyhow::Result<Window> {
        let next = Rc::new(Cell::new(0));
        let latencies = Rc::new(RefCell::new(Vec::with_capacity(count)));
        let mut streams = JoinSet::new();
        let start = Instant::now();
        for stream in 0..in_flight {
            let sender = self.connections[stream % self.connections.len()].clone();
            let (checks, head) = (Rc::clone(checks), self.head.clone());
            let (next, latencies) = (Rc::clone(&next), Rc::clone(&latencies));
            streams.spawn_local(async move {
                while next.get() < count {
                    let check =
                        checks[(first + next.replace(next.get() + 1)) % checks.len()].clone();
                    let asked = Instant::now();
                    let body = exchange(sender.clone(), head.clone(), check).await?;
                    let nanos = asked.elapsed().as_nanos().try_into().unwrap_or(u64::MAX);
                    latencies.borrow_mut().push(nanos);
                    ensure_allowed(&body)?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(stream) = streams.join_next().await {
            stream??;
        }
        let elapsed = start.elapsed();
        let mut latencies = latencies.take();
        latencies.sort_unstable();
        Ok(Window { checks: latencies.len(), elapsed, latencies })
    }
}

/// Makes the head of a check's RPC, with the metadata that Envoy adds.
fn head(address: SocketAddr) -> anyhow::Result<Request<()>> {
    let uri = format!("http://{address}/envoy.service.auth.v3.Authorization/Check");
    Ok(Request::post(uri)
        .header("te", "trailers")
        // Istio's default deadline, so that no check of a crowded machine misses it.
        .header("grpc-timeout", "600000m")
        .header("content-type", "application/grpc")
        .header("x-envoy-internal", "true")
        .header("x-forwarded-for", "10.4.9.2")
        .header("x-envoy-expected-rq-timeout-ms", "600000")
        .body(())?)
}

/// Makes one RPC and returns the message answered, with gRPC's five bytes before it.
async fn exchange(
    sender: SendRequest<Bytes>,
    head: Request<()>,
    check: Bytes,
) -> anyhow::Result<Bytes> {
    let mut sender = sender.ready().await?;
    let (response, mut body) = sender.send_request(head, false)?;
    body.send_data(check, true)?;
    let mut answer = response.await?.into_body();
    let mut message = Bytes::new();
    while let Some(chunk) = answer.data().await {
        let chunk = chunk?;
        answer.flow_control().release_capacity(chunk.len())?;
        message = if message.is_empty() { chunk } else { join(&message, &chunk) };
    }
    let trailers = answer.trailers().await?.context("an RPC ends with trailers")?;
    let status = trailers.get("grpc-status").map(HeaderValue::as_bytes);
    ensure!(status == Some(b"0"), "the RPC failed: {trailers:?}");
    Ok(message)
}

fn join(first: &[u8], second: &[u8]) -> Bytes {
    let mut both = BytesMut::from(first);
    both.extend_from_slice(second);
    both.freeze()
}

/// Looks whether an answer allows. Almost all are settled by their first bytes, an empty `status`
/// (code 0); the rest is decoded.
fn ensure_allowed(body: &[u8]) -> anyhow::Result<()> {
    if matches!(body, [0, _, _, _, _, 0x0a, 0, ..]) {
        return Ok(());
    }
    let answer = CheckResponse::decode(body.get(5..).context("a gRPC message")?)?;
    match answer.status {
        Some(ref status) if status.code == 0 => Ok(()),
        Some(_) | None => bail!("a check was denied: {answer:?}"),
    }
}
