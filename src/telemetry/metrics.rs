//! Prometheus metrics. None holds an identity, a path or a claim.

mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

pub use self::table::{METRICS, Metric};
use crate::{reason::Reason, snapshot::Generation};

/// An issuer's keys, as of a scrape.
#[derive(Clone, Debug)]
pub struct IssuerSample {
    /// Name of the Issuer document.
    pub issuer: String,
    /// Keys that can be used.
    pub keys: usize,
    /// How long ago they were had; `None` where they never were.
    pub age: Option<Duration>,
    /// Fetches that failed since the process started.
    pub failures: u64,
    /// Whether the keys cannot be saved for the next start.
    pub unsaved: bool,
    /// How asking about tokens goes, where the issuer is asked.
    pub introspection: Option<IntrospectionSample>,
}

/// How asking an issuer about tokens goes, as of a scrape.
#[derive(Clone, Debug)]
pub struct IntrospectionSample {
    /// Questions by outcome: `active`, `inactive`, `unavailable`.
    pub outcomes: [(&'static str, u64); 3],
    /// Whether it is not asked for now.
    pub paused: bool,
}

/// A cache, as of a scrape.
#[derive(Clone, Debug)]
pub struct CacheSample {
    /// Which cache: `tokens`, `certificates`.
    pub cache: &'static str,
    /// What it holds.
    pub entries: usize,
    /// Requests it answered since the process started.
    pub hits: u64,
    /// Requests it could not answer.
    pub misses: u64,
}

/// The store of used DPoP proofs, as of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct ReplaySample {
    /// Whether it can be used.
    pub up: bool,
    /// Uses that it could not record since the process started.
    pub errors: u64,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// It went live.
    Loaded,
    /// The last known good was kept.
    Failed,
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedConnection {
    /// There are too many.
    Limit,
    /// The TLS handshake failed.
    Tls,
    /// The caller is not on the list.
    Caller,
    /// It does not speak HTTP/2.
    Protocol,
}

/// What is asked at a scrape: it may take locks, and is never called by a check.
pub type Source<T> = Box<dyn Fn() -> Vec<T> + Send + Sync>;

/// All metrics of the process, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    /// By [`Reason::index`]: a check adds to one counter, with no look-up by label.
    checks: Vec<IntCounter>,
    duration: Histogram,
    in_flight: IntGauge,
    panics: IntCounter,
    generation: IntGauge,
    loaded: Gauge,
    info: IntGaugeVec,
    rules: IntGauge,
    reloads: [IntCounter; 2],
    failing: IntGauge,
    records: [IntCounter; 2],
    record_failures: IntCounter,
    connections: IntGauge,
    refused: [IntCounter; 4],
    issuers: IssuerMetrics,
    caches: CacheMetrics,
    replay_up: IntGauge,
    replay_errors: IntCounter,
    /// Held while a scrape fills in what it asks for, so that scrapes side by side do not mix.
    sources: Mutex<Sources>,
}

struct IssuerMetrics {
    keys: IntGaugeVec,
    age: GaugeVec,
    failures: IntCounterVec,
    unsaved: IntGaugeVec,
    introspections: IntCounterVec,
    paused: IntGaugeVec,
}

struct CacheMetrics {
    entries: IntGaugeVec,
    requests: IntCounterVec,
}

#[derive(Default)]
struct Sources {
    issuers: Option<Source<IssuerSample>>,
    caches: Option<Source<CacheSample>>,
    replay: Option<Source<ReplaySample>>,
}

/// Counts one of something for as long as it lives.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Creates all metrics, at zero.
    ///
    /// # Errors
    /// A name that Prometheus refuses or that is there twice: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let checks = counters(&registry, "symbolon_checks_total", &["decision", "reason"])?;
        let reloads = counters(&registry, "symbolon_policy_reloads_total", &["outcome"])?;
        let records = counters(&registry, "symbolon_records_total", &["outcome"])?;
        let refused = counters(&registry, "symbolon_connections_refused_total", &["cause"])?;
        let build = gauges(&registry, "symbolon_build_info", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            checks: Reason::ALL
                .iter()
                .map(|reason| checks.with_label_values(&[decision(*reason), reason.as_str()]))
                .collect(),
            duration: registered(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::from(opts("symbolon_check_duration_seconds"))
                        .buckets(BUCKETS.to_vec()),
                )?,
            )?,
            in_flight: gauge(&registry, "symbolon_checks_in_flight")?,
            panics: registered(&registry, IntCounter::with_opts(opts("symbolon_panics_total"))?)?,
            generation: gauge(&registry, "symbolon_policy_generation")?,
            loaded: registered(
                &registry,
                Gauge::with_opts(opts("symbolon_policy_loaded_timestamp_seconds"))?,
            )?,
            info: gauges(&registry, "symbolon_policy_info", &["hash", "commit"])?,
            rules: gauge(&registry, "symbolon_policy_rules")?,
            failing: gauge(&registry, "symbolon_policy_reload_failing")?,
            reloads: ["loaded", "failed"].map(|outcome| reloads.with_label_values(&[outcome])),
            records: ["written", "dropped"].map(|outcome| records.with_label_values(&[outcome])),
            record_failures: registered(
                &registry,
                IntCounter::with_opts(opts("symbolon_record_write_failures_total"))?,
            )?,
            connections: gauge(&registry, "symbolon_connections")?,
            refused: ["limit", "tls", "caller", "protocol"]
                .map(|cause| refused.with_label_values(&[cause])),
            issuers: IssuerMetrics {
                keys: gauges(&registry, "symbolon_issuer_keys", &["issuer"])?,
                age: registered(
                    &registry,
                    GaugeVec::new(opts("symbolon_issuer_keys_age_seconds"), &["issuer"])?,
                )?,
                failures: counters(&registry, "symbolon_issuer_fetch_failures_total", &["issuer"])?,
                unsaved: gauges(&registry, "symbolon_issuer_keys_unsaved", &["issuer"])?,
                introspections: counters(
                    &registry,
                    "symbolon_introspections_total",
                    &["issuer", "outcome"],
                )?,
                paused: gauges(&registry, "symbolon_introspection_paused", &["issuer"])?,
            },
            caches: CacheMetrics {
                entries: gauges(&registry, "symbolon_cache_entries", &["cache"])?,
                requests: counters(
                    &registry,
                    "symbolon_cache_requests_total",
                    &["cache", "outcome"],
                )?,
            },
            replay_up: gauge(&registry, "symbolon_replay_store_up")?,
            replay_errors: registered(
                &registry,
                IntCounter::with_opts(opts("symbolon_replay_store_errors_total"))?,
            )?,
            sources: Mutex::default(),
            registry,
        })
    }

    /// Counts a check: once, when it is answered.
    pub fn check(&self, reason: Reason, duration: Duration) {
        if let Some(counter) = self.checks.get(reason.index()) {
            counter.inc();
        }
        self.duration.observe(duration.as_secs_f64());
    }

    /// Counts a check as in flight for as long as the answer lives.
    #[must_use]
    pub fn check_started(&self) -> Held {
        Held::new(&self.in_flight)
    }

    /// Returns how many checks are in flight.
    #[must_use]
    pub fn checks_in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or_default()
    }

    /// Counts a connection for as long as the answer lives.
    #[must_use]
    pub fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// Counts a connection that was not taken.
    pub fn connection_refused(&self, cause: RefusedConnection) {
        let [limit, tls, caller, protocol] = &self.refused;
        match cause {
            RefusedConnection::Limit => limit,
            RefusedConnection::Tls => tls,
            RefusedConnection::Caller => caller,
            RefusedConnection::Protocol => protocol,
        }
        .inc();
    }

    /// Counts a panic that was caught.
    pub fn panic(&self) {
        self.panics.inc();
    }

    /// Counts a reload.
    pub fn reload(&self, outcome: ReloadOutcome) {
        let [loaded, failed] = &self.reloads;
        match outcome {
            ReloadOutcome::Loaded => loaded,
            ReloadOutcome::Failed => failed,
        }
        .inc();
    }

    /// Names the generation that is live.
    pub fn policy_live(&self, generation: &Generation) {
        let _whole = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.set(i64::try_from(generation.number).unwrap_or(i64::MAX));
        self.loaded.set(generation.loaded.since_epoch().as_secs_f64());
        self.info.reset();
        let commit = generation.commit.as_deref().unwrap_or_default();
        self.info.with_label_values(&[&*generation.hash, commit]).set(1);
    }

    /// Says whether what lies on disk cannot be loaded.
    pub fn policy_failing(&self, failing: bool) {
        self.failing.set(i64::from(failing));
    }

    /// Says how many rules are live.
    pub fn policy_rules(&self, rules: usize) {
        self.rules.set(count(rules));
    }

    /// Counts records that were written.
    pub fn records_written(&self, records: u64) {
        let [written, _] = &self.records;
        written.inc_by(records);
    }

    /// Counts a record for which there was no room.
    pub fn record_dropped(&self) {
        self.records_dropped(1);
    }

    /// Counts records that were lost.
    pub fn records_dropped(&self, records: u64) {
        let [_, dropped] = &self.records;
        dropped.inc_by(records);
    }

    /// Counts an attempt to write records that failed.
    pub fn record_write_failed(&self) {
        self.record_failures.inc();
    }

    /// Sets what tells the state of the issuers' keys at each scrape. An issuer it no longer names is
    /// no longer shown.
    pub fn set_issuer_source(&self, source: Source<IssuerSample>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).issuers = Some(source);
    }

    /// Sets what tells the state of the caches at each scrape.
    pub fn set_cache_source(&self, source: Source<CacheSample>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).caches = Some(source);
    }

    /// Sets what tells the state of the store of used DPoP proofs at each scrape.
    pub fn set_replay_source(&self, source: Source<ReplaySample>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).replay = Some(source);
    }

    /// Returns all metrics in Prometheus' text format 0.0.4 (`text/plain; version=0.0.4`).
    #[must_use]
    pub fn encode(&self) -> String {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuers) = &sources.issuers {
            self.issuers.fill(&issuers());
        }
        if let Some(caches) = &sources.caches {
            self.caches.fill(&caches());
        }
        for sample in sources.replay.iter().flat_map(|replay| replay()) {
            self.replay_up.set(i64::from(sample.up));
            self.replay_errors.reset();
            self.replay_errors.inc_by(sample.errors);
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl IssuerMetrics {
    fn fill(&self, samples: &[IssuerSample]) {
        self.keys.reset();
        self.age.reset();
        self.failures.reset();
        self.unsaved.reset();
        self.introspections.reset();
        self.paused.reset();
        for sample in samples {
            let labels = &[&*sample.issuer];
            self.keys.with_label_values(labels).set(count(sample.keys));
            // No age is no sample: zero would look fresh.
            if let Some(age) = sample.age {
                self.age.with_label_values(labels).set(age.as_secs_f64());
            }
            self.failures.with_label_values(labels).inc_by(sample.failures);
            self.unsaved.with_label_values(labels).set(i64::from(sample.unsaved));
            let Some(IntrospectionSample { outcomes, paused }) = &sample.introspection else {
                continue;
            };
            for (outcome, number) in outcomes {
                let labels = &[&*sample.issuer, outcome];
                self.introspections.with_label_values(labels).inc_by(*number);
            }
            self.paused.with_label_values(labels).set(i64::from(*paused));
        }
    }
}

impl CacheMetrics {
    fn fill(&self, samples: &[CacheSample]) {
        self.entries.reset();
        self.requests.reset();
        for sample in samples {
            self.entries.with_label_values(&[sample.cache]).set(count(sample.entries));
            for (outcome, number) in [("hit", sample.hits), ("miss", sample.misses)] {
                self.requests.with_label_values(&[sample.cache, outcome]).inc_by(number);
            }
        }
    }
}

const fn decision(reason: Reason) -> &'static str {
    if matches!(reason, Reason::Allowed) { "allow" } else { "deny" }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn opts(name: &str) -> Opts {
    let meaning = METRICS.iter().find(|metric| metric.name == name).map(|metric| metric.meaning);
    Opts::new(name, meaning.unwrap_or(name))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn gauge(registry: &Registry, name: &str) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::with_opts(opts(name))?)
}

fn gauges(
    registry: &Registry,
    name: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    registered(registry, IntGaugeVec::new(opts(name), labels)?)
}

fn counters(
    registry: &Registry,
    name: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(opts(name), labels)?)
}

/// From a warm check (microseconds) over a signature (tens of them) and a fetch of keys (milliseconds)
/// to the bound of a check (a second).
const BUCKETS: [f64; 15] = [
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005,
    0.01, 0.025, 0.1, 0.5, 1.0,
];
