//! What the stages work on: a policy set, caches, and checks, each with what every stage makes of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use symbolon::{
    clock::{SharedClock, SystemClock, UnixTime},
    config::{CheckSettings, Overflow, RecordSettings, RecordSink, Settings},
    credential::{
        Principal, Proof, Verified, Verifier, Waited,
        cache::TokenCache,
        dpop::{
            ProofRules, ProofVerifier,
            nonce::Nonces,
            replay::{MemoryStore, ReplayStore},
        },
    },
    evidence::{Evidence, PeerSources, certificate::CertificateCache},
    identity::SpiffeId,
    policy::{Decision, load::load},
    reason::Reason,
    response::{Answer, Label},
    snapshot::{Generation, Snapshot, SnapshotStore, source},
    telemetry::{
        decision_id::DecisionId,
        metrics::Metrics,
        record::{DecisionRecord, PeerRecord, PolicyRecord, TokenRecord},
        sink::RecordQueue,
    },
    transport::{AuthorizationService, Context, wire},
    trust::{IssuerPool, Trust},
};

use crate::corpus::Corpus;

/// Checks in turn: few enough to stay in the processor's caches, where a server finds what it has
/// just received. How the program's own caches do with many is the load bench's question.
const MESSAGES: usize = 64;

/// gRPC's five bytes before a message.
const FRAME_HEAD: usize = 5;

/// A policy set and checks that it allows. Never freed, so that stages borrow from it as they like.
pub(super) struct World {
    pub(super) snapshot: &'static Snapshot,
    pub(super) caches: Caches,
    pub(super) metrics: Arc<Metrics>,
    pub(super) records: Arc<RecordQueue>,
    pub(super) asked: &'static [Asked],
    directory: PathBuf,
    store: Arc<SnapshotStore>,
    pub(super) clock: SharedClock,
}

/// What was seen before.
#[derive(Clone)]
pub(super) struct Caches {
    pub(super) certificates: Arc<CertificateCache>,
    pub(super) tokens: Arc<TokenCache>,
}

/// One check, with what the stages make of it.
pub(super) struct Asked {
    /// The gRPC message, with its head.
    pub(super) frame: Bytes,
    pub(super) message: Bytes,
    pub(super) request: wire::CheckRequest<'static>,
    pub(super) evidence: &'static Evidence<'static>,
    pub(super) principal: &'static Principal<'static>,
    pub(super) answer: Answer<'static>,
}

impl Caches {
    fn new(entries: usize) -> Self {
        let certificates = Arc::new(CertificateCache::new(entries));
        Self { certificates, tokens: Arc::new(TokenCache::new(entries)) }
    }

    /// Caches that keep nothing: whatever is looked for was not seen before.
    pub(super) fn none() -> Self {
        Self::new(0)
    }
}

impl World {
    /// Makes a policy set of `rules` rules in `directory`, and takes checks through it.
    ///
    /// # Errors
    /// When the directory cannot be written or read, or a check is not allowed.
    pub(super) fn create(directory: &Path, rules: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let corpus = Corpus::create(directory, rules, "certificate")?;
        let frames = corpus.checks.into_iter().take(MESSAGES).collect();
        Self::of(directory, frames)
    }

    /// As [`World::create`], with checks that present a DPoP proof, each of another client.
    ///
    /// # Errors
    /// As there.
    pub(super) fn with_proofs(directory: &Path, rules: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let corpus = Corpus::create(directory, rules, "certificate, dpop")?;
        Self::of(directory, corpus.proven(0, MESSAGES.min(Corpus::callers()))?)
    }

    fn of(directory: &Path, frames: Vec<Bytes>) -> anyhow::Result<Self> {
        let clock: SharedClock = Arc::new(SystemClock);
        let snapshot = Arc::new(snapshot(directory, &clock)?);
        let store = Arc::new(SnapshotStore::default());
        store.store(Arc::clone(&snapshot));
        let metrics = Arc::new(Metrics::new()?);
        let records = RecordSettings {
            // What a disk makes of records is the load bench's question, too.
            to: RecordSink::File("/dev/null".into()),
            queue_bytes: 64 << 20,
            overflow: Overflow::Drop,
        };
        let mut world = Self {
            snapshot: Box::leak(Box::new(snapshot)),
            caches: Caches::new(10_000),
            records: Arc::new(RecordQueue::start(&records, Arc::clone(&metrics))?),
            metrics,
            asked: &[],
            directory: directory.to_owned(),
            store,
            clock,
        };
        let asked = frames.into_iter().map(|frame| world.ask(frame));
        let asked = asked.collect::<anyhow::Result<Vec<_>>>()?;
        world.asked = asked.leak();
        Ok(world)
    }

    /// Returns the service that answers whole checks, with `caches`.
    pub(super) fn service(&self, caches: Caches) -> anyhow::Result<AuthorizationService> {
        let context = Context {
            snapshots: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            certificates: caches.certificates,
            tokens: caches.tokens,
            metrics: Arc::clone(&self.metrics),
            records: Arc::clone(&self.records),
            bounds: CheckSettings { timeout: Duration::from_secs(60), ..CheckSettings::default() },
            max_message_bytes: 1 << 20,
            proofs: proofs()?,
            replay: Arc::new(ReplayStore::Memory(MemoryStore::new(1, self.now()))),
        };
        Ok(AuthorizationService::new(Arc::new(context)))
    }

    /// Returns what the policies say of where the peer is.
    pub(super) fn sources(&self) -> PeerSources {
        self.snapshot.trust.peer_sources.unwrap_or_default()
    }

    /// Returns the file of the issuer's key set.
    pub(super) fn keys(&self) -> PathBuf {
        self.directory.join("corp.jwks.json")
    }

    /// Returns the time.
    pub(super) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// Takes one check through the stages.
    fn ask(&self, frame: Bytes) -> anyhow::Result<Asked> {
        let message = frame.slice(FRAME_HEAD.min(frame.len())..);
        // Whatever borrows from it must outlive it: nothing here is freed.
        let bytes: &'static [u8] = message.to_vec().leak();
        let request = wire::CheckRequest::decode(bytes)?;
        let kept: &'static wire::CheckRequest<'static> = Box::leak(Box::new(request.clone()));
        let evidence = Evidence::read(kept, self.sources(), None, &self.caches.certificates)?;
        let evidence: &'static Evidence<'static> = Box::leak(Box::new(evidence));
        let candidates = self.snapshot.policies.candidates(evidence);
        let proofs = proofs()?;
        let (trust, tokens) = (&self.snapshot.trust, &*self.caches.tokens);
        let verifier = Verifier { trust, tokens, proofs: &proofs, now: self.now() };
        let callers = verifier
            .callers(evidence, candidates.asks_workload(), Waited::default())
            .map_err(|_refetch| anyhow!("the issuer lacks a key"))?;
        let needs = candidates.needs(&callers);
        let outcome = verifier.verify(evidence, callers, needs, Waited::default());
        let Verified::Settled(principal) = outcome else {
            return Err(anyhow!("the issuer lacks a key"));
        };
        let principal: &'static Principal<'static> = Box::leak(Box::new(principal));
        let id: &'static DecisionId = Box::leak(Box::new(DecisionId::next()));
        ensure!(matches!(principal.token, Proof::Proven(_)), "not verified: {principal:?}");
        let decision = self.snapshot.policies.decide(&candidates, evidence, principal, &mut ());
        let Decision::Allow(permit) = decision else { return Err(anyhow!("{decision:?}")) };
        let changes = permit
            .upstream(evidence, principal, id.as_str())
            .map_err(|denial| anyhow!("{denial:?}"))?;
        let answer = Answer::Allow(permit, changes);
        Ok(Asked { frame, message, request, evidence, principal, answer })
    }
}

/// Loads a policy directory as the server does.
fn snapshot(directory: &Path, clock: &SharedClock) -> anyhow::Result<Snapshot> {
    let tree = source::read(directory)?;
    let loaded = load(&tree, &[]).map_err(|mistakes| anyhow!("{mistakes:?}"))?;
    // The keys are in the directory: nothing is ever spawned on it.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let outbound = Settings::default().outbound;
    let pool = IssuerPool::new(&outbound, None, Arc::clone(clock), runtime.handle().clone())?;
    let issuers =
        pool.reconcile(&loaded.documents.issuers).map_err(|mistakes| anyhow!("{mistakes:?}"))?;
    let peer_trust = loaded.documents.peer_trust.context("a PeerTrust")?;
    let domains = loaded.documents.trust_domains.iter();
    let trust = Trust {
        peer_sources: Some(peer_trust.evidence.value),
        trust_domains: domains.map(|domain| domain.name.value.as_str().into()).collect(),
        issuers: issuers.into(),
        ..Trust::default()
    };
    let generation = Generation {
        number: 1,
        hash: tree.hash.as_str().into(),
        commit: None,
        loaded: clock.now(),
    };
    Ok(Snapshot { generation, policies: loaded.policies, trust })
}

impl Asked {
    /// Returns what names the decision.
    pub(super) fn label<'a>(&self, id: &'a DecisionId, snapshot: &'a Snapshot) -> Label<'a> {
        let generation = Some(&snapshot.generation);
        Label { id, generation, principal: self.peer().and_then(|peer| peer.spiffe) }
    }

    fn peer(&self) -> Option<PeerRecord<'static>> {
        let Proof::Proven(peer) = &self.principal.peer else { return None };
        let spiffe = peer.spiffe.map(SpiffeId::as_str);
        Some(PeerRecord { spiffe, thumbprint: peer.thumbprint, verified_by: Some("envoy") })
    }

    /// Returns the decision record, as full as a check's.
    pub(super) fn record<'a>(
        &'a self,
        now: UnixTime,
        id: DecisionId,
        snapshot: &'a Snapshot,
    ) -> DecisionRecord<'a> {
        let mut record = DecisionRecord::new(now, id, Reason::Allowed);
        record.rule = self.answer.rule();
        record.duration_us = 9;
        record.policy = Some(PolicyRecord {
            generation: snapshot.generation.number,
            hash: &snapshot.generation.hash,
            commit: None,
        });
        record.request_id = Some(self.evidence.request_id);
        record.workload = self.evidence.workload.map(SpiffeId::as_str);
        if let Some(http) = self.evidence.http() {
            record.method = Some(http.method);
            record.host = Some(&http.host);
            record.path = Some(&http.path.canonical);
        }
        record.peer = self.peer();
        if let Proof::Proven(bound) = &self.principal.token {
            record.token = Some(TokenRecord {
                issuer: &bound.token.issuer,
                sub: bound.token.subject.as_deref(),
                client_id: bound.token.client_id.as_deref(),
                scopes: &bound.token.scopes,
                jti: bound.token.id.as_deref(),
                binding: &["certificate"],
                introspected: bound.token.introspected,
                actors: &bound.token.actors,
            });
        }
        record
    }
}

/// What verifies DPoP proofs; none of the checks has one.
pub(super) fn proofs() -> anyhow::Result<ProofVerifier> {
    let rules = ProofRules {
        algorithms: vec![(symbolon::trust::jwks::Algorithm::ES256, "ES256".to_owned())],
        past: Duration::from_secs(60),
        future: Duration::from_secs(10),
    };
    Ok(ProofVerifier::new(rules, Arc::new(Nonces::random()?)))
}
