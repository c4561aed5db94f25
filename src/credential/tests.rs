//! Verification as a whole, from evidence to principal.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::{
    testing::{
        ISSUER, NOW, Signer, bearer, claims, claims_with, document, evidence, issuer_of, jwks,
        text, trust_in, verify,
    },
    *,
};
use crate::{
    evidence::{Attempt, authorization::PresentedProof, path::Path},
    trust::jwks::{Algorithm, KeySet, PublicKey},
};

const NEEDS: Needs<'_> = Needs { token: true, opaque: None };

struct World {
    signer: Signer,
    trust: Trust,
    tokens: TokenCache,
}

impl World {
    fn new() -> Self {
        let signer = Signer::es256("k1");
        let trust = trust_in(vec![issuer_of(document(), &[&signer])]);
        Self { signer, trust, tokens: TokenCache::new(100) }
    }

    fn check_at(&self, token: &str, now: UnixTime) -> (Proof<BoundToken>, bool) {
        let evidence = evidence(bearer(token), None);
        match verify(&evidence, NEEDS, &self.trust, &self.tokens, now, Waited::default()) {
            Verified::Settled(principal) => (principal.token, principal.refused_token.is_some()),
            Verified::KeyMissing(_) | Verified::Introspects(_) => {
                panic!("keys from files are never fetched again")
            }
        }
    }

    fn reason_at(&self, token: &str, now: UnixTime) -> Reason {
        match self.check_at(token, now).0 {
            Proof::Unproven(reason) => reason,
            other @ (Proof::Absent | Proof::Proven(_)) => panic!("{other:?}"),
        }
    }

    fn reason(&self, token: &str) -> Reason {
        self.reason_at(token, NOW)
    }
}

#[test]
fn a_good_token_is_proven_cold_and_warm() {
    let world = World::new();
    let token = world.signer.sign(&claims());
    for (hits, misses) in [(0, 1), (1, 1), (2, 1)] {
        let (proof, refused) = world.check_at(&token, NOW);
        let Proof::Proven(bound) = proof else { panic!("{proof:?}") };
        assert_eq!(bound.token.subject.as_deref(), Some("checkout"));
        assert_eq!(&*bound.token.issuer, "corp");
        assert!(bound.binding.is_none() && !refused);
        assert_eq!((world.tokens.hits(), world.tokens.misses()), (hits, misses));
    }
    assert_eq!(world.tokens.len(), 1);
}

/// What the providers' documentation gives of a token: header without `alg` and `kid`, claims, and a claim
/// that must be this.
type Documented = (&'static str, serde_json::Value, serde_json::Value, Option<&'static str>);

fn documented() -> [Documented; 6] {
    let service_account = |issuer: &str| {
        json!({"iss": issuer, "sub": "system:serviceaccount:checkout:web",
               "kubernetes.io": {"namespace": "checkout", "serviceaccount": {"name": "web", "uid": "1"}}})
    };
    [
        (
            "github-actions",
            json!({"typ": "JWT", "x5t": "example-thumbprint"}),
            json!({"iss": "https://token.actions.githubusercontent.com",
                   "sub": "repo:example-org/app:ref:refs/heads/main", "repository": "example-org/app",
                   "repository_owner": "example-org", "repository_owner_id": "123456",
                   "job_workflow_ref": "example-org/app/.github/workflows/x.yml@refs/heads/main"}),
            Some("repository_owner"),
        ),
        (
            "gitlab-ci",
            json!({"typ": "JWT"}),
            json!({"iss": "https://gitlab.com", "sub": "project_path:group/app:ref_type:branch:ref:main",
                   "namespace_id": "42", "namespace_path": "group", "project_id": "7"}),
            Some("namespace_id"),
        ),
        (
            "cluster",
            json!({}),
            service_account("https://kubernetes.default.svc.cluster.local"),
            None,
        ),
        (
            "gke",
            json!({}),
            service_account(
                "https://container.googleapis.com/v1/projects/example-project/locations/europe-west1/clusters/example",
            ),
            None,
        ),
        (
            "eks",
            json!({}),
            service_account(
                "https://oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
            ),
            None,
        ),
        (
            "entra",
            json!({"typ": "JWT"}),
            json!({"iss": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0",
                   "aud": "66666666-7777-8888-9999-000000000000", "ver": "2.0", "sub": "x", "oid": "y",
                   "tid": "11111111-2222-3333-4444-555555555555", "roles": ["payments:read"]}),
            Some("tid"),
        ),
    ]
}

#[test]
fn the_ready_made_issuers_believe_their_own_tokens_and_no_strangers() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/.issuers");
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().into();
        files.insert(name, std::fs::read(path).unwrap());
    }
    let tree = crate::snapshot::source::SourceTree {
        root: std::path::PathBuf::new(),
        files,
        hash: String::new(),
        commit: None,
    };
    let loaded = crate::policy::load::load(&tree, &[]).unwrap();
    let signer = Signer::rsa("k1", "RS256");
    let documents = loaded.documents.issuers;
    assert_eq!(documents.len(), documented().len());
    let issuers = documents.into_iter().map(|document| issuer_of(document, &[&signer])).collect();
    let world = World { signer, trust: trust_in(issuers), tokens: TokenCache::new(100) };
    for (name, header, claims, narrowing) in documented() {
        let mint = |header: &serde_json::Value, claims: &serde_json::Value| {
            let (mut header, mut claims) = (header.clone(), claims.clone());
            header["alg"] = "RS256".into();
            header["kid"] = "k1".into();
            let times = [("iat", 0), ("nbf", 0), ("exp", 300)];
            for (claim, seconds) in times {
                claims[claim] = (NOW.as_secs() + seconds).into();
            }
            if claims.get("aud").is_none() {
                claims["aud"] = json!(["https://payments.example"]);
            }
            world.signer.sign_with(&header, &claims)
        };
        let (proof, _) = world.check_at(&mint(&header, &claims), NOW);
        let Proof::Proven(bound) = proof else { panic!("{name}: {proof:?}") };
        assert_eq!(&*bound.token.issuer, name);
        if let Some(narrowing) = narrowing {
            let mut strangers = claims.clone();
            strangers[narrowing] = "stranger".into();
            let reason = world.reason(&mint(&header, &strangers));
            assert_eq!(reason, Reason::TokenClaimMismatch, "{name}");
        }
        for typ in [json!("at+jwt"), json!("absent"), json!("application/absent"), json!(7)] {
            let mut other = header.clone();
            other["typ"] = typ;
            assert_eq!(world.reason(&mint(&other, &claims)), Reason::TokenType, "{name}");
        }
    }
}

#[test]
fn a_token_is_looked_at_only_where_a_rule_asks_for_one() {
    let world = World::new();
    let evidence = evidence(bearer("rubbish"), None);
    let needs = Needs { token: false, ..NEEDS };
    let verified = verify(&evidence, needs, &world.trust, &world.tokens, NOW, Waited::default());
    let Verified::Settled(principal) = verified else { panic!() };
    assert!(matches!(principal.token, Proof::Absent));
    assert!(matches!(principal.peer, Proof::Absent));
}

#[test]
fn no_credential_is_absent_and_an_unusable_one_is_unproven_with_its_reason() {
    let world = World::new();
    let settled = |credentials| {
        let evidence = evidence(credentials, None);
        match verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, Waited::default()) {
            Verified::Settled(principal) => principal.token,
            Verified::KeyMissing(_) | Verified::Introspects(_) => panic!(),
        }
    };
    assert!(matches!(settled(Credentials::Absent), Proof::Absent));
    for reason in [Reason::CredentialsAmbiguous, Reason::TokenInQuery] {
        let Proof::Unproven(found) = settled(Credentials::Unusable(reason)) else { panic!() };
        assert_eq!(found, reason);
    }
}

#[test]
fn times_are_looked_at_on_every_check_with_the_leeway() {
    let world = World::new();
    let token = world.signer.sign(&claims());
    let end = NOW.saturating_add(Duration::from_secs(300 + 30));
    let last = end.saturating_sub(Duration::from_millis(1));
    assert!(matches!(world.check_at(&token, NOW).0, Proof::Proven(_)));
    assert!(matches!(world.check_at(&token, last).0, Proof::Proven(_)));
    assert_eq!(world.tokens.hits(), 1);
    let (proof, refused) = world.check_at(&token, end);
    assert!(matches!(proof, Proof::Unproven(Reason::TokenExpired)));
    assert!(refused, "the claims of an expired token are for the record");
    assert_eq!(world.tokens.hits(), 2, "it was refused from the cache");
    assert!(world.tokens.is_empty(), "and is not kept past its end");
    assert_eq!(world.reason_at(&token, end), Reason::TokenExpired);
    assert!(world.tokens.is_empty());
}

#[test]
fn a_token_from_the_future_is_refused() {
    let world = World::new();
    let now = NOW.as_secs();
    let token = world.signer.sign(&claims_with("nbf", Some(json!(now + 31))));
    assert_eq!(world.reason(&token), Reason::TokenNotYetValid);
    let token = world.signer.sign(&claims_with("iat", Some(json!(now + 31))));
    assert_eq!(world.reason(&token), Reason::TokenIssuedInFuture);
    let token = world.signer.sign(&claims_with("nbf", Some(json!(now + 30))));
    assert!(matches!(world.check_at(&token, NOW).0, Proof::Proven(_)));
}

#[test]
fn an_undeclared_issuer_is_unknown_however_alike() {
    let world = World::new();
    for iss in ["https://login.example", "https://LOGIN.example/", "https://evil.example/", ""] {
        let token = world.signer.sign(&claims_with("iss", Some(json!(iss))));
        assert_eq!(world.reason(&token), Reason::TokenIssuerUnknown, "{iss}");
    }
    let token = world.signer.sign(&claims_with("iss", Some(json!([ISSUER]))));
    assert_eq!(world.reason(&token), Reason::TokenClaimInvalid);
    let token = world.signer.sign(&claims_with("iss", None));
    assert_eq!(world.reason(&token), Reason::TokenClaimMissing);
}

#[test]
fn a_bad_signature_beats_an_expired_token() {
    let world = World::new();
    let stranger = Signer::es256("k1");
    let token = stranger.sign(&claims_with("exp", Some(json!(1))));
    let (proof, refused) = world.check_at(&token, NOW);
    assert!(matches!(proof, Proof::Unproven(Reason::TokenSignature)), "{proof:?}");
    assert!(!refused, "claims that nobody signed are not shown");
}

#[test]
fn a_key_of_another_issuer_does_not_count() {
    let (ours, theirs) = (Signer::es256("k"), Signer::es256("k"));
    let mut other = document();
    (other.name, other.issuer) = (text("other"), text("https://other.example"));
    let trust = trust_in(vec![issuer_of(document(), &[&ours]), issuer_of(other, &[&theirs])]);
    let world = World { signer: theirs, trust, tokens: TokenCache::new(100) };
    assert_eq!(world.reason(&world.signer.sign(&claims())), Reason::TokenSignature);
}

#[test]
fn a_key_that_is_not_there_is_unknown_where_keys_are_never_fetched() {
    let world = World::new();
    let stranger = Signer::es256("k2");
    assert_eq!(world.reason(&stranger.sign(&claims())), Reason::TokenKeyUnknown);
}

#[test]
fn a_key_of_that_name_for_another_algorithm_is_unknown() {
    let world = World::new();
    let stranger = Signer::ed25519("k1");
    assert_eq!(world.reason(&stranger.sign(&claims())), Reason::TokenKeyUnknown);
}

#[test]
fn a_required_value_and_the_lifetime_are_refused_with_their_reasons() {
    let signer = Signer::es256("k1");
    let mut strict = document();
    strict.require_claims = vec![("tenant".to_owned(), json!("example"))];
    let trust = trust_in(vec![issuer_of(strict, &[&signer])]);
    let world = World { signer, trust, tokens: TokenCache::new(100) };
    let tenant = |value| world.signer.sign(&claims_with("tenant", Some(value)));
    for good in [json!("example"), json!(["other", "example"])] {
        assert!(matches!(world.check_at(&tenant(good), NOW).0, Proof::Proven(_)));
    }
    for bad in [json!("Example"), json!(["other"]), json!(null), json!({"example": 1})] {
        assert_eq!(world.reason(&tenant(bad)), Reason::TokenClaimMismatch);
    }
    assert_eq!(world.reason(&world.signer.sign(&claims())), Reason::TokenClaimMismatch);

    let world = World::new();
    let long = world.signer.sign(&claims_with("exp", Some(json!(NOW.as_secs() + 901))));
    assert_eq!(world.reason(&long), Reason::TokenLifetime);
}

#[test]
fn a_bound_token_is_never_a_bearer_token() {
    let world = World::new();
    let ours = Thumbprint::of(b"certificate");
    let cases = [
        (json!({"x5t#S256": ours.to_base64url()}), Reason::CertificateAbsent),
        (json!({"jkt": ours.to_base64url()}), Reason::SchemeMismatch),
        (json!({"kid": "k"}), Reason::ConfirmationNotUnderstood),
        (json!("text"), Reason::ConfirmationMalformed),
    ];
    for (cnf, reason) in cases {
        let token = world.signer.sign(&claims_with("cnf", Some(cnf)));
        for _ in 0..2 {
            let (proof, refused) = world.check_at(&token, NOW);
            let Proof::Unproven(found) = proof else { panic!("{proof:?}") };
            assert_eq!(found, reason);
            assert!(refused);
        }
    }
}

#[test]
fn the_bond_is_looked_at_on_every_check_though_the_claims_are_cached() {
    let world = World::new();
    let (ours, other) = (Thumbprint::of(b"ours"), Thumbprint::of(b"other"));
    let cnf = json!({"x5t#S256": ours.to_base64url()});
    let token = world.signer.sign(&claims_with("cnf", Some(cnf)));
    let check = |thumbprint| {
        let peer = PeerEvidence {
            spiffe: None,
            spiffe_untold: false,
            dns: Vec::new(),
            thumbprint,
            certificate: None,
        };
        let evidence = evidence(bearer(&token), Some(peer));
        match verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, Waited::default()) {
            Verified::Settled(principal) => match principal.token {
                Proof::Proven(bound) => Ok(bound.binding),
                Proof::Unproven(reason) => Err(reason),
                Proof::Absent => panic!(),
            },
            Verified::KeyMissing(_) | Verified::Introspects(_) => panic!(),
        }
    };
    let bound = Binding { certificate: true, dpop: false };
    assert_eq!(check(Some(ours)), Ok(bound));
    assert_eq!(check(Some(other)), Err(Reason::CertificateMismatch));
    assert_eq!(check(None), Err(Reason::CertificateAbsent));
    assert_eq!(check(Some(ours)), Ok(bound));
    assert_eq!(world.tokens.misses(), 1);
}

#[test]
fn a_possessed_certificate_proves_the_bond_though_its_identity_is_not_believed() {
    let mut world = World::new();
    world.trust.trust_domains = vec!["prod.example".into()];
    let ours = Thumbprint::of(b"ours");
    let cnf = json!({"x5t#S256": ours.to_base64url()});
    let token = world.signer.sign(&claims_with("cnf", Some(cnf)));
    let peer = PeerEvidence {
        spiffe: Some(SpiffeId::parse("spiffe://test.example/web").unwrap()),
        spiffe_untold: false,
        dns: Vec::new(),
        thumbprint: Some(ours),
        certificate: None,
    };
    let evidence = evidence(bearer(&token), Some(peer));
    let verified = verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, Waited::default());
    let Verified::Settled(principal) = verified else { panic!() };
    assert!(matches!(principal.peer, Proof::Unproven(Reason::PeerTrustDomainUnknown)));
    assert!(matches!(principal.token, Proof::Proven(_)));
}

#[test]
fn an_actor_that_is_a_workload_makes_the_call_itself_cold_and_warm() {
    const WEB: &str = "spiffe://prod.example/ns/checkout/sa/web";
    let world = World::new();
    let token = world.signer.sign(&claims_with("act", Some(json!({"sub": WEB}))));
    let by = |spiffe: Option<&'static str>| {
        let peer = spiffe.map(|spiffe| PeerEvidence {
            spiffe: Some(SpiffeId::parse(spiffe).unwrap()),
            spiffe_untold: false,
            dns: vec![],
            thumbprint: None,
            certificate: None,
        });
        let evidence = evidence(bearer(&token), peer);
        let tokens = &world.tokens;
        match verify(&evidence, NEEDS, &world.trust, tokens, NOW, Waited::default()) {
            Verified::Settled(principal) => (principal.token, principal.refused_token.is_some()),
            Verified::KeyMissing(_) | Verified::Introspects(_) => {
                panic!("keys from files are never fetched again")
            }
        }
    };
    assert!(matches!(by(Some(WEB)).0, Proof::Proven(_)));
    let other = by(Some("spiffe://prod.example/ns/checkout/sa/other"));
    assert!(matches!(other, (Proof::Unproven(Reason::ActorNotPeer), true)));
    assert!(matches!(by(None).0, Proof::Unproven(Reason::ActorNotPeer)));
    assert!(matches!(by(Some(WEB)).0, Proof::Proven(_)));
    assert_eq!(world.tokens.hits(), 3);
}

#[test]
fn the_age_of_the_authentication_is_that_of_the_check() {
    let world = World::new();
    let authenticated = NOW.as_secs() - 60;
    let token = world.signer.sign(&claims_with("auth_time", Some(json!(authenticated))));
    for later in [0, 5] {
        let now = NOW.saturating_add(Duration::from_secs(later));
        let Proof::Proven(bound) = world.check_at(&token, now).0 else { panic!() };
        assert_eq!(bound.authentication_age, Some(Duration::from_secs(60 + later)));
    }
    let Proof::Proven(bound) = world.check_at(&world.signer.sign(&claims()), NOW).0 else {
        panic!()
    };
    assert_eq!(bound.authentication_age, None);
}

#[test]
fn an_unbound_token_with_the_dpop_scheme_is_refused() {
    let world = World::new();
    let token = world.signer.sign(&claims());
    let evidence = evidence(Credentials::Token { scheme: Scheme::Dpop, token: &token }, None);
    let verified = verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, Waited::default());
    let Verified::Settled(principal) = verified else { panic!() };
    assert!(matches!(principal.token, Proof::Unproven(Reason::SchemeMismatch)));
}

#[test]
fn a_proof_that_this_check_has_verified_is_not_verified_again_and_is_for_its_key_alone() {
    let (world, holder) = (World::new(), Signer::es256("h"));
    let mut jwk = holder.jwk();
    jwk.as_object_mut().unwrap().remove("kid");
    let key = PublicKey::read(&jwk, Algorithm::ES256).unwrap().thumbprint();
    let mint = |key: Thumbprint| {
        world.signer.sign(&claims_with("cnf", Some(json!({"jkt": key.to_base64url()}))))
    };
    let token = mint(key);
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
    let proof = holder.sign_with(
        &header,
        &json!({
            "jti": "1", "htm": "GET", "htu": "https://payments.example/v1/payments",
            "iat": NOW.as_secs(), "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        }),
    );
    let verify = |token: &str, proof: PresentedProof<'_>, proven: Option<&ProvenKey>| {
        let mut evidence = evidence(Credentials::Token { scheme: Scheme::Dpop, token }, None);
        let Attempt::Http(http) = &mut evidence.attempt else { panic!() };
        http.path = Path::read("/v1/payments", "GET");
        http.proof = proof;
        let waited = Waited { proven, ..Waited::default() };
        match verify(&evidence, NEEDS, &world.trust, &world.tokens, NOW, waited) {
            Verified::Settled(principal) => match &principal.token {
                Proof::Proven(_) => Ok(principal.proven_key().unwrap()),
                Proof::Unproven(reason) => Err(*reason),
                Proof::Absent => panic!(),
            },
            Verified::KeyMissing(_) | Verified::Introspects(_) => panic!(),
        }
    };
    let proven = verify(&token, PresentedProof::One(&proof), None).unwrap();
    // No proof is looked at: there need not even be one.
    verify(&token, PresentedProof::Absent, Some(&proven)).unwrap();
    assert!(verify(&token, PresentedProof::Absent, None).is_err());
    let other = mint(Thumbprint::of(b"another key"));
    assert!(verify(&other, PresentedProof::One(&proof), Some(&proven)).is_err());
}

#[test]
fn new_keys_of_an_issuer_flush_its_own_tokens_and_no_others() {
    let (ours, theirs) = (Signer::es256("k"), Signer::es256("k"));
    let mut other = document();
    (other.name, other.issuer) = (text("other"), text("https://other.example"));
    let kept = issuer_of(other, &[&theirs]);
    let trust = trust_in(vec![issuer_of(document(), &[&ours]), Arc::clone(&kept)]);
    let mut world = World { signer: ours, trust, tokens: TokenCache::new(100) };
    let token = world.signer.sign(&claims());
    let other = theirs.sign(&claims_with("iss", Some(json!("https://other.example"))));
    for token in [&token, &other] {
        assert!(matches!(world.check_at(token, NOW).0, Proof::Proven(_)));
    }
    assert_eq!(world.tokens.misses(), 2);
    let changed = KeySet::parse(jwks(&[&Signer::es256("k")]).as_bytes()).unwrap();
    world.trust = trust_in(vec![Arc::new(Issuer::with_keys(document(), changed)), kept]);
    assert!(matches!(world.check_at(&other, NOW).0, Proof::Proven(_)));
    assert_eq!(world.tokens.misses(), 2, "the other issuer's token is still there");
    assert_eq!(world.reason(&token), Reason::TokenSignature);
    assert_eq!(world.tokens.misses(), 3);
    world.trust = trust_in(Vec::new());
    assert_eq!(world.reason(&other), Reason::TokenIssuerUnknown);
}

#[test]
fn a_flood_of_invalid_tokens_leaves_the_good_ones_cached() {
    let world = World::new();
    let good = world.signer.sign(&claims());
    assert!(matches!(world.check_at(&good, NOW).0, Proof::Proven(_)));
    let stranger = Signer::es256("k1");
    for number in 0..500 {
        let bad = stranger.sign(&claims_with("jti", Some(json!(number.to_string()))));
        assert_eq!(world.reason(&bad), Reason::TokenSignature);
    }
    assert_eq!(world.tokens.len(), 1);
    assert!(matches!(world.check_at(&good, NOW).0, Proof::Proven(_)));
    assert_eq!(world.tokens.hits(), 1);
}

#[test]
fn debug_output_of_what_a_check_carries_never_shows_the_token() {
    let world = World::new();
    let token = world.signer.sign(&claims());
    let shown = format!("{:?} {:?}", bearer(&token), token::parse(&token).unwrap());
    let signature = token.rsplit_once('.').unwrap().1;
    assert!(!shown.contains(signature) && !shown.contains(token.split_at(20).0), "{shown}");
}

#[test]
fn what_is_wrong_with_a_token_is_told_by_its_reason() {
    let world = World::new();
    let with = |name: &str, value: serde_json::Value| {
        let mut header = world.signer.header();
        header[name] = value;
        world.signer.sign_with(&header, &claims())
    };
    let cases = [
        ("a".repeat(token::MAX_BYTES + 1), Reason::TokenTooLarge),
        ("a.b.c".to_owned(), Reason::TokenMalformed),
        (with("typ", json!("JWT")), Reason::TokenType),
        (with("alg", json!("none")), Reason::TokenAlgorithm),
        (with("alg", json!("HS256")), Reason::TokenAlgorithm),
        (with("alg", json!("RS256")), Reason::TokenAlgorithm),
        (with("crit", json!(["x"])), Reason::TokenCritical),
        (with("kid", json!("k2")), Reason::TokenKeyUnknown),
        (world.signer.sign(&claims_with("sub", None)), Reason::TokenClaimMissing),
        (world.signer.sign(&claims_with("exp", Some(json!("1")))), Reason::TokenClaimInvalid),
    ];
    for (token, reason) in cases {
        assert_eq!(world.reason(&token), reason);
    }
    assert!(world.tokens.is_empty());
}

#[test]
fn an_expired_certificate_proves_neither_peer_nor_bond() {
    let world = World::new();
    let certificate = testing::certificate(&["spiffe://prod.example/web"], false);
    let end = NOW.saturating_add(Duration::from_secs(3600));
    let mut claims = claims_with("exp", Some(json!(end.as_secs() + 300)));
    claims["iat"] = json!(end.as_secs() - 300);
    claims["cnf"] = json!({"x5t#S256": certificate.thumbprint().to_base64url()});
    let token = world.signer.sign(&claims);
    let peer = PeerEvidence {
        spiffe: None,
        spiffe_untold: false,
        dns: Vec::new(),
        thumbprint: Some(certificate.thumbprint()),
        certificate: Some(certificate),
    };
    let evidence = evidence(bearer(&token), Some(peer));
    let at =
        |now| match verify(&evidence, NEEDS, &world.trust, &world.tokens, now, Waited::default()) {
            Verified::Settled(principal) => principal,
            Verified::KeyMissing(_) | Verified::Introspects(_) => panic!(),
        };
    let valid = at(end);
    assert!(matches!(valid.peer, Proof::Proven(_)) && matches!(valid.token, Proof::Proven(_)));
    let expired = at(end.saturating_add(Duration::from_secs(1)));
    assert!(matches!(expired.peer, Proof::Unproven(Reason::PeerCertificateExpired)));
    assert!(matches!(expired.token, Proof::Unproven(Reason::CertificateNotValid)));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_never_proves(token in "\\PC*") {
        let world = World::new();
        prop_assert!(matches!(world.check_at(&token, NOW).0, Proof::Unproven(_)));
    }

    #[test]
    fn a_token_with_any_one_octet_changed_never_proves(at in 0_usize..600, octet in 0x20_u8..0x7f) {
        let world = World::new();
        let good = world.signer.sign(&claims());
        let mut bytes = good.clone().into_bytes();
        let at = at.checked_rem(bytes.len()).unwrap();
        prop_assume!(bytes[at] != octet);
        bytes[at] = octet;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(matches!(world.check_at(&changed, NOW).0, Proof::Unproven(_)));
    }

    #[test]
    fn arbitrary_json_signed_by_the_issuer_never_panics(header in "\\PC*", payload in "\\PC*") {
        let world = World::new();
        let token = world.signer.sign_text(&header, &payload);
        prop_assert!(matches!(world.check_at(&token, NOW).0, Proof::Unproven(_)));
    }

    #[test]
    fn a_claim_of_any_value_signed_by_the_issuer_never_panics(
        name in "(iss|aud|exp|nbf|iat|sub|client_id|jti|scope|cnf|act|acr|auth_time|x)",
        text in "\\PC{0,50}",
        number in any::<f64>(),
        form in 0..6,
    ) {
        let value = match form {
            0 => json!(text),
            1 => json!(number),
            2 => json!([text, number]),
            3 => json!({"x5t#S256": text, "jkt": number}),
            4 => json!({ text: number }),
            _ => json!(null),
        };
        let world = World::new();
        let token = world.signer.sign(&claims_with(&name, Some(value)));
        let (proof, _refused) = world.check_at(&token, NOW);
        let harmless = matches!(name.as_str(), "aud" | "sub" | "client_id" | "jti" | "scope" | "acr" | "x");
        prop_assert!(harmless || !matches!(proof, Proof::Proven(_)) || form == 1, "{name}");
    }
}
