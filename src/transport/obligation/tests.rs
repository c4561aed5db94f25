//! Checks with DPoP-bound tokens, from the message to the answer, in both encodings of headers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Request},
        check_response::HttpResponse,
    },
};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    clock::ManualClock,
    config::{CheckSettings, Overflow, RecordSettings, RecordSink},
    credential::{
        cache::TokenCache,
        dpop::replay::{MemoryStore, ReplayStore},
        testing::{NOW, Signer, claims_with, document, issuer_of, proofs, trust_in},
    },
    evidence::certificate::CertificateCache,
    identity::Thumbprint,
    policy::{PolicySet, load},
    snapshot::{Generation, Snapshot, SnapshotStore, source::SourceTree},
    telemetry::{metrics::Metrics, sink::RecordQueue},
    transport::AuthorizationService,
};

const POLICY: &str = r#"
apiVersion: symbolon/v1
kind: Policy
metadata: {name: payments}
spec:
  hosts: [payments.example]
  origin: https://payments.example
  audiences: ["https://payments.example"]
  rules:
  - name: plain
    to: {paths: ["/plain"]}
    token: {issuers: [corp], binding: [dpop]}
  - name: watched
    to: {paths: ["/watched"]}
    token: {issuers: [corp], binding: [dpop], replay: observe}
  - name: timed
    to: {paths: ["/timed"]}
    token: {issuers: [corp], binding: [dpop], nonce: required}
  - name: greeted
    to: {paths: ["/greeted"]}
    token: {issuers: [corp], scopes: ["payments:read"], binding: [dpop], nonce: on}
  - name: scoped
    to: {paths: ["/scoped"]}
    token: {issuers: [corp], scopes: ["admin"], binding: [dpop]}
---
apiVersion: symbolon/v1
kind: Policy
metadata: {name: elsewhere}
spec:
  hosts: [other.example]
  audiences: ["https://payments.example"]
  rules:
  - name: any
    token: {issuers: [corp], binding: [none]}
---
apiVersion: symbolon/v1
kind: Issuer
metadata: {name: corp}
spec:
  issuer: https://login.example/
  keys: {discovery: true}
  audiences: ["https://payments.example"]
"#;

/// Everything behind the transport, and a client with a token bound to its key.
struct World {
    service: AuthorizationService,
    context: Arc<Context>,
    clock: Arc<ManualClock>,
    client: Signer,
    issuer: Signer,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    reason: String,
    status: i32,
    challenge: Option<String>,
    nonces: usize,
    no_store: bool,
}

impl World {
    fn new(capacity: usize) -> Self {
        let records =
            RecordSettings { to: RecordSink::Off, queue_bytes: 1 << 16, overflow: Overflow::Drop };
        Self::with_records(capacity, &records)
    }

    fn with_records(capacity: usize, settings: &RecordSettings) -> Self {
        let (issuer, client) = (Signer::es256("k1"), Signer::es256("c"));
        let clock = Arc::new(ManualClock::at(NOW.as_secs()));
        let trust = trust_in(vec![issuer_of(document(), &[&issuer])]);
        let snapshots = Arc::new(SnapshotStore::default());
        let generation = Generation { number: 1, hash: "h".into(), commit: None, loaded: NOW };
        let policies = policies();
        snapshots.store(Arc::new(Snapshot { generation, policies, trust }));
        let metrics = Arc::new(Metrics::new().unwrap());
        let context = Arc::new(Context {
            snapshots,
            clock: Arc::<ManualClock>::clone(&clock),
            certificates: Arc::new(CertificateCache::new(10)),
            tokens: Arc::new(TokenCache::new(10)),
            proofs: proofs(),
            replay: Arc::new(ReplayStore::Memory(MemoryStore::new(capacity, NOW))),
            records: Arc::new(RecordQueue::start(settings, Arc::clone(&metrics)).unwrap()),
            metrics,
            bounds: CheckSettings::default(),
            max_message_bytes: 1 << 20,
        });
        let service = AuthorizationService::new(Arc::clone(&context));
        Self { service, context, clock, client, issuer }
    }

    fn remembered(&self) -> usize {
        match &*self.context.replay {
            ReplayStore::Memory(store) => store.len(),
            ReplayStore::Redis(store) => panic!("{store:?}"),
        }
    }

    fn key(&self) -> Thumbprint {
        let key = crate::trust::jwks::PublicKey::read(
            &self.client.jwk(),
            crate::trust::jwks::Algorithm::ES256,
        );
        key.unwrap().thumbprint()
    }

    fn token(&self) -> String {
        let cnf = json!({"jkt": self.key().to_base64url()});
        self.issuer.sign(&claims_with("cnf", Some(cnf)))
    }

    /// A proof for `GET https://payments.example` and `path`, with `change` made to its claims.
    fn proof(&self, token: &str, path: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut jwk = self.client.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let mut claims = json!({
            "jti": "1", "htm": "GET", "htu": format!("https://payments.example{path}"),
            "iat": self.context.clock.now().as_secs(),
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        change(&mut claims);
        self.client.sign_with(&header, &claims)
    }

    async fn ask(&self, request: &CheckRequest, caller: Option<&str>) -> Seen {
        let message = request.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        let body = Full::new(Bytes::from(frame));
        let check = self.service.clone().check(body, None, caller.map(Arc::from));
        let answer = check.await.into_body().collect().await.unwrap().to_bytes();
        seen(CheckResponse::decode(answer.slice(5..)).unwrap())
    }

    /// Asks about `path`, in both encodings of headers; each time as another stream of Envoy. The second
    /// one has the proof that `proof` makes for it.
    async fn call(&self, path: &str, token: &str, proof: impl Fn(&str) -> String) -> Seen {
        let authorization = format!("DPoP {token}");
        let mut answers = Vec::new();
        for (raw, jti) in [(false, "a"), (true, "b")] {
            let proof = proof(jti);
            let headers = [("authorization", &*authorization), ("dpop", &*proof)];
            answers.push(self.ask(&request("payments.example", path, &headers, raw), None).await);
        }
        let other = answers.pop().unwrap();
        let one = answers.pop().unwrap();
        assert_eq!(one, other, "both encodings are answered alike");
        one
    }

    /// Asks about `path` with a fresh proof that `change` is made to.
    async fn fresh(&self, path: &str, change: impl Fn(&mut Value)) -> Seen {
        let token = self.token();
        self.call(path, &token, |jti| {
            self.proof(&token, path, |claims| {
                claims["jti"] = json!(format!("{jti}{}", next()));
                change(claims);
            })
        })
        .await
    }

    fn nonce(&self) -> String {
        self.context.proofs.nonces().issue(self.key(), self.context.clock.now()).unwrap()
    }
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn policies() -> PolicySet {
    let files = [(Arc::from("policy.yaml"), POLICY.as_bytes().to_vec())].into();
    let tree = SourceTree { files, ..SourceTree::default() };
    load::load(&tree, &[]).unwrap_or_else(|error| panic!("{:?}", error.all)).policies
}

fn request(host: &str, path: &str, headers: &[(&str, &str)], raw: bool) -> CheckRequest {
    let mut http = HttpRequest {
        id: next().to_string(),
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        ..HttpRequest::default()
    };
    let named = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    if raw {
        let headers = named.map(|(key, value)| HeaderValue {
            key,
            raw_value: value.into_bytes(),
            ..HeaderValue::default()
        });
        http.header_map = Some(HeaderMap { headers: headers.collect() });
    } else {
        http.headers = named.collect();
    }
    let request = Some(Request { http: Some(http), ..Request::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

fn seen(response: CheckResponse) -> Seen {
    let fields = response.dynamic_metadata.unwrap().fields;
    let reason = format!("{:?}", fields["reason"].kind.as_ref().unwrap());
    let reason = reason.trim_start_matches("StringValue(\"").trim_end_matches("\")").to_owned();
    let (status, headers) = match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => (200, ok.response_headers_to_add),
        HttpResponse::DeniedResponse(denied) => (denied.status.unwrap().code, denied.headers),
        HttpResponse::ErrorResponse(_) => panic!(),
    };
    let named = |name: &str| {
        let header = |option: &HeaderValueOption| option.header.clone().unwrap();
        let headers = headers.iter().map(header).filter(|header| header.key == name);
        headers.map(|header| header.value).collect::<Vec<_>>()
    };
    Seen {
        reason,
        status,
        challenge: named("www-authenticate").pop(),
        nonces: named("dpop-nonce").len(),
        no_store: named("cache-control") == ["no-store"],
    }
}

impl Seen {
    #[track_caller]
    fn is(&self, reason: Reason, challenge: Option<&str>) {
        let expected = Self {
            reason: reason.to_string(),
            status: if reason == Reason::Allowed { 200 } else { reason.outcome().status().into() },
            challenge: challenge.map(str::to_owned),
            nonces: 0,
            no_store: false,
        };
        assert_eq!(*self, expected);
    }

    #[track_caller]
    fn is_with_nonce(&self, reason: Reason, challenge: Option<&str>) {
        assert_eq!((self.nonces, self.no_store), (1, true), "{self:?}");
        Self { nonces: 0, no_store: false, ..self.clone() }.is(reason, challenge);
    }
}

const INVALID_PROOF: &str =
    r#"DPoP realm="api", error="invalid_dpop_proof", algs="ES256 ES384 EdDSA PS256""#;
const INVALID_TOKEN: &str =
    r#"DPoP realm="api", error="invalid_token", algs="ES256 ES384 EdDSA PS256""#;
const USE_NONCE: &str =
    r#"DPoP realm="api", error="use_dpop_nonce", algs="ES256 ES384 EdDSA PS256""#;

#[tokio::test]
async fn a_token_with_a_fresh_proof_passes_and_the_same_proof_does_not_pass_again() {
    let world = World::new(100);
    world.fresh("/plain", |_| {}).await.is(Reason::Allowed, None);
    let token = world.token();
    let proof = world.proof(&token, "/plain", |_| {});
    let (first, second) = {
        let authorization = format!("DPoP {token}");
        let headers = [("authorization", &*authorization), ("dpop", &*proof)];
        let ask = |raw| request("payments.example", "/plain", &headers, raw);
        (world.ask(&ask(false), None).await, world.ask(&ask(true), None).await)
    };
    first.is(Reason::Allowed, None);
    second.is(Reason::DpopReplayed, Some(INVALID_PROOF));
    // Where another check uses it up, this one does not look.
    let watched = |_: &str| world.proof(&token, "/watched", |_| {});
    for _again in 0..2 {
        world.call("/watched", &token, watched).await.is(Reason::Allowed, None);
    }
    assert_eq!(world.remembered(), 3);
}

#[tokio::test]
async fn envoys_retry_of_the_same_check_is_answered_as_the_first_time() {
    let world = World::new(100);
    let token = world.token();
    let proof = world.proof(&token, "/plain", |_| {});
    let authorization = format!("DPoP {token}");
    let headers = [("authorization", &*authorization), ("dpop", &*proof)];
    let check = request("payments.example", "/plain", &headers, false);
    let envoy = Some("spiffe://td/gateway");
    world.ask(&check, envoy).await.is(Reason::Allowed, None);
    world.ask(&check, envoy).await.is(Reason::Allowed, None);
    world.ask(&check, None).await.is(Reason::DpopReplayed, Some(INVALID_PROOF));
    let again = request("payments.example", "/plain", &headers, false);
    world.ask(&again, envoy).await.is(Reason::DpopReplayed, Some(INVALID_PROOF));
}

#[tokio::test]
async fn a_check_that_is_denied_uses_no_proof_up() {
    let world = World::new(100);
    let scope = r#"DPoP realm="api", error="insufficient_scope", scope="admin", algs="ES256 ES384 EdDSA PS256""#;
    for _again in 0..2 {
        let token = world.token();
        let proof = |_: &str| world.proof(&token, "/scoped", |_| {});
        let seen = world.call("/scoped", &token, proof).await;
        seen.is(Reason::ScopeMissing, Some(scope));
    }
    assert!(world.remembered() == 0);
}

#[tokio::test]
async fn a_proof_that_cannot_be_remembered_denies() {
    let world = World::new(2);
    world.fresh("/plain", |_| {}).await.is(Reason::Allowed, None);
    world.fresh("/plain", |_| {}).await.is(Reason::DpopReplayStoreFull, None);
    world.clock.advance(Duration::from_secs(72));
    world.fresh("/plain", |_| {}).await.is(Reason::Allowed, None);
}

#[tokio::test]
async fn what_is_wrong_with_a_proof_is_told_by_its_code_and_no_more() {
    let world = World::new(100);
    let wrong =
        |name: &'static str, value: Value| move |claims: &mut Value| claims[name] = value.clone();
    let now = NOW.as_secs();
    for (name, value, reason) in [
        ("jti", json!(""), Reason::DpopProofMalformed),
        ("htm", json!("POST"), Reason::DpopProofMethod),
        ("htu", json!("https://payments.example/watched"), Reason::DpopProofUri),
        ("htu", json!("http://payments.example/plain"), Reason::DpopProofUri),
        ("htu", json!("https://other.example/plain"), Reason::DpopProofUri),
        ("ath", json!(""), Reason::DpopProofToken),
        ("iat", json!(now - 61), Reason::DpopProofTime),
        ("iat", json!(now + 11), Reason::DpopProofTime),
        ("iat", json!(now - 1), Reason::DpopProofBeforeStart),
    ] {
        world.fresh("/plain", wrong(name, value)).await.is(reason, Some(INVALID_PROOF));
    }
    let token = world.token();
    let call = |proof: String| {
        let (world, token) = (&world, &token);
        async move { world.call("/plain", token, move |_| proof.clone()).await }
    };
    let good = world.proof(&token, "/plain", |_| {});
    call(String::new()).await.is(Reason::DpopProofMalformed, Some(INVALID_PROOF));
    call(format!("{good},{good}")).await.is(Reason::DpopProofAmbiguous, Some(INVALID_PROOF));
    call(token.clone()).await.is(Reason::DpopProofType, Some(INVALID_PROOF));
    call(format!("{good}A")).await.is(Reason::DpopProofSignature, Some(INVALID_PROOF));
    let other = World::new(1);
    let strange = other.proof(&token, "/plain", |_| {});
    call(strange).await.is(Reason::DpopKeyMismatch, Some(INVALID_TOKEN));
    assert!(world.remembered() == 0);
}

#[tokio::test]
async fn no_other_presentation_takes_the_place_of_a_proof() {
    let world = World::new(100);
    let (bound, unbound) = (world.token(), world.issuer.sign(&claims_with("cnf", None)));
    let proof = world.proof(&bound, "/plain", |_| {});
    let ask = |host: &'static str, authorization: String, proof: Option<String>| {
        let world = &world;
        async move {
            let mut headers = vec![("authorization", &*authorization)];
            headers.extend(proof.as_deref().map(|proof| ("dpop", proof)));
            world.ask(&request(host, "/plain", &headers, false), None).await
        }
    };
    let pay = "payments.example";
    let none = ask(pay, format!("DPoP {bound}"), None).await;
    none.is(Reason::DpopProofMissing, Some(INVALID_PROOF));
    let offer = r#"Bearer realm="api", error="invalid_token", DPoP realm="api", algs="ES256 ES384 EdDSA PS256""#;
    for beside in [None, Some(proof.clone())] {
        let downgraded = ask(pay, format!("Bearer {bound}"), beside).await;
        downgraded.is(Reason::SchemeMismatch, Some(offer));
    }
    let unbound_dpop = ask(pay, format!("dpop {unbound}"), Some(proof.clone())).await;
    unbound_dpop.is(Reason::SchemeMismatch, Some(INVALID_TOKEN));
    let both = ask(pay, format!("Bearer {bound},DPoP {bound}"), Some(proof.clone())).await;
    let invalid = r#"DPoP realm="api", error="invalid_request", algs="ES256 ES384 EdDSA PS256""#;
    both.is(Reason::CredentialsAmbiguous, Some(invalid));
    let no_origin = ask("other.example", format!("DPoP {bound}"), Some(proof.clone())).await;
    no_origin.is(Reason::DpopOriginUnknown, Some(INVALID_TOKEN));
    let lower = ask(pay, format!("dPoP {bound}"), Some(proof)).await;
    lower.is(Reason::Allowed, None);
    let nothing = ask(pay, "Basic eDp5".to_owned(), None).await;
    let challenge = r#"DPoP realm="api", algs="ES256 ES384 EdDSA PS256""#;
    nothing.is(Reason::TokenAbsent, Some(challenge));
}

#[tokio::test]
async fn two_dpop_headers_are_ambiguous_where_they_come_apart_too() {
    let world = World::new(100);
    let token = world.token();
    let proof = world.proof(&token, "/plain", |_| {});
    let authorization = format!("DPoP {token}");
    let headers = [("authorization", &*authorization), ("dpop", &*proof), ("dpop", &*proof)];
    let seen = world.ask(&request("payments.example", "/plain", &headers, true), None).await;
    seen.is(Reason::DpopProofAmbiguous, Some(INVALID_PROOF));
}

#[tokio::test]
async fn a_required_nonce_is_challenged_for_and_then_tells_the_time() {
    let world = World::new(100);
    let hour_ago = NOW.as_secs() - 3600;
    let seen = world.fresh("/timed", |_| {}).await;
    seen.is_with_nonce(Reason::DpopNonceRequired, Some(USE_NONCE));
    let nonce = world.nonce();
    let with = |nonce: &str| {
        let nonce = json!(nonce);
        move |claims: &mut Value| {
            claims["nonce"] = nonce.clone();
            claims["iat"] = json!(hour_ago);
        }
    };
    world.fresh("/timed", with(&nonce)).await.is_with_nonce(Reason::Allowed, None);
    let seen = world.fresh("/timed", with("of-the-authorization-server")).await;
    seen.is_with_nonce(Reason::DpopNonceInvalid, Some(USE_NONCE));
    // Where none is asked for, the client's own time counts, and none is given.
    let seen = world.fresh("/plain", with(&nonce)).await;
    seen.is(Reason::DpopProofTime, Some(INVALID_PROOF));
    world.clock.advance(Duration::from_secs(61));
    let seen = world.fresh("/timed", with(&nonce)).await;
    seen.is_with_nonce(Reason::DpopNonceInvalid, Some(USE_NONCE));
}

#[tokio::test]
async fn where_nonces_are_on_one_is_given_and_none_is_demanded() {
    let world = World::new(100);
    world.fresh("/greeted", |_| {}).await.is_with_nonce(Reason::Allowed, None);
    // What was made before this process began is mended with a nonce, where the client knows them.
    let before = |claims: &mut Value| claims["iat"] = json!(NOW.as_secs() - 1);
    let seen = world.fresh("/greeted", before).await;
    seen.is_with_nonce(Reason::DpopNonceInvalid, Some(USE_NONCE));
}

#[tokio::test]
async fn a_check_that_cannot_be_recorded_uses_no_proof_up() {
    let folder = tempfile::tempdir().unwrap();
    let to = RecordSink::File(folder.path().join("records"));
    for (queue_bytes, reason, used) in [(300, "record_unavailable", 0), (1 << 16, "allowed", 2)] {
        let records = RecordSettings { to: to.clone(), queue_bytes, overflow: Overflow::Deny };
        let world = World::with_records(100, &records);
        assert_eq!(world.fresh("/plain", |_| ()).await.reason, reason);
        assert_eq!(world.remembered(), used, "{queue_bytes}");
    }
}
