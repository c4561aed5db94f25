//! A DPoP proof is refused whatever the bytes, and reading it never panics.

#![no_main]

use std::{sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use symbolon::{
    clock::UnixTime,
    credential::dpop::{Call, ProofRules, ProofVerifier, nonce::Nonces},
    evidence::authorization::PresentedProof,
    identity::Thumbprint,
    trust::jwks::Algorithm,
};

fuzz_target!(|data: &[u8]| {
    let algorithms = ["ES256", "EdDSA", "PS256"];
    let rules = ProofRules {
        algorithms: algorithms
            .iter()
            .filter_map(|name| Some((Algorithm::parse(name)?, (*name).to_owned())))
            .collect(),
        past: Duration::from_secs(60),
        future: Duration::from_secs(10),
    };
    let Ok(nonces) = Nonces::random() else { return };
    let print = Thumbprint::of(data);
    let call = Call { method: "GET", path: "/", token: print, key: print };
    let verifier = ProofVerifier::new(rules, Arc::new(nonces));
    let proof = PresentedProof::read(data);
    assert!(verifier.verify(proof, call, UnixTime::from_secs(1_800_000_000)).is_err());
});
