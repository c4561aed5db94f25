//! Puts the pieces of the server together.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::json;
use tokio::runtime::Handle;

use super::Services;
use crate::{
    clock::SharedClock,
    config::{ReplayKind, Settings},
    credential::{
        cache::TokenCache,
        dpop::{
            ProofRules, ProofVerifier,
            nonce::Nonces,
            replay::{MemoryStore, ReplayStore, StoreStatus, redis::RedisStore},
        },
    },
    diagnostic::Diagnostics,
    evidence::certificate::CertificateCache,
    policy::{document::Profile, load::Loaded, pattern::SpiffePattern},
    snapshot::{
        Generation, Snapshot, SnapshotStore,
        reload::{ReloadStatus, Reloader, Reloading, build_with},
    },
    telemetry::{
        metrics::{
            CacheSample, IntrospectionSample, IssuerSample, Metrics, RefusedConnection,
            ReplaySample,
        },
        sink::RecordQueue,
    },
    transport::{
        AuthorizationService, Context,
        server::{CallerRule, ConnectionObserver, Refused},
    },
    trust::{IssuerPool, IssuerStatus, Trust, introspection::IntrospectionStatus, jwks::Algorithm},
};

/// Starts what the server rests on: reload, keys, caches, metrics, records.
///
/// # Errors
/// When a setting does not hold or a record file cannot be opened; the message names which.
pub fn compose(
    settings: &Settings,
    policies: &Path,
    clock: SharedClock,
    background: &Handle,
) -> anyhow::Result<Services<AuthorizationService>> {
    let _background = background.enter();
    let metrics = Arc::new(Metrics::new().context("the metrics contradict each other")?);
    let records = RecordQueue::start(&settings.records, Arc::clone(&metrics));
    let records = Arc::new(records.context("`records.to` cannot be used")?);
    let issuers = IssuerPool::new(
        &settings.outbound,
        settings.state_dir.clone(),
        Arc::clone(&clock),
        background.clone(),
    );
    let issuers = Arc::new(issuers.context("`outbound` cannot be used")?);
    let tokens = Arc::new(TokenCache::new(settings.cache.tokens));
    let certificates = Arc::new(CertificateCache::new(settings.cache.certificates));
    let proofs = proofs(settings, background)?;
    let replay = Arc::new(replay(settings, &clock, background)?);
    let callers = callers(settings)?;
    watch(&metrics, &issuers, &tokens, &certificates);
    let watched = Arc::clone(&replay);
    metrics.set_replay_source(Box::new(move || {
        let status = watched.status();
        vec![ReplaySample { up: status.up, errors: status.errors }]
    }));

    let snapshots = Arc::new(SnapshotStore::default());
    let reloading = Arc::new(start_reload(
        settings,
        policies,
        (&snapshots, &issuers, &metrics),
        Arc::clone(&clock),
    ));
    let checks = AuthorizationService::new(Arc::new(Context {
        snapshots: Arc::clone(&snapshots),
        clock: Arc::clone(&clock),
        certificates,
        tokens,
        proofs,
        replay: Arc::clone(&replay),
        metrics: Arc::clone(&metrics),
        records: Arc::clone(&records),
        bounds: settings.check.clone(),
        max_message_bytes: settings.grpc.max_message_bytes,
    }));
    let state =
        State { reloading: Arc::clone(&reloading), issuers, replay, clock: Arc::clone(&clock) };
    let explained = state.clone();
    Ok(Services {
        checks,
        callers,
        connections: Arc::new(Observed(Arc::clone(&metrics))),
        live: Arc::new(move || snapshots.load().as_ref().map(|live| live.generation.clone())),
        reload: Arc::new(move || reloading.trigger()),
        metrics: Arc::new(move || metrics.encode()),
        details: Arc::new(move || explained.details()),
        status: Arc::new(move || state.json()),
        finish: Arc::new(move || {
            let lost = records.flush_and_stop(FLUSH);
            if lost > 0 {
                tracing::warn!(bytes = lost, "decision records could not be written");
            }
        }),
        clock,
    })
}

/// Where used proofs are remembered.
fn replay(
    settings: &Settings,
    clock: &SharedClock,
    background: &Handle,
) -> anyhow::Result<ReplayStore> {
    let dpop = &settings.dpop;
    Ok(match dpop.replay {
        None | Some(ReplayKind::Memory) => {
            ReplayStore::Memory(MemoryStore::new(dpop.replay_entries, clock.now()))
        }
        Some(ReplayKind::Redis) => {
            let url = dpop.redis.url.clone().context("`dpop.redis.url` is missing")?;
            ReplayStore::Redis(RedisStore::start(url, &dpop.redis, Arc::clone(clock), background))
        }
    })
}

/// What DPoP proofs may be, with the secrets of nonces, which are read again when they change.
fn proofs(settings: &Settings, background: &Handle) -> anyhow::Result<ProofVerifier> {
    let dpop = &settings.dpop;
    let nonces = match &dpop.nonce_keys_file {
        Some(file) => Nonces::from_file(file.clone()).context("`dpop.nonceKeysFile`")?,
        None => Nonces::random()?,
    };
    let nonces = Arc::new(nonces);
    if dpop.nonce_keys_file.is_some() {
        background.spawn(watch_nonces(Arc::clone(&nonces)));
    }
    let algorithms = dpop.algorithms.iter();
    let rules = ProofRules {
        algorithms: algorithms
            .filter_map(|name| Some((Algorithm::parse(name)?, name.clone())))
            .collect(),
        past: dpop.past,
        future: dpop.future,
    };
    Ok(ProofVerifier::new(rules, nonces))
}

/// Ends with the runtime.
async fn watch_nonces(nonces: Arc<Nonces>) {
    let mut ticks = tokio::time::interval(NONCE_KEYS_POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let own = Arc::clone(&nonces);
        let refreshed = tokio::task::spawn_blocking(move || own.refresh()).await;
        match refreshed {
            Ok(Ok(changed)) => {
                failing = false;
                if changed {
                    tracing::info!("the keys of nonces were replaced");
                }
            }
            Ok(Err(error)) => {
                // Once, not every few seconds.
                if !std::mem::replace(&mut failing, true) {
                    let error = anyhow::Error::new(error);
                    tracing::error!(error = format!("{error:#}"), "the keys of nonces are kept");
                }
            }
            Err(error) => tracing::error!(%error, "the keys of nonces could not be looked at"),
        }
    }
}

/// Who may ask, where callers prove who they are.
fn callers(settings: &Settings) -> anyhow::Result<CallerRule> {
    let listed = settings.grpc.tls.as_ref().map_or(&[][..], |tls| &tls.allowed_callers);
    let patterns = listed
        .iter()
        .map(|text| {
            SpiffePattern::parse(text).map_err(|error| {
                anyhow::anyhow!("`grpc.tls.allowedCallers`: `{text}`: {}", error.message)
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Arc::new(move |id| patterns.iter().any(|pattern| pattern.matches(id))))
}

fn start_reload(
    settings: &Settings,
    policies: &Path,
    (snapshots, issuers, metrics): (&Arc<SnapshotStore>, &Arc<IssuerPool>, &Arc<Metrics>),
    clock: SharedClock,
) -> Reloading {
    let (issuers, root) = (Arc::clone(issuers), policies.to_owned());
    let unshared = settings.dpop.replay.is_none();
    let warn = std::sync::Once::new();
    let finish = move |loaded: Loaded, generation: Generation| {
        if unshared && loaded.documents.policies.iter().any(|policy| policy.origin.is_some()) {
            warn.call_once(|| tracing::warn!("{UNSHARED}"));
        }
        snapshot(&issuers, loaded, generation).map_err(|all| Diagnostics {
            all,
            sources: Vec::new(),
            root: root.clone(),
        })
    };
    Reloader {
        dir: policies.to_owned(),
        poll: settings.reload.poll,
        watch: true,
        store: Arc::clone(snapshots),
        clock,
        metrics: Arc::clone(metrics),
        build: build_with(settings.owned_headers.clone(), finish),
    }
    .start()
}

/// Brings in the issuers, with the keys they have from before.
fn snapshot(
    issuers: &IssuerPool,
    loaded: Loaded,
    generation: Generation,
) -> Result<Snapshot, Vec<crate::diagnostic::Diagnostic>> {
    let Loaded { documents, policies, skipped: _ } = loaded;
    let mut trust_domains: Vec<Box<str>> =
        documents.trust_domains.iter().map(|domain| domain.name.value.as_str().into()).collect();
    trust_domains.sort_unstable();
    // All of them at once, as what is left out stops to refresh.
    let all = [&documents.issuers[..], &documents.workload_authorities()].concat();
    let (workloads, tokens): (Vec<_>, Vec<_>) = issuers
        .reconcile(&all)?
        .into_iter()
        .partition(|issuer| issuer.document.profile == Profile::WitSvid);
    let trust = Trust {
        peer_sources: documents.peer_trust.map(|peer_trust| peer_trust.evidence.value),
        trust_domains,
        issuers: tokens.into(),
        workloads: workloads.into(),
    };
    Ok(Snapshot { generation, policies, trust })
}

/// Has the metrics ask the issuers and caches at each scrape.
fn watch(
    metrics: &Metrics,
    issuers: &Arc<IssuerPool>,
    tokens: &Arc<TokenCache>,
    certificates: &Arc<CertificateCache>,
) {
    let issuers = Arc::clone(issuers);
    metrics.set_issuer_source(Box::new(move || {
        let sample = |issuer: IssuerStatus| IssuerSample {
            issuer: issuer.name.to_string(),
            keys: issuer.keys,
            age: issuer.age,
            failures: issuer.failures,
            unsaved: issuer.save_error.is_some(),
            introspection: issuer.introspection.map(|asked| IntrospectionSample {
                outcomes: [
                    ("active", asked.active),
                    ("inactive", asked.inactive),
                    ("unavailable", asked.unavailable),
                ],
                paused: asked.paused,
            }),
        };
        issuers.status().into_iter().map(sample).collect()
    }));
    let (tokens, certificates) = (Arc::clone(tokens), Arc::clone(certificates));
    metrics.set_cache_source(Box::new(move || {
        vec![
            CacheSample {
                cache: "tokens",
                entries: tokens.len(),
                hits: tokens.hits(),
                misses: tokens.misses(),
            },
            CacheSample {
                cache: "certificates",
                entries: certificates.len(),
                hits: certificates.hits(),
                misses: certificates.misses(),
            },
        ]
    }));
}

struct Observed(Arc<Metrics>);

impl ConnectionObserver for Observed {
    fn opened(&self) -> Box<dyn Send> {
        Box::new(self.0.connection())
    }

    fn refused(&self, cause: Refused) {
        self.0.connection_refused(match cause {
            Refused::Caller => RefusedConnection::Caller,
            Refused::Limit => RefusedConnection::Limit,
            Refused::Preface => RefusedConnection::Protocol,
            Refused::Tls => RefusedConnection::Tls,
        });
    }
}

/// What readiness and status tell.
#[derive(Clone)]
struct State {
    reloading: Arc<Reloading>,
    issuers: Arc<IssuerPool>,
    replay: Arc<ReplayStore>,
    clock: SharedClock,
}

impl State {
    /// Line by line, for people. Names documents and files, but nobody's identity.
    fn details(&self) -> Vec<String> {
        let status = self.reloading.status();
        let ReloadStatus { live, last_error, loaded, failed, skipped } = &*status;
        let now = self.clock.now();
        let mut lines = vec![match live {
            Some(Generation { number, hash, commit, loaded }) => {
                let commit = commit.as_ref().map(|commit| format!(", commit {commit}"));
                let seconds = now.saturating_since(*loaded).as_secs();
                let commit = commit.unwrap_or_default();
                format!(
                    "policies: generation {number}, live for {seconds} s{commit}, content {hash}"
                )
            }
            None => "policies: nothing loaded yet, no check is allowed".to_owned(),
        }];
        lines.push(format!(
            "reloads: {loaded} loaded, {failed} failed, {} files skipped",
            skipped.len()
        ));
        if let Some(failure) = last_error {
            let seconds = now.saturating_since(failure.since).as_secs();
            lines.push(format!("what lies on disk cannot be loaded, for {seconds} s now:"));
            lines.extend(failure.diagnostics.lines().map(|line| format!("  {line}")));
        }
        for issuer in self.issuers.status() {
            let age = issuer.age.map(|age| format!(", seen {} s ago", age.as_secs()));
            let error = issuer.last_error.map(|error| format!(", last error: {error}"));
            let keys = match issuer.keys {
                0 if issuer.opaque_only => "asked about opaque tokens".to_owned(),
                0 => "no usable keys, its tokens are denied".to_owned(),
                number => format!("{number} keys"),
            };
            let restored = if issuer.restored { ", from `stateDir`" } else { "" };
            lines.push(format!(
                "issuer {}: {keys}{}{restored}{}",
                issuer.name,
                age.unwrap_or_default(),
                error.unwrap_or_default()
            ));
            if let Some(error) = issuer.save_error {
                lines.push(format!(
                    "issuer {}: its keys cannot be saved, a restart would be without them: {error}",
                    issuer.name
                ));
            }
            if let Some(IntrospectionStatus { last_error: Some(error), .. }) = issuer.introspection
            {
                lines.push(format!(
                    "issuer {}: does not answer about tokens, which are denied: {error}",
                    issuer.name
                ));
            }
        }
        lines.push(match self.replay.status() {
            StoreStatus { up: true, kind, .. } => format!("used DPoP proofs: {kind}, up"),
            StoreStatus { kind, last_error, .. } => {
                let error = last_error.unwrap_or_else(|| "not connected yet".to_owned());
                format!("used DPoP proofs: {kind} is down, what needs it is denied: {error}")
            }
        });
        lines
    }

    fn json(&self) -> String {
        let status = self.reloading.status();
        let ReloadStatus { live, last_error, loaded, failed, skipped } = &*status;
        let issuers = self.issuers.status();
        let issuers = issuers.iter().map(|issuer| {
            json!({
                "name": &*issuer.name,
                "issuer": issuer.issuer,
                "keys": issuer.keys,
                "skippedKeys": issuer.skipped.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "ageSeconds": issuer.age.map(|age| age.as_secs()),
                "restored": issuer.restored,
                "saveError": issuer.save_error,
                "lastError": issuer.last_error,
                "failures": issuer.failures,
                "introspection": issuer.introspection.as_ref().map(|asked| json!({
                    "active": asked.active,
                    "inactive": asked.inactive,
                    "unavailable": asked.unavailable,
                    "paused": asked.paused,
                    "lastError": asked.last_error,
                })),
            })
        });
        let replay = self.replay.status();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": live.as_ref().map(|live| json!({
                "number": live.number,
                "hash": &*live.hash,
                "commit": live.commit.as_deref(),
                "loaded": live.loaded.as_secs(),
            })),
            "reload": {
                "loaded": loaded,
                "failed": failed,
                "skipped": skipped.iter().map(|file| &**file).collect::<Vec<_>>(),
                "lastError": last_error.as_ref().map(|failure| json!({
                    "since": failure.since.as_secs(),
                    "hash": failure.hash,
                    "diagnostics": failure.diagnostics.lines().collect::<Vec<_>>(),
                })),
            },
            "issuers": issuers.collect::<Vec<_>>(),
            "replayStore": {
                "kind": replay.kind,
                "up": replay.up,
                "errors": replay.errors,
                "lastError": replay.last_error,
            },
        });

        format!("{status:#}\n")
    }
}

/// Where nobody wrote down that proofs need not be shared.
const UNSHARED: &str = "used DPoP proofs are remembered by this process alone: with several replicas each \
    accepts a proof once. Give `dpop.replay: redis`, or `dpop.replay: memory` where there is one replica";

/// Keys are changed long before old ones are taken away: seconds do not matter.
const NONCE_KEYS_POLL: Duration = Duration::from_secs(5);

/// A disk that takes longer for what is queued has failed.
const FLUSH: Duration = Duration::from_secs(5);
