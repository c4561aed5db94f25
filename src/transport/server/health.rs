//! The life of the process as others see it: `grpc.health.v1` and readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// Says whether this process wants checks. Starts as "not yet", ends as "no more".
///
/// INVARIANT (one truth): gRPC health and [`Lifecycle::is_ready`] answer from the same two facts, that a
/// policy set is loaded and that the drain has not begun.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    reporter: HealthReporter,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: AtomicBool,
    draining: AtomicBool,
    /// Keeps the order of health reports the order of the facts.
    reporting: tokio::sync::Mutex<()>,
}

impl Lifecycle {
    /// Creates the life of a process that has loaded nothing yet: `NOT_SERVING`.
    pub async fn starting() -> Self {
        let this = Self { reporter: HealthReporter::new(), state: Arc::default() };
        this.report().await;
        this
    }

    /// Says that a policy set is live: `SERVING`, unless the drain has begun. May be called again.
    pub async fn loaded(&self) {
        self.state.loaded.store(true, Ordering::Release);
        self.report().await;
    }

    /// Says that the drain begins: `NOT_SERVING` from now on.
    pub async fn draining(&self) {
        self.state.draining.store(true, Ordering::Release);
        self.report().await;
    }

    /// Returns whether a policy set is loaded and the drain has not begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.loaded.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Returns whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::Acquire)
    }

    /// Returns the service that answers `grpc.health.v1.Health`.
    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(MAX_HEALTH_REQUEST)
    }

    /// Ends the `Watch` streams, which would otherwise hold their connections open to the last.
    pub(super) async fn end_watches(&self) {
        for name in NAMES {
            self.reporter.clone().clear_service_status(name).await;
        }
    }

    async fn report(&self) {
        let _in_order = self.state.reporting.lock().await;
        let status =
            if self.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// The whole server, and the service that Envoy asks.
const NAMES: [&str; 2] = ["", "envoy.service.auth.v3.Authorization"];

/// A service's name is all that a health request holds.
const MAX_HEALTH_REQUEST: usize = 4096;
