//! The Authorization service: receives a check, runs the pipeline, always answers with a decision.
//!
//! Whatever happens to a check — a message that is too large or cannot be read, too many at once, a
//! deadline that passes, a panic, no policy — is a denial in an RPC that succeeded: a failed RPC may be an
//! allow, by how Envoy is configured.

pub mod admin;
mod obligation;
pub mod server;
pub mod unary;
pub mod wire;

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::poll_immediate};
use http::{Request, Response};
use http_body::Body;

use crate::{
    clock::{SharedClock, UnixTime},
    config::CheckSettings,
    credential::{
        Peer, Principal, Proof, ProvenKey, Verified, Verifier, Waited,
        cache::TokenCache,
        claims::AccessToken,
        dpop::{
            ProofVerifier,
            replay::{
                ReplayStore,
                redis::{Pending, RedisStore},
            },
        },
    },
    evidence::{Evidence, certificate::CertificateCache},
    identity::SpiffeId,
    policy::Decision,
    reason::{Outcome, Reason},
    response::{self, Answer, CheckResponse, Label, Refusal},
    snapshot::{Snapshot, SnapshotStore},
    telemetry::{
        decision_id::DecisionId,
        metrics::Metrics,
        record::{DecisionRecord, PeerRecord, PolicyRecord, TokenRecord},
        sink::{RecordQueue, Room},
    },
    transport::{
        obligation::{Known, Recorded, Unmet},
        unary::{UnaryBody, UnaryError},
        wire::CheckRequest,
    },
    trust::{
        Refetch,
        introspection::{Introspected, Introspection},
    },
};

/// `envoy.service.auth.v3.Authorization`, cheap to clone.
#[derive(Clone, Debug)]
pub struct AuthorizationService(Arc<Context>);

/// What every check uses.
#[derive(Debug)]
pub struct Context {
    /// The live policies and trust.
    pub snapshots: Arc<SnapshotStore>,
    /// The time.
    pub clock: SharedClock,
    /// Certificates parsed before.
    pub certificates: Arc<CertificateCache>,
    /// Tokens verified before.
    pub tokens: Arc<TokenCache>,
    /// Verifies DPoP proofs.
    pub proofs: ProofVerifier,
    /// DPoP proofs that were used.
    pub replay: Arc<ReplayStore>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where decision records go.
    pub records: Arc<RecordQueue>,
    /// Bounds.
    pub bounds: CheckSettings,
    /// The largest message that is read, in bytes.
    pub max_message_bytes: usize,
}

impl AuthorizationService {
    /// Creates the service.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    /// Answers one `Check` RPC whose message is in `body`, within `deadline` if it has one. `caller` is the
    /// SPIFFE ID of the Envoy that asks, where it authenticated itself with one.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps each argument twice")]
    pub fn check<B>(
        self,
        mut body: B,
        deadline: Option<Duration>,
        caller: Option<Arc<str>>,
    ) -> impl Future<Output = Response<UnaryBody>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        // What a future holds is copied when its task is made: so inside, all is borrowed.
        async move {
            let context = &*self.0;
            let _in_flight = context.metrics.check_started();
            let check = Check {
                context,
                id: DecisionId::next(),
                arrived: Instant::now(),
                caller: caller.as_deref(),
                room: OnceLock::new(),
            };
            let answered = pin!(AssertUnwindSafe(check.within(deadline, &mut body)).catch_unwind());
            let response = match answered.await {
                Ok(response) => response,
                Err(_panic) => check.refuse_after_panic(),
            };
            unary::respond(response.into_bytes())
        }
    }
}

/// Runs `future` for at most `limit`; `None` if it took longer. A future that is ready at once, as nearly
/// every check is, pays for no timer and is answered however little time was left.
async fn within<F: Future>(limit: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    match poll_immediate(future.as_mut()).await {
        Some(output) => Some(output),
        None => tokio::time::timeout(limit, future).await.ok(),
    }
}

impl CheckSettings {
    /// Returns how long a check may take: the lesser of our own bound and Envoy's deadline less a margin.
    fn timeout_under(&self, deadline: Option<Duration>) -> Duration {
        deadline.map_or(self.timeout, |deadline| {
            self.timeout.min(deadline.saturating_sub(self.deadline_margin))
        })
    }
}

/// One check on its way.
struct Check<'c> {
    context: &'c Context,
    id: DecisionId,
    arrived: Instant,
    caller: Option<&'c str>,
    /// Kept for its record, where it uses a proof up.
    room: OnceLock<Room>,
}

/// How far a check came without waiting.
enum Step<'c> {
    /// To its end.
    Done(CheckResponse),
    /// To a key that only a refetch may bring; then it starts again.
    Refetch(Refetch),
    /// To a token that its issuer is asked about; then it starts again.
    Introspect(Introspection),
    /// To an allow for which the use of a proof has to be recorded first; then it starts again, and does not
    /// verify the DPoP proof once more.
    Consume(&'c RedisStore, Pending, Option<ProvenKey>),
}

/// What a check that starts again knows from before.
#[derive(Clone)]
struct Before {
    /// When it began: what was decided then is decided alike.
    now: UnixTime,
    refetched: bool,
    introspected: Option<Introspected>,
    proven: Option<ProvenKey>,
    recorded: Option<Recorded>,
}

/// What is known of a check when it is recorded.
#[derive(Clone, Copy, Default)]
struct Facts<'a> {
    snapshot: Option<&'a Snapshot>,
    evidence: Option<&'a Evidence<'a>>,
    principal: Option<&'a Principal<'a>>,
}

impl<'c> Check<'c> {
    /// Answers the check in time, and not at all if too many are in flight.
    async fn within<B>(&self, deadline: Option<Duration>, body: &mut B) -> CheckResponse
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let bounds = &self.context.bounds;
        if self.context.metrics.checks_in_flight() > bounds.max_concurrent {
            return self.refuse(Reason::Overloaded);
        }
        let answer = pin!(self.answer(body));
        match within(bounds.timeout_under(deadline), answer).await {
            Some(response) => response,
            None => self.refuse(Reason::DeadlineExceeded),
        }
    }

    async fn answer<B>(&self, body: &mut B) -> CheckResponse
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let message = match unary::read_message(body, self.context.max_message_bytes).await {
            Ok(message) => message,
            Err(error) => return self.refuse(error.into()),
        };
        // INVARIANT (one snapshot per check): loaded once, here.
        let snapshot = self.context.snapshots.load();
        let Some(snapshot) = snapshot.as_deref() else {
            return self.refuse(Reason::NoPolicyLoaded);
        };
        let now = self.context.clock.now();
        let mut before =
            Before { now, refetched: false, introspected: None, proven: None, recorded: None };
        // All but waiting is synchronous, so that this future holds no more than the message.
        loop {
            match self.decide(&message, snapshot, &before) {
                Step::Done(response) => return response,
                // Each is asked for once; were it asked for again, nothing would be proven.
                Step::Refetch(_) if before.refetched => {
                    return self.refuse(Reason::TokenKeyUnknown);
                }
                Step::Introspect(_) if before.introspected.is_some() => {
                    return self.refuse(Reason::IntrospectionUnavailable);
                }
                Step::Consume(..) if before.recorded.is_some() => {
                    return self.refuse(Reason::DpopReplayStoreUnavailable);
                }
                Step::Refetch(refetch) => {
                    refetch.0.await;
                    before.now = self.context.clock.now();
                    before.refetched = true;
                }
                Step::Introspect(introspection) => {
                    before.introspected = Some(introspection.0.await);
                    before.now = self.context.clock.now();
                }
                Step::Consume(store, pending, proven) => {
                    before.proven = proven;
                    // On the heap, as nearly every check does without it.
                    let result = Box::pin(store.record(pending)).await;
                    before.recorded = Some(Recorded { pending, result });
                }
            }
        }
    }

    /// Runs the pipeline as far as it comes without waiting.
    fn decide(&self, message: &[u8], snapshot: &Snapshot, before: &Before) -> Step<'c> {
        let Before { now, refetched, ref introspected, ref proven, recorded } = *before;
        let facts = Facts { snapshot: Some(snapshot), ..Facts::default() };
        let refuse = |reason| self.finish(now, &Answer::Deny(Refusal::without_rule(reason)), facts);
        let Ok(request) = CheckRequest::decode(message) else {
            return Step::Done(refuse(Reason::MalformedCheck));
        };
        let caller = self.caller.and_then(|caller| SpiffeId::parse(caller).ok());
        let trust = &snapshot.trust;
        let sources = trust.peer_sources.unwrap_or_default();
        let evidence = match Evidence::read(&request, sources, caller, &self.context.certificates) {
            Ok(evidence) => evidence,
            Err(error) => return Step::Done(refuse(error.into())),
        };
        self.drill(&evidence);
        let candidates = snapshot.policies.candidates(&evidence);
        let Context { tokens, proofs, .. } = self.context;
        let verifier = Verifier { trust, tokens, proofs, now };
        let waited =
            Waited { refetched, introspected: introspected.as_ref(), proven: proven.as_ref() };
        let callers = match verifier.callers(&evidence, candidates.asks_workload(), waited) {
            Ok(callers) => callers,
            Err(refetch) => return Step::Refetch(refetch),
        };
        let needs = candidates.needs(&callers);
        let principal = match verifier.verify(&evidence, callers, needs, waited) {
            Verified::Settled(principal) => principal,
            Verified::KeyMissing(refetch) => return Step::Refetch(refetch),
            Verified::Introspects(introspection) => return Step::Introspect(introspection),
        };
        let facts = Facts { evidence: Some(&evidence), principal: Some(&principal), ..facts };
        let nonce;
        let known = Known { evidence: &evidence, principal: &principal, message, now, recorded };
        let decided = match snapshot.policies.decide(&candidates, &evidence, &principal, &mut ()) {
            Decision::Allow(permit) => match self.allow(&permit, known, facts) {
                Ok(changes) => Ok((permit, changes)),
                Err(Unmet::Denied(denial)) => Err(denial),
                Err(Unmet::Waits(store, pending)) => {
                    return Step::Consume(store, pending, principal.proven_key());
                }
            },
            Decision::Deny(denial) => Err(denial),
        };
        let answer = match decided {
            Ok((permit, changes)) => Answer::Allow(permit, changes),
            Err(denial) => {
                let is_asked_for = denial.reason.outcome() == Outcome::UseDpopNonce;
                nonce = is_asked_for.then(|| self.context.nonce(known)).flatten();
                Answer::Deny(self.context.refusal(&denial, &evidence, nonce.as_deref()))
            }
        };
        Step::Done(self.finish(now, &answer, facts))
    }

    /// Panics where the operator asked for a drill on this path.
    fn drill(&self, evidence: &Evidence<'_>) {
        let Some(drilled) = &self.context.bounds.drill_panic_path else { return };
        let drilled = evidence.http().is_some_and(|http| http.path.canonical == drilled.as_str());
        #[expect(clippy::panic, clippy::manual_assert, reason = "the drill is a panic")]
        if drilled {
            panic!("drill: a check panics on purpose");
        }
    }

    /// Denies a check before anything of it is known.
    fn refuse(&self, reason: Reason) -> CheckResponse {
        let answer = Answer::Deny(Refusal::without_rule(reason));
        self.finish(self.context.clock.now(), &answer, Facts::default())
    }

    /// Denies a check that panicked. Where recording it panics too, nothing but the denial is left to do.
    fn refuse_after_panic(&self) -> CheckResponse {
        self.context.metrics.panic();
        let refuse = AssertUnwindSafe(|| self.refuse(Reason::InternalError));
        std::panic::catch_unwind(refuse).unwrap_or_else(|_panic| {
            let label = Label { id: &self.id, generation: None, principal: None };
            let refusal = Refusal::without_rule(Reason::InternalError);
            response::build(&Answer::Deny(refusal), label, unary::PREFIX)
        })
    }

    /// Records, counts and builds the response: each check comes here exactly once.
    fn finish(&self, now: UnixTime, answer: &Answer<'_>, facts: Facts<'_>) -> CheckResponse {
        let elapsed = self.arrived.elapsed();
        let record = self.record((now, elapsed), answer.reason(), answer.rule(), facts);
        let recorded = self.context.records.push(&record, self.room.get());
        let unrecorded = Answer::Deny(Refusal::without_rule(Reason::RecordUnavailable));
        let answer = if recorded.is_ok() { answer } else { &unrecorded };
        self.context.metrics.check(answer.reason(), elapsed);
        let label = Label {
            id: &self.id,
            generation: facts.snapshot.map(|snapshot| &snapshot.generation),
            principal: facts.peer().and_then(|peer| peer.spiffe).map(SpiffeId::as_str),
        };
        response::build(answer, label, unary::PREFIX)
    }

    fn record<'a>(
        &'a self,
        (now, elapsed): (UnixTime, Duration),
        reason: Reason,
        rule: Option<&'a str>,
        facts: Facts<'a>,
    ) -> DecisionRecord<'a> {
        let mut record = DecisionRecord::new(now, self.id, reason);
        record.rule = rule;
        record.caller = self.caller;
        record.duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        record.policy = facts.snapshot.map(|snapshot| PolicyRecord {
            generation: snapshot.generation.number,
            hash: &snapshot.generation.hash,
            commit: snapshot.generation.commit.as_deref(),
        });
        if let Some(evidence) = facts.evidence {
            record.request_id = Some(evidence.request_id).filter(|id| !id.is_empty());
            record.workload = evidence.workload.map(SpiffeId::as_str);
            if let Some(http) = evidence.http() {
                record.method = Some(http.method);
                record.host = Some(&http.host);
                record.path = Some(&http.path.canonical);
            }
        }
        record.peer = facts.peer().map(|peer| PeerRecord {
            spiffe: peer.spiffe.map(SpiffeId::as_str),
            thumbprint: peer.thumbprint,
            verified_by: Some("envoy"),
        });
        record.workload_identity = facts.workload().map(SpiffeId::as_str);
        record.token = facts.token().map(|(token, binding)| TokenRecord {
            issuer: &token.issuer,
            sub: token.subject.as_deref(),
            client_id: token.client_id.as_deref(),
            scopes: &token.scopes,
            jti: token.id.as_deref(),
            binding,
            introspected: token.introspected,
            actors: &token.actors,
        });
        record
    }
}

impl<'a> Facts<'a> {
    fn peer(&self) -> Option<&'a Peer<'a>> {
        match &self.principal?.peer {
            Proof::Proven(peer) => Some(peer),
            Proof::Absent | Proof::Unproven(_) => None,
        }
    }

    /// Returns the workload that proved its identity beside the peer.
    fn workload(&self) -> Option<SpiffeId<'a>> {
        match &self.principal?.workload {
            Proof::Proven(workload) => workload.spiffe(),
            Proof::Absent | Proof::Unproven(_) => None,
        }
    }

    /// Returns the token whose signature held, and what binds it to this call.
    fn token(&self) -> Option<(&'a AccessToken, &'static [&'static str])> {
        let principal = self.principal?;
        match &principal.token {
            Proof::Proven(bound) => Some((&bound.token, bound.binding.names())),
            Proof::Absent | Proof::Unproven(_) => {
                principal.refused_token.as_deref().map(|token| (token, &[][..]))
            }
        }
    }
}

impl From<UnaryError> for Reason {
    fn from(error: UnaryError) -> Self {
        match error {
            UnaryError::TooLarge => Self::CheckTooLarge,
            UnaryError::Framing | UnaryError::Stream => Self::MalformedCheck,
        }
    }
}

impl server::CheckService for AuthorizationService {
    type Body = UnaryBody;

    fn call(
        self,
        request: Request<hyper::body::Incoming>,
        caller: Option<Arc<str>>,
    ) -> impl Future<Output = Response<UnaryBody>> + Send {
        let deadline = unary::grpc_timeout(request.headers());
        self.check(request.into_body(), deadline, caller)
    }
}
