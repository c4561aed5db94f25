//! The gRPC server: where Envoy asks.
//!
//! Connections are accepted on the background runtime and served by workers, each a thread with a runtime
//! of its own, so that neither a reload nor a fetch can hold up a check.

mod caller;
mod connection;
mod dispatch;
mod health;
mod listener;
mod preface;
mod tls;
mod worker;

use std::{
    fmt, io,
    num::NonZeroUsize,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

pub use self::{
    caller::{CallerError, CallerRule},
    connection::{ConnectionObserver, Refused},
    dispatch::CheckService,
    health::Lifecycle,
    listener::{ListenError, Listener, Shown, Socket},
    tls::{Refreshed, Tls, TlsError},
};
use self::{
    connection::Shared,
    worker::{Accepted, Workers},
};
use crate::{
    clock::SharedClock,
    config::{Endpoint, GrpcSettings},
};

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    bound: Vec<Endpoint>,
    accepting: Vec<JoinHandle<()>>,
    /// Held by the accepting tasks, so that it ends with them.
    workers: Weak<Workers>,
    closing: watch::Sender<Option<Duration>>,
    permits: Arc<Semaphore>,
    max_connections: u32,
    lifecycle: Lifecycle,
    cut_off: Arc<AtomicU64>,
}

/// What a server is made of besides its settings.
pub struct Parts<S> {
    /// Answers the checks.
    pub service: S,
    /// Health; shared with readiness.
    pub lifecycle: Lifecycle,
    /// TLS of the TCP endpoints; `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
    /// Is told what happens to connections.
    pub observer: Arc<dyn ConnectionObserver>,
    /// The time.
    pub clock: SharedClock,
    /// Threads; `None`: one per core.
    pub workers: Option<usize>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint cannot be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An endpoint others can reach has no TLS.
    #[error(
        "`{}` can be reached from other machines: set `grpc.tls`, or `grpc.allowPlaintext: true`",
        Shown(.0)
    )]
    Plaintext(Endpoint),
    /// `grpc.listen` is empty.
    #[error("`grpc.listen` names no endpoint")]
    Nowhere,
    /// `grpc.maxConnections` is 0 or beyond what can be counted.
    #[error("`grpc.maxConnections` is to be from 1 to {}", Semaphore::MAX_PERMITS.min(MAX_COUNT))]
    MaxConnections,
    /// A worker cannot be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

impl Server {
    /// Binds all endpoints, then accepts on `background`.
    ///
    /// # Errors
    /// As [`StartError`] says; nothing listens then.
    pub fn start<S: CheckService>(
        settings: &GrpcSettings,
        parts: Parts<S>,
        background: &Handle,
    ) -> Result<Self, StartError> {
        let _context = background.enter();
        let max_connections = u32::try_from(settings.max_connections)
            .ok()
            .filter(|_| (1..=Semaphore::MAX_PERMITS).contains(&settings.max_connections))
            .ok_or(StartError::MaxConnections)?;
        let listeners = bind(settings, parts.tls.is_some())?;
        let (closing, closed) = watch::channel(None);
        let cut_off = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            service: parts.service,
            health: parts.lifecycle.service(),
            tls: parts.tls,
            http2: connection::http2(settings),
            max_age: settings.max_connection_age,
            clock: parts.clock,
            observer: Arc::clone(&parts.observer),
            cut_off: Arc::clone(&cut_off),
            closing: closed,
        });
        let workers = parts
            .workers
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get));
        let workers = Arc::new(Workers::start(workers, &shared).map_err(StartError::Worker)?);
        let permits = Arc::new(Semaphore::new(settings.max_connections));
        let held = Arc::downgrade(&workers);
        let bound = listeners.iter().map(|listener| listener.bound().clone()).collect();
        let accepting = listeners
            .into_iter()
            .map(|listener| {
                let (workers, permits) = (Arc::clone(&workers), Arc::clone(&permits));
                background.spawn(accept(listener, workers, permits, Arc::clone(&parts.observer)))
            })
            .collect();
        let lifecycle = parts.lifecycle;
        Ok(Self {
            bound,
            accepting,
            workers: held,
            closing,
            permits,
            max_connections,
            lifecycle,
            cut_off,
        })
    }

    /// Returns where it listens, in the order of the settings, with the ports that the system chose.
    #[must_use]
    pub fn bound(&self) -> &[Endpoint] {
        &self.bound
    }

    /// Returns whether a part that only a panic ends has ended, so that connections are refused or closed
    /// although the process lives. Nothing heals that but a new process.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.accepting.iter().any(JoinHandle::is_finished)
            || self.workers.upgrade().is_none_or(|workers| workers.any_gone())
    }

    /// Stops accepting, asks all connections to end (GOAWAY), and returns when calls in flight are
    /// answered or `limit` is over. Returns whether all were answered.
    pub async fn close(mut self, limit: Duration) -> bool {
        for accepting in self.accepting.drain(..) {
            accepting.abort();
            // Until it is gone, and with it the listener and its socket file.
            drop(accepting.await);
        }
        self.lifecycle.end_watches().await;
        let cut_off = self.cut_off.load(Ordering::Relaxed);
        self.closing.send_replace(Some(limit));
        let all_closed = self.permits.acquire_many(self.max_connections);
        // A little longer than the connections themselves wait.
        let ended = timeout(limit.saturating_add(CLOSE_MARGIN), all_closed).await.is_ok();
        ended && self.cut_off.load(Ordering::Relaxed) == cut_off
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

impl<S> fmt::Debug for Parts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Binds all endpoints or none.
fn bind(settings: &GrpcSettings, tls: bool) -> Result<Vec<Listener>, StartError> {
    let exposed = |endpoint: &&Endpoint| !tls && !settings.allow_plaintext && !endpoint.is_local();
    if settings.listen.is_empty() {
        return Err(StartError::Nowhere);
    }
    if let Some(endpoint) = settings.listen.iter().find(exposed) {
        return Err(StartError::Plaintext(endpoint.clone()));
    }
    settings.listen.iter().map(|endpoint| Ok(Listener::bind(endpoint)?)).collect()
}

async fn accept(
    listener: Listener,
    workers: Arc<Workers>,
    permits: Arc<Semaphore>,
    observer: Arc<dyn ConnectionObserver>,
) {
    loop {
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            workers.give(Accepted { socket, permit });
        } else {
            // Dropped: an Envoy that is turned away at once asks elsewhere; one that waits times out.
            observer.refused(Refused::Limit);
        }
    }
}

/// When there are no file descriptors left, asking again at once would take a core and find none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For connections to notice that their time is over.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);

/// Connections are counted in 32 bits.
const MAX_COUNT: usize = 0xFFFF_FFFF;

#[cfg(test)]
mod tests;
