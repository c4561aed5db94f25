//! What is cached of workload identity tokens, and that nothing but the whole passes.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    credential::testing::{NOW, Signer, b64, document, evidence, text},
    evidence::Attempt,
    policy::document::{IssuerDocument, Profile},
    trust::jwks::KeySet,
};

const SUB: &str = "spiffe://prod.example/ns/shop/sa/web";

struct World {
    authority: Signer,
    holder: Signer,
    verifier: WorkloadVerifier,
}

impl World {
    fn new() -> Self {
        let (authority, holder) = (Signer::es256("w"), Signer::es256("h"));
        Self { authority, holder, verifier: WorkloadVerifier::new() }
    }

    fn authorities(signers: &[&Signer]) -> Issuers {
        let keys: Vec<_> = signers
            .iter()
            .map(|signer| {
                let mut jwk = signer.jwk();
                jwk["use"] = json!("wit-svid");
                jwk
            })
            .collect();
        let keys = KeySet::of_wit_svids(json!({"keys": keys}).to_string().as_bytes()).unwrap();
        let document = IssuerDocument {
            issuer: text("spiffe://prod.example"),
            types: vec!["wit+jwt".to_owned()],
            profile: Profile::WitSvid,
            ..document()
        };
        vec![Arc::new(Issuer::with_keys(document, keys))].into()
    }

    fn wit(&self) -> String {
        let mut jwk = self.holder.jwk();
        jwk["alg"] = json!("ES256");
        let header = json!({"alg": "ES256", "kid": "w", "typ": "wit+jwt"});
        let exp = NOW.as_secs().saturating_add(60);
        self.authority.sign_with(&header, &json!({"sub": SUB, "exp": exp, "cnf": {"jwk": jwk}}))
    }

    fn wpt(&self, wit: &str, now: UnixTime) -> String {
        let header = json!({"alg": "ES256", "typ": "wpt+jwt"});
        let claims = json!({
            "aud": "https://payments.example/v1/payments", "exp": now.as_secs().saturating_add(30), "jti": "1",
            "wth": b64(Thumbprint::of(wit.as_bytes()).as_bytes()),
        });
        self.holder.sign_with(&header, &claims)
    }

    fn verify(
        &self,
        (wit, wpt): (&str, &str),
        authorities: &Issuers,
        now: UnixTime,
    ) -> Result<Option<ProvenWorkload>, Refusal> {
        let mut evidence = evidence(Credentials::Absent, None);
        let Attempt::Http(http) = &mut evidence.attempt else { panic!("{evidence:?}") };
        http.path = crate::evidence::path::Path::read("/v1/payments", "GET");
        http.workload_token = PresentedProof::read(wit.as_bytes());
        http.workload_proof = PresentedProof::read(wpt.as_bytes());
        let (leeway, longest) = (Duration::from_secs(10), Duration::from_secs(70));
        self.verifier.verify(&evidence, Terms { authorities, now, leeway, longest })
    }

    fn error(
        &self,
        presented: (&str, &str),
        authorities: &Issuers,
        now: UnixTime,
    ) -> WorkloadError {
        match self.verify(presented, authorities, now).unwrap_err() {
            Refusal::Final(error) | Refusal::KeyMissing(error, _) => error,
        }
    }
}

#[test]
fn a_token_seen_before_is_judged_by_the_time_and_the_bundle_of_each_check() {
    let world = World::new();
    let wit = world.wit();
    let authorities = World::authorities(&[&world.authority]);
    for _again in 0..2 {
        let wpt = world.wpt(&wit, NOW);
        let proven = world.verify((&wit, &wpt), &authorities, NOW).unwrap().unwrap();
        assert_eq!(proven.spiffe().unwrap().as_str(), SUB);
        assert_eq!(proven.origin.as_str(), "https://payments.example");
    }
    let late = NOW.saturating_add(Duration::from_secs(70));
    let wpt = world.wpt(&wit, late);
    assert_eq!(world.error((&wit, &wpt), &authorities, late), WorkloadError::TokenTime);
    // The key was taken out of the bundle.
    let wpt = world.wpt(&wit, NOW);
    let others = World::authorities(&[&Signer::es256("other")]);
    assert_eq!(world.error((&wit, &wpt), &others, NOW), WorkloadError::KeyUnknown);
    assert_eq!(world.error((&wit, &wpt), &Issuers::default(), NOW), WorkloadError::TrustDomain);
}

#[test]
fn every_character_of_token_and_proof_counts() {
    let world = World::new();
    let (wit, authorities) = (world.wit(), World::authorities(&[&world.authority]));
    let wpt = world.wpt(&wit, NOW);
    assert!(world.verify((&wit, &wpt), &authorities, NOW).is_ok());
    let changed = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    for at in 0..wit.len() {
        let forged = changed(&wit, at);
        assert!(world.verify((&forged, &wpt), &authorities, NOW).is_err(), "token {at}");
        // Nor with a proof for the forged one.
        let wpt = world.wpt(&forged, NOW);
        assert!(world.verify((&forged, &wpt), &authorities, NOW).is_err(), "token {at}");
    }
    for at in 0..wpt.len() {
        assert!(world.verify((&wit, &changed(&wpt, at)), &authorities, NOW).is_err(), "proof {at}");
    }
    for end in 0..wpt.len() {
        assert!(world.verify((&wit, wpt.split_at(end).0), &authorities, NOW).is_err(), "{end}");
    }
}
