//! DPoP (RFC 9449): a proof that the caller holds the key a token is bound to.
//!
//! A proof is verified in the order of cost and of what may be told: syntax, key, signature, then what it
//! was made for. What depends on the rule (which origin the service has, whether a nonce is asked for) is
//! found out here and judged there; whether it was used before is asked last, once the policy has
//! allowed ([`replay`]).

pub mod htu;
pub mod nonce;
pub mod proof;
pub mod replay;

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;

pub use self::htu::Origin;
use self::{
    nonce::Nonces,
    proof::{Claims, Header},
    replay::{ProofUse, UsedAs},
};
use crate::{
    clock::UnixTime,
    credential::workload::{self, ProvenWorkload, Terms, WorkloadVerifier},
    evidence::{Evidence, authorization::PresentedProof},
    identity::Thumbprint,
    reason::Reason,
    trust::{Issuers, jwks::Algorithm},
};

/// What proofs may be, for the whole process.
#[derive(Clone, Debug)]
pub struct ProofRules {
    /// The algorithms that are accepted, with their names as they are offered.
    pub algorithms: Vec<(Algorithm, String)>,
    /// How long after its creation a proof is accepted.
    pub past: Duration,
    /// How far in the future its creation may lie.
    pub future: Duration,
}

/// Verifies proofs.
#[derive(Debug)]
pub struct ProofVerifier {
    algorithms: Vec<Algorithm>,
    offered: Box<str>,
    past: Duration,
    future: Duration,
    nonces: Arc<Nonces>,
    /// Headers by their SHA-256: a client's proofs all begin with the same one. Holds only keys that
    /// tokens were bound to, so that a flood of keys made up leaves it as it is.
    headers: Cache<[u8; 32], Arc<Header>>,
    workloads: WorkloadVerifier,
}

/// The request that a proof is to be for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    /// The method, as sent.
    pub method: &'c str,
    /// The path without its query, as sent.
    pub path: &'c str,
    /// SHA-256 of the access token.
    pub token: Thumbprint,
    /// The key that the access token is bound to (`cnf.jkt`).
    pub key: Thumbprint,
}

/// A proof made by the token's key for this method, path and token. For which origin and when are facts
/// that the deciding rule judges; whether it was used before is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedProof {
    /// Scheme, host and port of its `htu`.
    pub origin: Origin,
    /// Names the proof among all: SHA-256 of key and `jti`.
    pub id: Thumbprint,
    /// `iat`.
    pub issued: UnixTime,
    /// Whether `iat` lies within the window.
    pub is_recent: bool,
    /// The `nonce` claim.
    pub nonce: PresentedNonce,
    /// Until when any check could accept this proof: it is remembered for that long.
    pub usable_until: UnixTime,
}

/// What a proof's `nonce` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresentedNonce {
    /// There is none.
    Absent,
    /// One of ours for this key, made at this time, and not too old.
    Valid(UnixTime),
    /// Not ours, for another key, or too old.
    Invalid,
}

/// Why a proof is refused. Carries nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// `alg` is missing, `none`, symmetric, unknown or not accepted.
    #[error("the proof's algorithm is not accepted")]
    Algorithm,
    /// More than one proof was presented.
    #[error("more than one proof was presented")]
    Ambiguous,
    /// `jwk` is missing, private, weak, not canonical or of another algorithm.
    #[error("the proof's key cannot be used")]
    Key,
    /// It is no compact JWS of strict JSON objects, or lacks a claim or has one of the wrong type.
    #[error("the proof is malformed")]
    Malformed,
    /// `htm` is another method.
    #[error("the proof is for another method")]
    Method,
    /// There is none.
    #[error("no proof was presented")]
    Missing,
    /// Its key is not the one that the token is bound to.
    #[error("the proof is made with another key than the token is bound to")]
    OtherKey,
    /// The signature does not verify.
    #[error("the proof's signature does not verify")]
    Signature,
    /// `exp` has passed, or `nbf` or `iat` is out of reach.
    #[error("the proof is not valid now")]
    Time,
    /// `ath` is missing or of another token.
    #[error("the proof is for another token")]
    Token,
    /// `typ` is not `dpop+jwt`.
    #[error("the proof is of another type")]
    Type,
    /// `htu` is no web URI or names another path.
    #[error("the proof is for another uri")]
    Uri,
}

impl From<ProofError> for Reason {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Algorithm => Self::DpopProofAlgorithm,
            ProofError::Ambiguous => Self::DpopProofAmbiguous,
            ProofError::Key => Self::DpopProofKey,
            ProofError::Malformed => Self::DpopProofMalformed,
            ProofError::Method => Self::DpopProofMethod,
            ProofError::Missing => Self::DpopProofMissing,
            ProofError::OtherKey => Self::DpopKeyMismatch,
            ProofError::Signature => Self::DpopProofSignature,
            ProofError::Time => Self::DpopProofTime,
            ProofError::Token => Self::DpopProofToken,
            ProofError::Type => Self::DpopProofType,
            ProofError::Uri => Self::DpopProofUri,
        }
    }
}

/// Keys of clients that call again and again; each takes some 2 KiB.
const HEADERS_KEPT: usize = 10_000;

/// A client's clock may be an hour off where a nonce tells the time; what is dated further ahead would have
/// to be remembered for as long.
const MAX_AHEAD: Duration = Duration::from_secs(2 * 3600);

impl ProofVerifier {
    /// Creates a verifier with the process's rules and nonces.
    #[must_use]
    pub fn new(rules: ProofRules, nonces: Arc<Nonces>) -> Self {
        let (algorithms, names): (Vec<_>, Vec<_>) = rules.algorithms.into_iter().unzip();
        Self {
            algorithms,
            offered: names.join(" ").into(),
            past: rules.past,
            future: rules.future,
            nonces,
            headers: Cache::new(HEADERS_KEPT),
            workloads: WorkloadVerifier::new(),
        }
    }

    /// Returns the names of the algorithms that are accepted, with spaces between them: the `algs` of a
    /// challenge (RFC 9449 §7.1).
    #[must_use]
    pub fn offered(&self) -> &str {
        &self.offered
    }

    /// Returns the nonces.
    #[must_use]
    pub fn nonces(&self) -> &Nonces {
        &self.nonces
    }

    /// Verifies the workload identity that a request presents; `None` where it presents none.
    pub(super) fn workload(
        &self,
        evidence: &Evidence<'_>,
        authorities: &Issuers,
        now: UnixTime,
    ) -> Result<Option<ProvenWorkload>, workload::Refusal> {
        let (leeway, longest) = (self.future, self.past.saturating_add(self.future));
        self.workloads.verify(evidence, Terms { authorities, now, leeway, longest })
    }

    /// Verifies a proof for `call`: RFC 9449 §4.3, steps 1 to 9 and 12, the path of step 9 only.
    ///
    /// Does *not* check the origin of `htu`, whether `iat` is recent, or whether a nonce is asked for (steps
    /// 9 to 11): these are facts of the result, as they depend on the rule. Does not look whether the proof
    /// was used before (§11.1).
    ///
    /// # Errors
    /// As [`ProofError`] says.
    pub fn verify(
        &self,
        presented: PresentedProof<'_>,
        call: Call<'_>,
        now: UnixTime,
    ) -> Result<VerifiedProof, ProofError> {
        let text = match presented {
            PresentedProof::Absent => return Err(ProofError::Missing),
            PresentedProof::Several => return Err(ProofError::Ambiguous),
            PresentedProof::Unreadable => return Err(ProofError::Malformed),
            PresentedProof::One(text) => text,
        };
        let parts = proof::split(text)?;
        let name = Thumbprint::of(parts.header.as_bytes());
        let (header, is_new) = match self.headers.get(name.as_bytes()) {
            Some(header) => (header, false),
            None => (Arc::new(Header::read(parts.header, &self.algorithms)?), true),
        };
        parts.verified_by(&header.key)?;
        let claims = Claims::read(parts)?;
        let (origin, path) = self.check_claims(&claims, call, now)?;
        if htu::normal_path(call.path).is_none_or(|own| own != path) {
            return Err(ProofError::Uri);
        }
        // The comparison takes constant time.
        let key = header.key.thumbprint();
        if key != call.key {
            return Err(ProofError::OtherKey);
        }
        if is_new {
            self.headers.insert(*name.as_bytes(), header);
        }
        self.facts(&claims, origin, key, now)
    }

    fn check_claims(
        &self,
        claims: &Claims,
        call: Call<'_>,
        now: UnixTime,
    ) -> Result<(Origin, String), ProofError> {
        // Methods are case-sensitive (RFC 9110 §9.1).
        if claims.method != call.method {
            return Err(ProofError::Method);
        }
        let uri = htu::read(&claims.uri).ok_or(ProofError::Uri)?;
        if claims.token != Some(call.token) {
            return Err(ProofError::Token);
        }
        // No claims of RFC 9449, but registered ones (RFC 7519 §4.1): who sets them means them.
        let expired = claims.expires.is_some_and(|end| now >= end.saturating_add(self.future));
        let early = claims.not_before.is_some_and(|start| start > now.saturating_add(self.future));
        if expired || early { Err(ProofError::Time) } else { Ok(uri) }
    }

    fn facts(
        &self,
        claims: &Claims,
        origin: Origin,
        key: Thumbprint,
        now: UnixTime,
    ) -> Result<VerifiedProof, ProofError> {
        if claims.issued > now.saturating_add(MAX_AHEAD) {
            return Err(ProofError::Time);
        }
        let nonce = match &claims.nonce {
            None => PresentedNonce::Absent,
            Some(nonce) => match self.nonces.issued(nonce, key) {
                Some(issued) if self.is_recent(issued, now) => PresentedNonce::Valid(issued),
                Some(_) | None => PresentedNonce::Invalid,
            },
        };
        let newest = match nonce {
            PresentedNonce::Valid(issued) => issued.max(claims.issued),
            PresentedNonce::Absent | PresentedNonce::Invalid => claims.issued,
        };
        let id = [&key.as_bytes()[..], claims.id.as_bytes()].concat();
        Ok(VerifiedProof {
            origin,
            id: Thumbprint::of(&id),
            issued: claims.issued,
            is_recent: self.is_recent(claims.issued, now),
            nonce,
            // The allowance for clocks once more: this one may be set back a little, too.
            usable_until: newest.saturating_add(self.past).saturating_add(self.future),
        })
    }

    /// RFC 9449 §11.1. FAPI 2.0 has the same window: 60 s past, 10 s ahead.
    fn is_recent(&self, created: UnixTime, now: UnixTime) -> bool {
        created <= now.saturating_add(self.future) && now <= created.saturating_add(self.past)
    }
}

impl VerifiedProof {
    /// Returns what is recorded of its use.
    #[must_use]
    pub fn as_used(&self) -> ProofUse {
        ProofUse {
            id: self.id,
            created: self.created(),
            usable_until: self.usable_until,
            used_as: UsedAs::DpopProof,
        }
    }

    /// Returns when the proof was made, as far as this server knows: by its nonce if it has one of ours,
    /// else by its own word.
    #[must_use]
    pub fn created(&self) -> UnixTime {
        match self.nonce {
            PresentedNonce::Valid(issued) => issued,
            PresentedNonce::Absent | PresentedNonce::Invalid => self.issued,
        }
    }
}

#[cfg(test)]
mod tests;
