//! One connection: who calls, HTTP/2 under bounds, and its end.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use super::{
    caller::{self, Caller},
    dispatch::{Calls, CheckService, dispatch},
    listener::Socket,
    preface::Prefaced,
    tls::Tls,
};
use crate::{clock::SharedClock, config::GrpcSettings};

/// Is told what happens to connections.
pub trait ConnectionObserver: Send + Sync + 'static {
    /// Says that one is served, as long as the answer lives.
    fn opened(&self) -> Box<dyn Send>;

    /// Says that one was closed without being served.
    fn refused(&self, cause: Refused);
}

/// Why a connection was closed without being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The caller's certificate names nobody who may ask.
    Caller,
    /// `maxConnections` were open.
    Limit,
    /// No HTTP/2 preface came, or not in time.
    Preface,
    /// The TLS handshake failed or took too long.
    Tls,
}

/// What all connections have in common.
pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) health: HealthServer<HealthService>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) http2: http2::Builder<TokioExecutor>,
    pub(super) max_age: Duration,
    pub(super) clock: SharedClock,
    pub(super) observer: Arc<dyn ConnectionObserver>,
    /// Connections closed with calls in flight, their time after the GOAWAY being over.
    pub(super) cut_off: Arc<AtomicU64>,
    /// `Some` from when connections are to end: how long calls in flight may still take.
    pub(super) closing: watch::Receiver<Option<Duration>>,
}

/// Returns HTTP/2 with our bounds.
pub(super) fn http2(settings: &GrpcSettings) -> http2::Builder<TokioExecutor> {
    let window = u32::try_from(settings.max_message_bytes)
        .unwrap_or(MAX_WINDOW)
        .clamp(MIN_WINDOW, MAX_WINDOW);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        // Envoy gives up on all its calls at once when we stall: only more resets than it can have
        // calls are an attack (CVE-2023-44487).
        .max_pending_accept_reset_streams(
            usize::try_from(settings.max_concurrent_streams).unwrap_or(usize::MAX),
        )
        .max_header_list_size(MAX_HEADER_LIST)
        .max_frame_size(MAX_FRAME)
        // A message of the largest size is sent without waiting for us, and a second beside it.
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.saturating_mul(2).min(MAX_WINDOW))
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // gRPC has no use for `date`.
        .auto_date_header(false);
    http2
}

/// Serves one connection to its end.
pub(super) async fn serve<S: CheckService>(socket: Socket, shared: Arc<Shared<S>>) {
    let served = match socket {
        Socket::Tcp(stream) => serve_tcp(stream, &shared).await,
        // A Unix socket's callers are those whom its mode lets in: no TLS.
        Socket::Unix(stream) => match UnixStream::from_std(stream) {
            Ok(stream) => serve_http2(stream, None, &shared).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection could not be set up");
    }
}

async fn serve_tcp<S: CheckService>(
    stream: std::net::TcpStream,
    shared: &Arc<Shared<S>>,
) -> io::Result<()> {
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let Some(tls) = &shared.tls else { return serve_http2(stream, None, shared).await };
    let peer = stream.peer_addr()?;
    let handshake = TlsAcceptor::from(tls.current()).accept(stream);
    let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.observer.refused(Refused::Tls);
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            return Ok(());
        }
        Err(_elapsed) => {
            shared.observer.refused(Refused::Tls);
            tracing::debug!(%peer, "a TLS handshake took too long");
            return Ok(());
        }
    };
    if !tls.asks_callers() {
        return serve_http2(stream, None, shared).await;
    }
    // The verifier lets nobody pass without a certificate; if it did, its absence would be malformed.
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match caller::admit(leaf.map_or(&[], |leaf| leaf.as_ref()), tls.rule()) {
        Ok(caller) => serve_http2(stream, Some(caller), shared).await,
        Err(error) => {
            shared.observer.refused(Refused::Caller);
            tracing::warn!(%peer, %error, "a caller was refused");
            Ok(())
        }
    }
}

async fn serve_http2<I, S>(io: I, caller: Option<Caller>, shared: &Arc<Shared<S>>) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: CheckService,
{
    let mut closing = shared.closing.clone();
    let io = tokio::select! {
        io = timeout(PREFACE_TIMEOUT, Prefaced::read(io)) => {
            let Ok(Ok(io)) = io else {
                shared.observer.refused(Refused::Preface);
                return Ok(());
            };
            io
        }
        _ = closing.wait_for(Option::is_some) => return Ok(()),
    };
    let _open = shared.observer.opened();
    let age = age(shared, caller.as_ref());
    let calls = Calls {
        service: shared.service.clone(),
        health: shared.health.clone(),
        caller: caller.and_then(|caller| caller.id),
    };
    let connection = shared
        .http2
        .serve_connection(TokioIo::new(io), service_fn(move |request| dispatch(&calls, request)));
    let mut connection = pin!(connection);
    // The connection first: it is what a wake-up is nearly always about.
    let grace = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = sleep(age) => AGE_GRACE,
        closed = closing.wait_for(Option::is_some) => {
            // An error is a server that is gone: the same, without time.
            closed.ok().and_then(|closing| *closing).unwrap_or_default()
        }
    };
    connection.as_mut().graceful_shutdown();
    let ended = tokio::select! {
        biased;
        ended = timeout(grace, connection.as_mut()) => ended.is_ok(),
        // Old age must not outlast the drain.
        () = after_closing(closing) => false,
    };
    if !ended {
        shared.cut_off.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Ends when the time that connections are given after closing is over.
async fn after_closing(mut closing: watch::Receiver<Option<Duration>>) {
    let grace = match closing.wait_for(Option::is_some).await {
        Ok(closing) => closing.unwrap_or_default(),
        Err(_gone) => Duration::ZERO,
    };
    sleep(grace).await;
}

/// Returns how old the connection may become: as configured, give or take a tenth, so that connections
/// that began together do not end together; and not older than the caller's certificate.
fn age<S>(shared: &Shared<S>, caller: Option<&Caller>) -> Duration {
    let age = shared.max_age.mul_f64(rand::rng().random_range(0.9..=1.1));
    caller.map_or(age, |caller| age.min(caller.remaining(shared.clock.now())))
}

/// As Envoy's own default, and more than any handshake across a cluster takes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client sends its preface at once; a socket that stays silent is half open or an attack.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds peers that vanished without a FIN, well before common idle limits of the network (350 s).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A living peer answers a PING in milliseconds.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Many times the bound of a check: what is then still open hangs.
const AGE_GRACE: Duration = Duration::from_secs(10);

/// The headers of the RPC itself (not of the checked request) are a dozen short ones. But Envoy can be told
/// to copy the request's own into them, and a refusal here is an RPC error, which may be an allow: so there
/// is room for all that Envoy takes from a client by default (60 KiB).
const MAX_HEADER_LIST: u32 = 96 << 10;

/// RFC 9113's initial value: larger frames would let one message hold up the others.
const MAX_FRAME: u32 = 16 << 10;

/// RFC 9113 §6.9.2: what every client starts with.
const MIN_WINDOW: u32 = 65_535;

/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
