//! What an issuer's answer proves, and what it does not.

use serde_json::json;

use super::*;
use crate::{
    credential::{
        BoundToken, Needs, Proof, Verified,
        cache::TokenCache,
        testing::{
            ISSUER, NOW, Signer, b64, bearer, claims, claims_with, document, evidence, jwks, text,
            trust_in, verify,
        },
    },
    evidence::{
        authorization::{Credentials, Scheme},
        peer::PeerEvidence,
    },
    policy::document::{ClientAuthentication, IntrospectionDocument, IssuerDocument, KeySource},
    trust::{Trust, issuer_that_answers},
};

const OPAQUE: &str = "opaque-token";
const NEEDS: Needs<'_> = Needs { token: true, opaque: Some("corp") };

fn asked_document(tokens: IntrospectedTokens) -> IssuerDocument {
    let introspection = IntrospectionDocument {
        uri: text("http://127.0.0.1:1/introspect"),
        client_id: text("symbolon"),
        authentication: ClientAuthentication::ClientSecretBasic,
        tokens,
        cache_for: Duration::from_secs(30),
    };
    IssuerDocument { introspection: Some(introspection), keys: KeySource::None, ..document() }
}

struct World {
    signer: Signer,
    trust: Trust,
    tokens: TokenCache,
    version: u64,
}

impl World {
    fn new(tokens: IntrospectedTokens) -> Self {
        Self::of(asked_document(tokens))
    }

    fn of(document: IssuerDocument) -> Self {
        let signer = Signer::es256("k1");
        let issuer = issuer_that_answers(document, &jwks(&[&signer]));
        let version = issuer.introspection_version().unwrap();
        Self { signer, trust: trust_in(vec![issuer]), tokens: TokenCache::new(10), version }
    }

    fn told(&self, token: &str, answer: Answer) -> Introspected {
        Introspected::of(answer, NOW, Thumbprint::of(token.as_bytes()), self.version)
    }

    /// Checks `token`, about which the issuer has told `claims` when it was asked.
    fn check(&self, token: &str, claims: serde_json::Value) -> Result<BoundToken, Reason> {
        let serde_json::Value::Object(claims) = claims else { panic!() };
        self.check_told(token, Answer::Active(Arc::new(claims)))
    }

    fn check_told(&self, token: &str, answer: Answer) -> Result<BoundToken, Reason> {
        let told = self.told(token, answer);
        let waited = Waited { introspected: Some(&told), ..Waited::default() };
        self.settled(bearer(token), None, NEEDS, NOW, waited)
    }

    fn settled(
        &self,
        credentials: Credentials<'_>,
        peer: Option<PeerEvidence<'_>>,
        needs: Needs<'_>,
        now: UnixTime,
        waited: Waited<'_>,
    ) -> Result<BoundToken, Reason> {
        let evidence = evidence(credentials, peer);
        match verify(&evidence, needs, &self.trust, &self.tokens, now, waited) {
            Verified::Settled(principal) => match principal.token {
                Proof::Proven(bound) => Ok(bound),
                Proof::Unproven(reason) => Err(reason),
                Proof::Absent => panic!(),
            },
            Verified::KeyMissing(_) | Verified::Introspects(_) => panic!("asked again"),
        }
    }

    fn is_asked(&self, token: &str, needs: Needs<'_>, now: UnixTime) -> bool {
        let evidence = evidence(bearer(token), None);
        let verified = verify(&evidence, needs, &self.trust, &self.tokens, now, Waited::default());
        matches!(verified, Verified::Introspects(_))
    }
}

fn answer() -> serde_json::Value {
    json!({"active": true, "aud": "https://payments.example", "sub": "alice", "scope": "payments:read"})
}

fn answer_with(name: &str, value: serde_json::Value) -> serde_json::Value {
    let mut answer = answer();
    answer.as_object_mut().unwrap().insert(name.to_owned(), value);
    answer
}

#[tokio::test]
async fn an_opaque_token_is_proven_by_its_issuers_word_and_cached_for_a_while() {
    let world = World::new(IntrospectedTokens::Opaque);
    assert!(world.is_asked(OPAQUE, NEEDS, NOW));
    let bound = world.check(OPAQUE, answer()).unwrap();
    assert_eq!(bound.token.subject.as_deref(), Some("alice"));
    assert_eq!(bound.token.scopes, ["payments:read"]);
    assert!(bound.binding.is_none() && bound.token.introspected);
    let warm = |now| world.settled(bearer(OPAQUE), None, NEEDS, now, Waited::default());
    assert!(warm(NOW.saturating_add(Duration::from_secs(29))).is_ok());
    assert!(world.is_asked(OPAQUE, NEEDS, NOW.saturating_add(Duration::from_secs(30))));
}

#[tokio::test]
async fn an_answer_counts_for_the_token_that_was_asked_about_only() {
    let world = World::new(IntrospectedTokens::Opaque);
    let serde_json::Value::Object(claims) = answer() else { panic!() };
    let told = world.told("another", Answer::Active(Arc::new(claims)));
    let waited = Waited { introspected: Some(&told), ..Waited::default() };
    let evidence = evidence(bearer(OPAQUE), None);
    let verified = verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, waited);
    assert!(matches!(verified, Verified::Introspects(_)));
}

#[tokio::test]
async fn an_answer_is_judged_like_a_token() {
    let now = NOW.as_secs();
    let minute = 60;
    for (name, value, reason) in [
        ("exp", json!(now - minute), Reason::TokenExpired),
        ("exp", json!("soon"), Reason::TokenClaimInvalid),
        ("nbf", json!(now + minute), Reason::TokenNotYetValid),
        ("iat", json!(now + minute), Reason::TokenIssuedInFuture),
        ("aud", json!(7), Reason::TokenClaimInvalid),
        ("scope", json!(7), Reason::TokenClaimInvalid),
        ("cnf", json!({}), Reason::ConfirmationNotUnderstood),
        ("cnf", json!("x"), Reason::ConfirmationMalformed),
        ("act", json!("x"), Reason::TokenClaimInvalid),
        ("iss", json!("https://other.example/"), Reason::TokenClaimMismatch),
        ("iss", json!(7), Reason::TokenClaimMismatch),
        ("token_type", json!("refresh_token"), Reason::TokenType),
        ("token_type", json!(7), Reason::TokenType),
        ("token_type", json!("DPoP"), Reason::TokenType),
        ("typ", json!("Refresh"), Reason::TokenType),
    ] {
        let world = World::new(IntrospectedTokens::Opaque);
        let found = world.check(OPAQUE, answer_with(name, value.clone())).unwrap_err();
        assert_eq!(found, reason, "{name}: {value}");
        assert_eq!(world.tokens.len(), 0, "{name}: {value}");
    }
    let world = World::new(IntrospectedTokens::Opaque);
    // An actor without `iss` is one of the token's issuer, told or not.
    let acted = world.check(OPAQUE, answer_with("act", json!({"sub": "app"}))).unwrap();
    assert_eq!(acted.token.actors[0].issuer, ISSUER);
    let world = World::new(IntrospectedTokens::Opaque);
    let mut nobodys = answer();
    nobodys.as_object_mut().unwrap().remove("aud");
    assert_eq!(world.check(OPAQUE, nobodys).unwrap_err(), Reason::TokenClaimMissing);
    for kind in ["bearer", "Bearer"] {
        assert!(world.check(OPAQUE, answer_with("token_type", json!(kind))).is_ok());
    }
    assert!(world.check(OPAQUE, answer_with("iss", json!(ISSUER))).is_ok());
}

#[tokio::test]
async fn what_the_issuers_document_requires_must_be_in_the_answer() {
    let required = vec![("tenant".to_owned(), json!("example"))];
    let document = asked_document(IntrospectedTokens::Opaque);
    let world = World::of(IssuerDocument { require_claims: required, ..document });
    assert_eq!(world.check(OPAQUE, answer()).unwrap_err(), Reason::TokenClaimMismatch);
    assert!(world.check(OPAQUE, answer_with("tenant", json!("example"))).is_ok());
}

#[tokio::test]
async fn inactive_and_unavailable_are_told_apart() {
    let world = World::new(IntrospectedTokens::Opaque);
    let inactive = world.check_told(OPAQUE, Answer::Inactive).unwrap_err();
    assert_eq!(inactive, Reason::TokenInactive);
    let unavailable = world.check_told(OPAQUE, Answer::Unavailable).unwrap_err();
    assert_eq!(unavailable, Reason::IntrospectionUnavailable);
}

#[tokio::test]
async fn an_opaque_token_bound_to_a_certificate_needs_that_certificate() {
    let world = World::new(IntrospectedTokens::Opaque);
    let ours = Thumbprint::of(b"ours");
    let bound = answer_with("cnf", json!({"x5t#S256": b64(ours.as_bytes())}));
    let by = |thumbprint: Thumbprint| {
        let serde_json::Value::Object(claims) = bound.clone() else { panic!() };
        let told = world.told(OPAQUE, Answer::Active(Arc::new(claims)));
        let waited = Waited { introspected: Some(&told), ..Waited::default() };
        let peer = PeerEvidence {
            spiffe: None,
            spiffe_untold: false,
            dns: Vec::new(),
            thumbprint: Some(thumbprint),
            certificate: None,
        };
        world.settled(bearer(OPAQUE), Some(peer), NEEDS, NOW, waited)
    };
    assert!(by(ours).unwrap().binding.certificate);
    assert_eq!(by(Thumbprint::of(b"theirs")).unwrap_err(), Reason::CertificateMismatch);
}

#[tokio::test]
async fn an_opaque_token_bound_to_a_key_needs_a_proof_and_the_scheme() {
    let world = World::new(IntrospectedTokens::Opaque);
    let mut bound = answer_with("cnf", json!({"jkt": b64(Thumbprint::of(b"key").as_bytes())}));
    bound.as_object_mut().unwrap().insert("token_type".to_owned(), json!("DPoP"));
    assert_eq!(world.check(OPAQUE, bound.clone()).unwrap_err(), Reason::SchemeMismatch);
    let dpop = Credentials::Token { scheme: Scheme::Dpop, token: OPAQUE };
    let found = world.settled(dpop, None, NEEDS, NOW, Waited::default()).unwrap_err();
    assert_eq!(found, Reason::DpopProofMissing);
    bound.as_object_mut().unwrap().insert("token_type".to_owned(), json!("Bearer"));
    let world = World::new(IntrospectedTokens::Opaque);
    assert_eq!(world.check(OPAQUE, bound).unwrap_err(), Reason::TokenType);
}

#[tokio::test]
async fn nobody_is_asked_where_no_rule_says_whom() {
    let world = World::new(IntrospectedTokens::Opaque);
    for opaque in [None, Some("other")] {
        // Not even where it is cached.
        world.check(OPAQUE, answer()).unwrap();
        let needs = Needs { opaque, ..NEEDS };
        let found = world.settled(bearer(OPAQUE), None, needs, NOW, Waited::default());
        assert_eq!(found.unwrap_err(), Reason::TokenMalformed);
    }
}

#[tokio::test]
async fn a_jwt_is_never_asked_about_as_opaque() {
    let world = World::new(IntrospectedTokens::Opaque);
    for malformed in ["a.b.c", "..", "eyJhbGciOiJub25lIn0.e30."] {
        assert!(!world.is_asked(malformed, NEEDS, NOW), "{malformed}");
    }
    for opaque in ["a", "a.b", "a.b.c.d.e"] {
        assert!(world.is_asked(opaque, NEEDS, NOW), "{opaque}");
    }
    let good = world.signer.sign(&claims());
    assert!(world.settled(bearer(&good), None, NEEDS, NOW, Waited::default()).is_ok());
}

#[tokio::test]
async fn a_jwt_that_is_revocable_needs_signature_and_answer() {
    let world = World::new(IntrospectedTokens::All);
    let good = world.signer.sign(&claims());
    assert!(world.is_asked(&good, NEEDS, NOW));
    assert_eq!(world.check_told(&good, Answer::Inactive).unwrap_err(), Reason::TokenInactive);
    let unavailable = world.check_told(&good, Answer::Unavailable).unwrap_err();
    assert_eq!(unavailable, Reason::IntrospectionUnavailable);
    let forged = Signer::es256("k1").sign(&claims());
    assert!(!world.is_asked(&forged, NEEDS, NOW), "nobody is asked about a forged one");
    assert_eq!(world.check(&forged, json!({"active": true})).unwrap_err(), Reason::TokenSignature);
    let bound = world.check(&good, json!({"active": true})).unwrap();
    assert!(bound.token.introspected);
    assert_eq!(bound.token.scopes, ["payments:read", "payments:write"]);
    assert!(!world.is_asked(&good, NEEDS, NOW), "the answer is cached");
    assert!(world.is_asked(&good, NEEDS, NOW.saturating_add(Duration::from_secs(30))));
}

#[tokio::test]
async fn an_answer_takes_from_a_jwt_and_adds_nothing() {
    let told = |claims: serde_json::Value| {
        let world = World::new(IntrospectedTokens::All);
        let good = world.signer.sign(&claims_with("cnf", None));
        world.check(&good, claims)
    };
    let narrowed = told(json!({"active": true, "scope": "payments:read admin"})).unwrap();
    assert_eq!(narrowed.token.scopes, ["payments:read"]);
    let elsewhere = told(json!({"active": true, "aud": "https://other.example"})).unwrap();
    assert!(elsewhere.token.audiences.is_empty());
    let soon = NOW.as_secs() + 5;
    let shorter = told(json!({"active": true, "exp": soon})).unwrap();
    assert_eq!(shorter.token.expires, UnixTime::from_secs(soon));
    for (name, value) in [
        ("sub", json!("mallory")),
        ("client_id", json!("mallory")),
        ("jti", json!("2")),
        ("iss", json!("https://other.example/")),
        ("cnf", json!({"x5t#S256": b64(Thumbprint::of(b"x").as_bytes())})),
        ("act", json!({"sub": "mallory"})),
    ] {
        let found = told(json!({"active": true, name: value})).unwrap_err();
        assert_eq!(found, Reason::TokenClaimMismatch, "{name}");
    }
}
