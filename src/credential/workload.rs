//! The identity that a caller's workload tells of itself: a workload identity token
//! (draft-ietf-wimse-workload-creds, SPIFFE WIT-SVID) with the proof that the caller holds its key
//! (draft-ietf-wimse-wpt).
//!
//! It stands beside the peer of the connection and never in its place.

use std::sync::Arc;

use quick_cache::sync::Cache;
use serde_json::Value;

use crate::{
    clock::UnixTime,
    credential::{
        claims,
        dpop::{
            Origin, ProofError, htu,
            proof::{self, Parts},
            replay::{ProofUse, UsedAs},
        },
        token::{self, TokenError},
    },
    evidence::{
        Evidence,
        authorization::{Credentials, PresentedProof},
    },
    identity::{SpiffeId, Thumbprint},
    json::Object,
    reason::Reason,
    trust::{
        Issuer, Issuers,
        jwks::{Algorithm, Found, PublicKey},
    },
};

/// Tokens of workloads that call again and again; each takes some 2 KiB.
const TOKENS_KEPT: usize = 10_000;

/// Why a workload's identity is not proven. Carries nothing of what was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// The token is no single compact JWS of strict JSON objects, or lacks a claim, has one of the wrong type, or
    /// `aud`, which it must not have.
    #[error("the workload identity token is malformed")]
    Token,
    /// Its `typ` is not `wit+jwt`.
    #[error("the workload identity token is of another type")]
    TokenType,
    /// Its `alg` is none that such tokens are signed with.
    #[error("the workload identity token's algorithm is not accepted")]
    TokenAlgorithm,
    /// `sub` is of a trust domain without a bundle, or no SPIFFE ID of a workload.
    #[error("the workload identity token is of no trust domain that is declared with a bundle")]
    TrustDomain,
    /// No key of the trust domain's bundle fits.
    #[error("the workload identity token's key is not in the bundle of its trust domain")]
    KeyUnknown,
    /// The trust domain's bundle could not be had.
    #[error("the bundle of the workload's trust domain is not there")]
    KeysUnavailable,
    /// Its signature does not verify.
    #[error("the workload identity token's signature does not verify")]
    TokenSignature,
    /// It has expired, or is not valid yet.
    #[error("the workload identity token is not valid now")]
    TokenTime,
    /// `cnf.jwk` is missing, private, weak, or without a usable `alg`.
    #[error("the key of the workload identity token cannot be used")]
    Confirmation,
    /// There is no proof, so that the token would be a bearer token.
    #[error("the workload identity token came without a proof")]
    ProofMissing,
    /// The proof is no single compact JWS of strict JSON objects, or lacks a claim or has one of the wrong type.
    #[error("the workload proof is malformed")]
    Proof,
    /// Its `typ` is not `wpt+jwt`.
    #[error("the workload proof is of another type")]
    ProofType,
    /// Its `alg` is not that of the token's key.
    #[error("the workload proof's algorithm is not that of the key")]
    ProofAlgorithm,
    /// Its signature is not by the token's key.
    #[error("the workload proof's signature does not verify")]
    ProofSignature,
    /// `aud` names another path.
    #[error("the workload proof is for another uri")]
    ProofAudience,
    /// It has expired, or would be good for too long.
    #[error("the workload proof is not valid now")]
    ProofTime,
    /// It is for other tokens than those that were presented, or for one of a kind that is not understood.
    #[error("the workload proof is for other tokens")]
    ProofTokens,
}

impl From<WorkloadError> for Reason {
    fn from(error: WorkloadError) -> Self {
        match error {
            WorkloadError::Token => Self::WitMalformed,
            WorkloadError::TokenType => Self::WitType,
            WorkloadError::TokenAlgorithm => Self::WitAlgorithm,
            WorkloadError::TrustDomain => Self::WitTrustDomainUnknown,
            WorkloadError::KeyUnknown => Self::WitKeyUnknown,
            WorkloadError::KeysUnavailable => Self::WitKeysUnavailable,
            WorkloadError::TokenSignature => Self::WitSignature,
            WorkloadError::TokenTime => Self::WitTime,
            WorkloadError::Confirmation => Self::WitConfirmation,
            WorkloadError::ProofMissing => Self::WptMissing,
            WorkloadError::Proof => Self::WptMalformed,
            WorkloadError::ProofType => Self::WptType,
            WorkloadError::ProofAlgorithm => Self::WptAlgorithm,
            WorkloadError::ProofSignature => Self::WptSignature,
            WorkloadError::ProofAudience => Self::WptAudience,
            WorkloadError::ProofTime => Self::WptTime,
            WorkloadError::ProofTokens => Self::WptTokens,
        }
    }
}

/// A workload that has proven its identity in this request, for the origin that its proof names: whether
/// that is the service's is the rule's to judge.
#[derive(Clone, Debug)]
pub struct ProvenWorkload {
    token: Arc<WorkloadToken>,
    /// Scheme, host and port of the proof's `aud`.
    pub origin: Origin,
    /// The proof, as it is to be recorded.
    pub proof: ProofUse,
}

impl ProvenWorkload {
    /// Returns its SPIFFE ID.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId<'_>> {
        SpiffeId::parse(&self.token.subject).ok()
    }
}

/// A workload identity token whose signature held.
#[derive(Debug)]
struct WorkloadToken {
    /// A workload's SPIFFE ID.
    subject: String,
    expires: UnixTime,
    not_before: Option<UnixTime>,
    /// `cnf.jwk.alg`, as written.
    algorithm: String,
    key: PublicKey,
}

/// Why a workload is not proven, or not yet.
#[derive(Debug)]
pub(super) enum Refusal {
    /// For good.
    Final(WorkloadError),
    /// Unless a newer bundle says otherwise.
    KeyMissing(WorkloadError, Arc<Issuer>),
}

impl From<WorkloadError> for Refusal {
    fn from(error: WorkloadError) -> Self {
        Self::Final(error)
    }
}

/// Verifies workload identity tokens and their proofs. Keeps tokens that were verified: a workload presents the
/// same one until it is renewed.
#[derive(Debug)]
pub(super) struct WorkloadVerifier {
    tokens: Cache<[u8; 32], Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    token: Arc<WorkloadToken>,
    /// The version of the bundle that it was verified with.
    version: u64,
}

/// What is common to all checks, and the time of this one.
#[derive(Clone, Copy)]
pub(super) struct Terms<'t> {
    /// The authorities of workload identity tokens, by trust domain.
    pub(super) authorities: &'t Issuers,
    pub(super) now: UnixTime,
    /// How far clocks may differ.
    pub(super) leeway: std::time::Duration,
    /// How far ahead a proof may expire.
    pub(super) longest: std::time::Duration,
}

impl WorkloadVerifier {
    pub(super) fn new() -> Self {
        Self { tokens: Cache::new(TOKENS_KEPT) }
    }

    /// Verifies what the request presents; `None` where it presents neither token nor proof.
    ///
    /// Does *not* check the origin of `aud`, nor whether the proof was used before.
    pub(super) fn verify(
        &self,
        evidence: &Evidence<'_>,
        terms: Terms<'_>,
    ) -> Result<Option<ProvenWorkload>, Refusal> {
        let Some(http) = evidence.http() else { return Ok(None) };
        let wit = match (http.workload_token, http.workload_proof) {
            (PresentedProof::Absent, PresentedProof::Absent) => return Ok(None),
            (PresentedProof::One(wit), _) => wit,
            (PresentedProof::Absent | PresentedProof::Several | PresentedProof::Unreadable, _) => {
                return Err(WorkloadError::Token.into());
            }
        };
        let wpt = match http.workload_proof {
            PresentedProof::One(wpt) => wpt,
            PresentedProof::Absent => return Err(WorkloadError::ProofMissing.into()),
            PresentedProof::Several | PresentedProof::Unreadable => {
                return Err(WorkloadError::Proof.into());
            }
        };
        let hash = Thumbprint::of(wit.as_bytes());
        let token = self.token(wit, hash, terms)?;
        token.check_times(terms)?;
        let access = match evidence.credentials() {
            Credentials::Absent => None,
            Credentials::Token { token, .. } => Some(Thumbprint::of(token.as_bytes())),
            // What is presented cannot be told, so that no proof can be for it.
            Credentials::Unusable(_) => return Err(WorkloadError::ProofTokens.into()),
        };
        let (origin, proof) = prove(&token, wpt, Presented { wit: hash, access }, terms)?;
        let own = htu::normal_path(http.path.sent());
        if own.is_none_or(|own| own != origin.1) {
            return Err(WorkloadError::ProofAudience.into());
        }
        Ok(Some(ProvenWorkload { token, origin: origin.0, proof }))
    }

    fn token(
        &self,
        wit: &str,
        hash: Thumbprint,
        terms: Terms<'_>,
    ) -> Result<Arc<WorkloadToken>, Refusal> {
        if let Some(Kept { token, version }) = self.tokens.get(hash.as_bytes()) {
            let authority = SpiffeId::parse(&token.subject)
                .ok()
                .and_then(|id| authority(terms.authorities, id.trust_domain()));
            if authority.and_then(|issuer| issuer.key_version(terms.now)) == Some(version) {
                return Ok(token);
            }
        }
        let (token, version) = read(wit, terms)?;
        let token = Arc::new(token);
        self.tokens.insert(*hash.as_bytes(), Kept { token: Arc::clone(&token), version });
        Ok(token)
    }
}

/// Returns the authority of a trust domain's workload identity tokens.
fn authority<'i>(authorities: &'i Issuers, domain: &str) -> Option<&'i Arc<Issuer>> {
    authorities.find(&format!("spiffe://{domain}"))
}

/// Verifies a token that was not seen before: `sub` chooses whose keys are asked, and `iss` nothing.
fn read(wit: &str, terms: Terms<'_>) -> Result<(WorkloadToken, u64), Refusal> {
    let jws = token::parse(wit).map_err(|error| {
        if error == TokenError::Algorithm {
            WorkloadError::TokenAlgorithm
        } else {
            WorkloadError::Token
        }
    })?;
    let domain = jws.trust_domain().ok_or(WorkloadError::TrustDomain)?;
    let issuer = authority(terms.authorities, domain).ok_or(WorkloadError::TrustDomain)?;
    jws.check_header(&issuer.document).map_err(|error| {
        if error == TokenError::Type {
            WorkloadError::TokenType
        } else {
            WorkloadError::TokenAlgorithm
        }
    })?;
    // The bundle names each of its keys, and so does what is signed with one.
    if !jws.names_key() {
        return Err(WorkloadError::Token.into());
    }
    let missing = |error| Refusal::KeyMissing(error, Arc::clone(issuer));
    let keys = issuer.keys(terms.now).ok_or_else(|| missing(WorkloadError::KeysUnavailable))?;
    let claims = match jws.find_key(&keys.set, &issuer.document) {
        Found::Key(key) => {
            jws.verify_signature(key).map_err(|_signature| WorkloadError::TokenSignature)?
        }
        Found::Unknown => return Err(missing(WorkloadError::KeyUnknown)),
        Found::Unfit => return Err(WorkloadError::KeyUnknown.into()),
    };
    Ok((WorkloadToken::read(&claims)?, keys.version))
}

impl WorkloadToken {
    /// Reads the claims of a token whose signature held.
    fn read(claims: &Object) -> Result<Self, WorkloadError> {
        let time = |name| claims::time(claims, name).map_err(|_claim| WorkloadError::Token);
        // For any service that asks for it: one with `aud` is of another kind.
        if claims.contains_key("aud") {
            return Err(WorkloadError::Token);
        }
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(WorkloadError::Token)?;
        if SpiffeId::parse(subject).map_or(true, |id| id.path().is_empty()) {
            return Err(WorkloadError::TrustDomain);
        }
        let jwk =
            claims.get("cnf").and_then(|cnf| cnf.get("jwk")).ok_or(WorkloadError::Confirmation)?;
        let name = jwk.get("alg").and_then(Value::as_str).ok_or(WorkloadError::Confirmation)?;
        let algorithm = Algorithm::parse(name).ok_or(WorkloadError::Confirmation)?;
        Ok(Self {
            subject: subject.to_owned(),
            expires: time("exp")?.ok_or(WorkloadError::Token)?,
            not_before: time("nbf")?,
            algorithm: name.to_owned(),
            key: PublicKey::read(jwk, algorithm).map_err(|_key| WorkloadError::Confirmation)?,
        })
    }

    /// For every check, cached or not.
    fn check_times(&self, terms: Terms<'_>) -> Result<(), WorkloadError> {
        let Terms { now, leeway, .. } = terms;
        let expired = now >= self.expires.saturating_add(leeway);
        let early = self.not_before.is_some_and(|start| start > now.saturating_add(leeway));
        if expired || early { Err(WorkloadError::TokenTime) } else { Ok(()) }
    }
}

/// The tokens that a proof has to be for.
#[derive(Clone, Copy)]
struct Presented {
    wit: Thumbprint,
    access: Option<Thumbprint>,
}

/// Verifies a proof, and returns its origin and path, and what is recorded of it.
fn prove(
    token: &WorkloadToken,
    wpt: &str,
    presented: Presented,
    terms: Terms<'_>,
) -> Result<((Origin, String), ProofUse), WorkloadError> {
    let parts = proof::split(wpt).map_err(|_form| WorkloadError::Proof)?;
    check_header(token, parts)?;
    parts.verified_by(&token.key).map_err(|error| {
        if error == ProofError::Signature {
            WorkloadError::ProofSignature
        } else {
            WorkloadError::Proof
        }
    })?;
    let claims = proof::object(parts.payload).map_err(|_form| WorkloadError::Proof)?;
    let text = |name| claims.get(name).and_then(Value::as_str).ok_or(WorkloadError::Proof);
    let time = |name| claims::time(&claims, name).map_err(|_claim| WorkloadError::Proof);
    let id = text("jti")?;
    if !(1..=proof::MAX_JTI_BYTES).contains(&id.len()) {
        return Err(WorkloadError::Proof);
    }
    check_tokens(&claims, presented)?;
    let Terms { now, leeway, longest, .. } = terms;
    let expires = time("exp")?.ok_or(WorkloadError::Proof)?;
    let latest = now.saturating_add(leeway);
    let issued = time("iat")?;
    if now >= expires.saturating_add(leeway)
        || expires > now.saturating_add(longest)
        || time("nbf")?.is_some_and(|start| start > latest)
        || issued.is_some_and(|issued| issued > latest)
    {
        return Err(WorkloadError::ProofTime);
    }
    let uri = text("aud")?;
    // The target without query and fragment.
    if uri.contains(['?', '#']) {
        return Err(WorkloadError::ProofAudience);
    }
    let origin = htu::read(uri).ok_or(WorkloadError::ProofAudience)?;
    let key = token.key.thumbprint();
    // Apart from DPoP proofs, which the same key may make.
    let name = [b"wpt", &key.as_bytes()[..], id.as_bytes()].concat();
    let proof = ProofUse {
        id: Thumbprint::of(&name),
        // Without its own word on it, it may have been made as soon as it could be accepted.
        created: issued.unwrap_or_else(|| expires.saturating_sub(longest)),
        usable_until: expires.saturating_add(leeway),
        used_as: UsedAs::WorkloadProof,
    };
    Ok((origin, proof))
}

fn check_header(token: &WorkloadToken, parts: Parts<'_>) -> Result<(), WorkloadError> {
    let header = proof::object(parts.header).map_err(|_form| WorkloadError::Proof)?;
    if token::has_critical(&header) {
        return Err(WorkloadError::Proof);
    }
    if !proof::is_type(&header, "wpt+jwt") {
        return Err(WorkloadError::ProofType);
    }
    // String by string: the key has one algorithm, and one name for it.
    if header.get("alg").and_then(Value::as_str) == Some(&token.algorithm) {
        Ok(())
    } else {
        Err(WorkloadError::ProofAlgorithm)
    }
}

/// The proof is for this workload identity token, and for the access token beside it or for none. Hashes of
/// other tokens are not understood: what they cover could not be told from what they do not.
fn check_tokens(claims: &Object, presented: Presented) -> Result<(), WorkloadError> {
    let hash = |name| match claims.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(Thumbprint::from_base64url)
            .map(Some)
            .ok_or(WorkloadError::ProofTokens),
    };
    let is_other = claims.contains_key("tth") || claims.contains_key("oth");
    // The comparisons take constant time.
    if !is_other && hash("wth")? == Some(presented.wit) && hash("ath")? == presented.access {
        Ok(())
    } else {
        Err(WorkloadError::ProofTokens)
    }
}

#[cfg(test)]
mod tests;
