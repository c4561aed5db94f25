//! Issuers and tokens for tests: fresh keys each run, no key files.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    clock::UnixTime,
    credential::{
        Verified, Verifier, Waited,
        cache::TokenCache,
        dpop::{ProofRules, ProofVerifier, nonce::Nonces},
    },
    diagnostic::{At, Spanned},
    evidence::{
        Attempt, Evidence,
        authorization::{Credentials, PresentedProof, Scheme},
        certificate::Certificate,
        http::{Headers, HttpRequest},
        path::{Path, PathForms},
        peer::PeerEvidence,
    },
    policy::{
        Needs,
        document::{IssuerDocument, KeySource, Profile, ScopeClaim, Text},
        scope::ScopeGrammar,
    },
    trust::{
        Issuer, Trust,
        jwks::{Algorithm, KeySet},
    },
};

/// The issuer identifier of [`document`].
pub(crate) const ISSUER: &str = "https://login.example/";
/// The time that [`claims`] fit.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn text(value: &str) -> Text {
    Spanned { value: value.to_owned(), at: At::default() }
}

/// A private key and the public JWK that belongs to it.
pub(crate) struct Signer {
    pub(crate) alg: &'static str,
    pub(crate) kid: &'static str,
    key: Secret,
}

enum Secret {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(crate) fn es256(kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { alg: "ES256", kid, key: Secret::Ec(key) }
    }

    pub(crate) fn es384(kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { alg: "ES384", kid, key: Secret::Ec(key) }
    }

    pub(crate) fn es512(kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        Self { alg: "ES512", kid, key: Secret::Ec(key) }
    }

    pub(crate) fn ed25519(kid: &'static str) -> Self {
        Self { alg: "EdDSA", kid, key: Secret::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub(crate) fn rsa(kid: &'static str, alg: &'static str) -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { alg, kid, key: Secret::Rsa(key) }
    }

    pub(crate) fn jwk(&self) -> Value {
        match &self.key {
            Secret::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                let crv = match self.alg {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": crv, "kid": self.kid, "x": b64(x), "y": b64(y)})
            }
            Secret::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(key.public_key())})
            }
            Secret::Rsa(key) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "kid": self.kid, "alg": self.alg,
                       "n": b64(parts.n), "e": b64(parts.e)})
            }
        }
    }

    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Secret::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Secret::Ed(key) => key.sign(message).as_ref().to_vec(),
            Secret::Rsa(key) => {
                let padding = if self.alg == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// Signs header and payload as they are written.
    pub(crate) fn sign_text(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(payload));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.alg, "typ": "at+jwt", "kid": self.kid})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }
}

/// A key set of `signers`.
pub(crate) fn jwks(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Claims of a good token at [`NOW`].
pub(crate) fn claims() -> Value {
    let now = NOW.as_secs();
    let end = NOW.saturating_add(Duration::from_secs(300)).as_secs();
    json!({
        "iss": ISSUER, "aud": "https://payments.example", "sub": "checkout", "client_id": "checkout",
        "jti": "1", "iat": now, "exp": end, "scope": "payments:read payments:write",
    })
}

/// [`claims`] with `name` set to `value`, or taken out where that is `None`.
pub(crate) fn claims_with(name: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    claims
}

pub(crate) fn document() -> IssuerDocument {
    IssuerDocument {
        name: text("corp"),
        issuer: text(ISSUER),
        keys: KeySource::File { path: text("corp.json"), content: Vec::new() },
        audiences: vec![text("https://payments.example")],
        algorithms: vec![Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256],
        types: vec!["at+jwt".to_owned()],
        max_lifetime: Duration::from_secs(900),
        leeway: Duration::from_secs(30),
        profile: Profile::Rfc9068,
        require_claims: Vec::new(),
        max_key_age: Duration::from_secs(86_400),
        scope_claims: vec![ScopeClaim::Scope],
        scope_grammar: ScopeGrammar::Exact,
        introspection: None,
    }
}

pub(crate) fn issuer_of(document: IssuerDocument, signers: &[&Signer]) -> Arc<Issuer> {
    let keys = KeySet::parse(jwks(signers).as_bytes()).unwrap();
    Arc::new(Issuer::with_keys(document, keys))
}

pub(crate) fn trust_in(issuers: Vec<Arc<Issuer>>) -> Trust {
    Trust { issuers: issuers.into(), ..Trust::default() }
}

/// A verifier of proofs with the defaults and every algorithm, whose nonces are its own.
pub(crate) fn proofs() -> ProofVerifier {
    let algorithms = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::PS256];
    let rules = ProofRules {
        algorithms: algorithms.map(|algorithm| (algorithm, format!("{algorithm:?}"))).to_vec(),
        past: Duration::from_secs(60),
        future: Duration::from_secs(10),
    };
    ProofVerifier::new(rules, Arc::new(Nonces::random().unwrap()))
}

/// Verifies peer and token, with [`proofs`].
pub(crate) fn verify<'e>(
    evidence: &'e Evidence<'e>,
    needs: Needs<'_>,
    trust: &Trust,
    tokens: &TokenCache,
    now: UnixTime,
    waited: Waited<'_>,
) -> Verified<'e> {
    let verifier = Verifier { trust, tokens, proofs: &proofs(), now };
    let callers = verifier.callers(evidence, false, waited).unwrap();
    verifier.verify(evidence, callers, needs, waited)
}

/// A self-signed certificate with these URI SANs, valid within an hour of [`NOW`].
pub(crate) fn certificate(uris: &[&str], authority: bool) -> Arc<Certificate> {
    let mut params = rcgen::CertificateParams::default();
    let name = |uri: &&str| rcgen::SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names = uris.iter().map(name).collect();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    if authority {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let hour = time::Duration::HOUR;
    let now = i64::try_from(NOW.as_secs()).unwrap();
    let now = time::OffsetDateTime::from_unix_timestamp(now).unwrap();
    params.not_before = now.checked_sub(hour).unwrap();
    params.not_after = now.checked_add(hour).unwrap();
    let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    Arc::new(Certificate::parse(der.der()).unwrap())
}

/// The evidence of a request with `credentials` from `peer`.
pub(crate) fn evidence<'r>(
    credentials: Credentials<'r>,
    peer: Option<PeerEvidence<'r>>,
) -> Evidence<'r> {
    Evidence {
        request_id: "",
        attempt: Attempt::Http(HttpRequest {
            method: "GET",
            host: "payments.example".into(),
            path: Path { canonical: "/".into(), forms: PathForms::default(), raw: None },
            proof: PresentedProof::Absent,
            workload_token: PresentedProof::Absent,
            workload_proof: PresentedProof::Absent,
            headers: Headers::default(),
            upgrade: None,
            preflight: false,
            grpc: false,
            credentials,
            query_tokens: Vec::new(),
        }),
        workload: None,
        peer,
    }
}

/// `token` as a Bearer token.
pub(crate) fn bearer(token: &str) -> Credentials<'_> {
    Credentials::Token { scheme: Scheme::Bearer, token }
}
