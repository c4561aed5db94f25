//! Composition root: config → sources → services → servers → drain.

mod compose;

use std::{fmt, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

pub use self::compose::compose;
use crate::{
    clock::SharedClock,
    config::{DrainSettings, Endpoint, Settings},
    snapshot::Generation,
    transport::{
        admin::{AdminPages, HttpServer, MetricsPages, Readiness, Text},
        server::{
            CallerRule, CheckService, ConnectionObserver, Lifecycle, Parts, Refreshed, Server, Tls,
        },
    },
};

/// What the servers need of the rest, each behind as little as they need.
#[derive(Clone)]
pub struct Services<S> {
    /// Answers the checks.
    pub checks: S,
    /// Which callers may ask, where they prove who they are.
    pub callers: CallerRule,
    /// Is told what happens to connections.
    pub connections: Arc<dyn ConnectionObserver>,
    /// Tells the generation that is live. Never `None` again once one was.
    pub live: Live,
    /// Loads the policies again, soon; what SIGHUP asks for. Must not block.
    pub reload: Arc<dyn Fn() + Send + Sync>,
    /// The metrics, in Prometheus's text format.
    pub metrics: Text,
    /// What explains readiness, line by line, without identities.
    pub details: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The status, as JSON.
    pub status: Text,
    /// Writes out what is queued, when no more checks come. May block.
    pub finish: Arc<dyn Fn() + Send + Sync>,
    /// The time.
    pub clock: SharedClock,
}

/// Tells the generation that is live.
pub type Live = Arc<dyn Fn() -> Option<Generation> + Send + Sync>;

/// A running symbolon. Dropping it stops it at once.
pub struct RunningApp {
    server: Server,
    metrics: HttpServer,
    admin: HttpServer,
    lifecycle: Lifecycle,
    tls: Option<Arc<Tls>>,
    reload: Arc<dyn Fn() + Send + Sync>,
    finish: Arc<dyn Fn() + Send + Sync>,
    drain: DrainSettings,
    tasks: Tasks,
}

/// Returns the runtime for everything but checks: accepting, pages, reload, fetches, signals.
///
/// # Errors
/// When the system gives no threads.
pub fn background() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        // Two, so that one that reads files does not keep connections from being accepted.
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .context("cannot start the background runtime")
}

impl RunningApp {
    /// Starts all listeners on `background`, or none.
    ///
    /// # Errors
    /// When an address is taken, a certificate cannot be used, or a setting does not hold; the message
    /// names which.
    pub async fn start<S: CheckService>(
        settings: &Settings,
        services: Services<S>,
        background: &Handle,
    ) -> anyhow::Result<Self> {
        let lifecycle = Lifecycle::starting().await;
        let tls = match &settings.grpc.tls {
            Some(tls) => {
                let tls = Tls::load(tls.clone(), services.callers);
                Some(Arc::new(tls.context("`grpc.tls` cannot be used")?))
            }
            None => None,
        };
        let mut tasks = Tasks::default();
        if (services.live)().is_some() {
            lifecycle.loaded().await;
        } else {
            let first = first_load(services.live, lifecycle.clone());
            tasks.0.push(background.spawn(first));
        }
        let (metrics, admin) = pages(
            settings,
            &lifecycle,
            (services.metrics, services.details, services.status),
            background,
        )?;
        let parts = Parts {
            service: services.checks,
            lifecycle: lifecycle.clone(),
            tls: tls.clone(),
            observer: services.connections,
            clock: services.clock,
            workers: settings.workers,
        };
        let server = Server::start(&settings.grpc, parts, background)?;
        if let Some(tls) = &tls {
            tasks.0.push(background.spawn(watch_tls(Arc::clone(tls))));
        }
        let (reload, finish) = (services.reload, services.finish);
        let drain = settings.drain.clone();
        Ok(Self { server, metrics, admin, lifecycle, tls, reload, finish, drain, tasks })
    }

    /// Returns where Envoy asks, in the order of the settings.
    #[must_use]
    pub fn grpc(&self) -> &[Endpoint] {
        self.server.bound()
    }

    /// Returns where `/metrics`, `/livez` and `/readyz` are.
    #[must_use]
    pub const fn metrics(&self) -> &Endpoint {
        self.metrics.bound()
    }

    /// Returns where `/status` is.
    #[must_use]
    pub const fn admin(&self) -> &Endpoint {
        self.admin.bound()
    }

    /// Returns whether checks are wanted.
    #[must_use]
    pub const fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Looks at policies and certificates again: what SIGHUP asks for.
    pub fn reload(&self) -> impl Future<Output = ()> + Send + use<> {
        (self.reload)();
        let tls = self.tls.clone();
        async move {
            if let Some(tls) = tls {
                refresh_tls(tls).await;
            }
        }
    }

    /// Ends when the server cannot do its work any more; see [`Server::is_broken`].
    async fn broken(&self) {
        let mut ticks = interval(HEALTH_POLL);
        while !self.server.is_broken() {
            ticks.tick().await;
        }
    }

    /// Withdraws readiness, goes on answering for `drain.grace` so that Envoys learn of it, then stops
    /// accepting and lets calls in flight finish within `drain.timeout`. Returns whether all did.
    pub async fn drain(self) -> bool {
        self.lifecycle.draining().await;
        sleep(self.drain.grace).await;
        let finished = self.server.close(self.drain.timeout).await;
        let finish = self.finish;
        if let Err(error) = tokio::task::spawn_blocking(move || finish()).await {
            tracing::error!(%error, "what was queued could not be written out");
        }
        // Last, so that the drain can be watched to its end.
        self.metrics.close().await;
        self.admin.close().await;
        drop(self.tasks);
        finished
    }
}

impl fmt::Debug for RunningApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningApp").field("server", &self.server).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Services<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Services")
    }
}

/// The signals that steer the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from the system's defaults. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("cannot take over signals");
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// Runs `app` until SIGTERM or SIGINT, then drains it; a second one ends at once. SIGHUP reloads.
    ///
    /// Returns 0 after a drain, also one that had to cut calls off, and 1 after a second signal or where
    /// a part of the server is gone, so that whoever watches the process starts another.
    pub async fn steer(mut self, app: RunningApp) -> ExitCode {
        loop {
            tokio::select! {
                () = end(&mut self.terminate, &mut self.interrupt) => break,
                // Beside this loop: files that cannot be read must not keep a SIGTERM waiting.
                Some(()) = self.hangup.recv() => drop(tokio::spawn(app.reload())),
                () = app.broken() => {
                    tracing::error!("a part of the server ended in a panic; the process ends");
                    return ExitCode::FAILURE;
                }
            }
        }
        tracing::info!(grace = ?app.drain.grace, timeout = ?app.drain.timeout, "draining");
        tokio::select! {
            finished = app.drain() => {
                if finished {
                    tracing::info!("drained");
                } else {
                    tracing::warn!("drained; calls still in flight were cut off");
                }
                ExitCode::SUCCESS
            }
            () = end(&mut self.terminate, &mut self.interrupt) => {
                tracing::warn!("ended at once, on a second signal");
                ExitCode::FAILURE
            }
        }
    }
}

async fn end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Ends its tasks with it.
#[derive(Debug, Default)]
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

type PageTexts = (Text, Arc<dyn Fn() -> Vec<String> + Send + Sync>, Text);

fn pages(
    settings: &Settings,
    lifecycle: &Lifecycle,
    (metrics, details, status): PageTexts,
    background: &Handle,
) -> anyhow::Result<(HttpServer, HttpServer)> {
    // It names identities and has no authentication of its own.
    anyhow::ensure!(
        settings.admin.listen.is_local(),
        "`admin.listen` is to be a loopback address or a Unix socket"
    );
    let lifecycle = lifecycle.clone();
    let readiness = move || {
        let mut readiness = Readiness { ready: lifecycle.is_ready(), details: details() };
        if lifecycle.is_draining() {
            readiness.details.insert(0, "draining".to_owned());
        }
        readiness
    };
    let pages = MetricsPages { metrics, readiness: Arc::new(readiness) };
    let metrics = HttpServer::start(&settings.metrics.listen, Arc::new(pages), background)
        .context("`metrics.listen` cannot be used")?;
    let admin = Arc::new(AdminPages { status });
    let admin = HttpServer::start(&settings.admin.listen, admin, background)
        .context("`admin.listen` cannot be used")?;
    Ok((metrics, admin))
}

/// Reports the first load, however it comes about.
async fn first_load(live: Live, lifecycle: Lifecycle) {
    let mut ticks = interval(FIRST_LOAD_POLL);
    while live().is_none() {
        ticks.tick().await;
    }
    lifecycle.loaded().await;
}

async fn watch_tls(tls: Arc<Tls>) {
    let mut ticks = interval(TLS_POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        refresh_tls(Arc::clone(&tls)).await;
    }
}

async fn refresh_tls(tls: Arc<Tls>) {
    let refreshed = tokio::task::spawn_blocking(move || tls.refresh()).await;
    match refreshed {
        Ok(Ok(Refreshed::Unchanged)) => {}
        Ok(Ok(Refreshed::Replaced)) => tracing::info!("own certificates were replaced"),
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::error!(error = format!("{error:#}"), "own certificates are kept");
        }
        Err(error) => tracing::error!(%error, "own certificates could not be looked at"),
    }
}

/// Returns `path` as people know it, for messages: absolute where that can be told.
#[must_use]
pub fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Soon after the keys and policies are there; it stops with the first load.
const FIRST_LOAD_POLL: Duration = Duration::from_millis(100);

/// Far below what an orchestrator takes to notice that nobody answers.
const HEALTH_POLL: Duration = Duration::from_secs(1);

/// Certificates are renewed long before they end: seconds do not matter, and reading three files is cheap.
const TLS_POLL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
