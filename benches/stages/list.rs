//! The stages of a check, each as something that can be run again and again.

mod opaque;
mod world;

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use symbolon::{
    credential::{Proof, Verifier, Waited, dpop::Call},
    evidence::{Evidence, authorization::Credentials},
    identity::Thumbprint,
    policy::Needs,
    reason::Reason,
    response::{self, Answer},
    telemetry::decision_id::DecisionId,
    transport::{AuthorizationService, unary, wire},
};

use self::world::{Asked, Caches, World, proofs};

/// Rules in the policy set.
const RULES: usize = 100;

/// What checks need: all of it.
const NEEDS: Needs<'_> = Needs { token: true, opaque: None };

/// A stage: each run takes the next check.
pub(crate) struct Stage {
    /// What it is called in reports.
    pub(crate) name: &'static str,
    /// Runs it once.
    pub(crate) run: Box<dyn FnMut()>,
}

impl Stage {
    /// Makes a stage of a function of a check; the checks come one after the other, around.
    fn of(
        name: &'static str,
        world: &World,
        mut each: impl FnMut(&'static Asked) + 'static,
    ) -> Self {
        let asked = world.asked;
        let mut next = 0_usize;
        let run = move || {
            if let Some(asked) = asked.get(next) {
                each(asked);
            }
            next = next.wrapping_add(1).checked_rem(asked.len()).unwrap_or(0);
        };
        Self { name, run: Box::new(run) }
    }
}

/// Returns the stages, in the order a check passes them, and then whole checks.
///
/// # Errors
/// When a policy set cannot be written to `directory` and loaded, or a check is not allowed.
pub(crate) fn stages(directory: &Path) -> anyhow::Result<Vec<Stage>> {
    let world = World::create(&directory.join("usual"), RULES)?;
    let few = World::create(&directory.join("few"), 10)?;
    let many = World::create(&directory.join("many"), 10_000)?;
    let proven = World::with_proofs(&directory.join("proven"), RULES)?;
    Ok(vec![
        Stage::of("decode", &world, |asked| {
            black_box(wire::CheckRequest::decode(&asked.message).is_ok());
        }),
        Stage::of("decode: by envoy-types", &world, |asked| {
            black_box(CheckRequest::decode(asked.message.clone()).is_ok());
        }),
        evidence("evidence", &world, &world.caches),
        evidence("evidence: certificate unseen", &world, &Caches::none()),
        token("token", &world, &world.caches)?,
        token("token: unseen", &world, &Caches::none())?,
        opaque::stage(&directory.join("opaque"), &world)?,
        proof("proof: key seen before", &proven, true)?,
        proof("proof: key unseen", &proven, false)?,
        bare_signature(&world)?,
        decision("decision: 100 rules", &world),
        decision("decision: 10 rules", &few),
        decision("decision: 10,000 rules", &many),
        upstream(&world),
        record(&world),
        metrics(&world),
        answer(&world),
        check("whole check", &world, &world.caches)?,
        check("whole check: 10,000 rules", &many, &many.caches)?,
        check("whole check: nothing seen before", &world, &Caches::none())?,
    ])
}

/// Headers, path, host and peer, read out of the message.
fn evidence(name: &'static str, world: &World, caches: &Caches) -> Stage {
    let (sources, certificates) = (world.sources(), Arc::clone(&caches.certificates));
    Stage::of(name, world, move |asked| {
        black_box(Evidence::read(&asked.request, sources, None, &certificates).is_ok());
    })
}

/// Peer, token and the bond between them.
fn token(name: &'static str, world: &World, caches: &Caches) -> anyhow::Result<Stage> {
    let (trust, now) = (&world.snapshot.trust, world.now());
    let tokens = Arc::clone(&caches.tokens);
    let proofs = proofs()?;
    Ok(Stage::of(name, world, move |asked| {
        let Asked { evidence, .. } = *asked;
        let verifier = Verifier { trust, tokens: &tokens, proofs: &proofs, now };
        let Ok(callers) = verifier.callers(evidence, false, Waited::default()) else { return };
        black_box(verifier.verify(evidence, callers, NEEDS, Waited::default()));
    }))
}

/// A DPoP proof (RFC 9449 §4.3), whose signature is verified each time.
fn proof(name: &'static str, world: &World, is_known: bool) -> anyhow::Result<Stage> {
    let (proofs, now) = (proofs()?, world.now());
    // A key that the token is not bound to is not kept, and found out about at the end.
    let other = Thumbprint::of(b"another key");
    Ok(Stage::of(name, world, move |asked| {
        let (Some(http), Proof::Proven(bound)) = (asked.evidence.http(), &asked.principal.token)
        else {
            return;
        };
        let Credentials::Token { token, .. } = asked.evidence.credentials() else { return };
        let token = Thumbprint::of(token.as_bytes());
        let own = bound.token.confirmation.key.filter(|_| is_known);
        let (method, path) = (http.method, http.path.sent());
        let call = Call { method, path, token, key: own.unwrap_or(other) };
        assert_eq!(black_box(proofs.verify(http.proof, call, now).is_ok()), is_known);
    }))
}

/// What the verification of one ES256 signature costs by itself (RFC 7518 §3.4): what no cold check
/// can be below.
fn bare_signature(world: &World) -> anyhow::Result<Stage> {
    let jwks: serde_json::Value = serde_json::from_slice(&std::fs::read(world.keys())?)?;
    let coordinate = |name: &str| {
        let text = jwks.pointer(&format!("/keys/0/{name}")).and_then(serde_json::Value::as_str);
        Ok::<_, anyhow::Error>(URL_SAFE_NO_PAD.decode(text.context("a coordinate")?)?)
    };
    // An uncompressed point (SEC 1 §2.3.3).
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    let first = world.asked.first().context("a check")?;
    let Credentials::Token { token, .. } = first.evidence.credentials() else {
        anyhow::bail!("a check without a token");
    };
    let (signed, signature) = token.rsplit_once('.').context("a compact JWS")?;
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    key.verify(signed.as_bytes(), &signature).context("the corpus has good signatures")?;
    Ok(Stage::of("token: bare ES256 verification", world, move |_| {
        black_box(key.verify(signed.as_bytes(), &signature).is_ok());
    }))
}

/// Finding the rules that ask, and asking them.
fn decision(name: &'static str, world: &World) -> Stage {
    let policies = &world.snapshot.policies;
    Stage::of(name, world, move |asked| {
        let candidates = policies.candidates(asked.evidence);
        black_box(policies.decide(&candidates, asked.evidence, asked.principal, &mut ()));
    })
}

/// The headers that go on or come off.
fn upstream(world: &World) -> Stage {
    let id = DecisionId::next();
    Stage::of("upstream headers", world, move |asked| {
        if let Answer::Allow(permit, _) = &asked.answer {
            let changes = permit.upstream(asked.evidence, asked.principal, id.as_str());
            black_box(changes.is_ok());
        }
    })
}

/// The decision record, made and queued.
fn record(world: &World) -> Stage {
    let (records, snapshot, now) = (Arc::clone(&world.records), world.snapshot, world.now());
    Stage::of("record", world, move |asked| {
        let record = asked.record(now, DecisionId::next(), snapshot);
        black_box(records.push(&record, None).is_ok());
    })
}

fn metrics(world: &World) -> Stage {
    let metrics = Arc::clone(&world.metrics);
    Stage::of("metrics", world, move |_| {
        let _in_flight = metrics.check_started();
        metrics.check(Reason::Allowed, black_box(Duration::from_micros(9)));
    })
}

/// The answer, encoded and framed.
fn answer(world: &World) -> Stage {
    let (snapshot, id) = (world.snapshot, DecisionId::next());
    Stage::of("answer", world, move |asked| {
        let answer = response::build(&asked.answer, asked.label(&id, snapshot), unary::PREFIX);
        black_box(unary::respond(answer.into_bytes()));
    })
}

/// A check from its message to its answer, all stages: what the transport runs for an RPC.
fn check(name: &'static str, world: &World, caches: &Caches) -> anyhow::Result<Stage> {
    let service = world.service(caches.clone())?;
    for asked in world.asked {
        ensure_allowed(&service, asked)?;
    }
    Ok(Stage::of(name, world, move |asked| {
        let body = Full::new(asked.frame.clone());
        black_box(service.clone().check(body, None, None).now_or_never());
    }))
}

fn ensure_allowed(service: &AuthorizationService, asked: &Asked) -> anyhow::Result<()> {
    let check = service.clone().check(Full::new(asked.frame.clone()), None, None);
    let answer = check.now_or_never().context("a check that waits")?;
    let body = answer.into_body().collect().now_or_never().context("a body that waits")??;
    let message = body.to_bytes().slice(unary::PREFIX..);
    let answer = CheckResponse::decode(message)?;
    ensure!(answer.status.as_ref().is_some_and(|status| status.code == 0), "denied: {answer:?}");
    Ok(())
}
