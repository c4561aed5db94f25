//! What of the evidence is proven: evidence and keys in, [`Principal`] out.

pub mod actor;
pub mod binding;
pub mod cache;
pub mod claims;
pub mod dpop;
pub mod introspection;
pub mod peer;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
pub mod workload;

use std::{sync::Arc, time::Duration};

use crate::{
    clock::UnixTime,
    credential::{
        binding::Binding,
        cache::{Kept, TokenCache},
        claims::{AccessToken, ClaimsError, Required},
        dpop::{Call, ProofVerifier, VerifiedProof},
        introspection::{IntrospectedError, Presented},
        token::{Jws, TokenError},
        workload::ProvenWorkload,
    },
    evidence::{
        Evidence,
        authorization::{Credentials, Scheme},
        peer::PeerEvidence,
    },
    identity::{SpiffeId, Thumbprint},
    json::Object,
    policy::Needs,
    reason::Reason,
    trust::{
        Issuer, Refetch, Trust,
        introspection::{Introspected, Introspection},
        jwks::Found,
    },
};

/// What is known of a credential. Absent is known; unproven is not.
#[derive(Debug)]
pub enum Proof<T> {
    /// Nothing was presented.
    Absent,
    /// Something was presented, and it could not be verified.
    Unproven(Reason),
    /// It was presented and verified.
    Proven(T),
}

/// Everything verified about who calls.
#[derive(Debug)]
pub struct Principal<'e> {
    /// The workload whose certificate the call is made with.
    pub peer: Proof<Peer<'e>>,
    /// What the caller's workload identity token tells, where a rule asks for one.
    pub workload: Proof<ProvenWorkload>,
    /// The access token with its binding.
    pub token: Proof<BoundToken>,
    /// The claims of a token whose signature held although the token as a whole did not: for the record only.
    pub refused_token: Option<Arc<AccessToken>>,
}

/// A verified peer. Its chain was verified by the Envoy that terminated TLS, not by us.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'e> {
    /// Its SPIFFE ID, of a declared trust domain where any is declared.
    pub spiffe: Option<SpiffeId<'e>>,
    /// SHA-256 of its certificate.
    pub thumbprint: Option<Thumbprint>,
    /// All that was presented.
    pub evidence: &'e PeerEvidence<'e>,
}

/// A verified token and how it is bound to this call.
#[derive(Clone, Debug)]
pub struct BoundToken {
    /// The verified claims.
    pub token: Arc<AccessToken>,
    /// How it is bound; proven, but for what [`VerifiedProof`] leaves to the rule.
    pub binding: Binding,
    /// The proof; there whenever the token is bound to a DPoP key.
    pub proof: Option<Box<VerifiedProof>>,
    /// How long ago the user authenticated (`auth_time`), where the token tells; zero within the leeway of
    /// clocks.
    pub authentication_age: Option<Duration>,
}

impl BoundToken {
    fn new(
        token: Arc<AccessToken>,
        binding: Binding,
        proof: Option<Box<VerifiedProof>>,
        now: UnixTime,
    ) -> Self {
        let authentication_age = token.authenticated.map(|since| now.saturating_since(since));
        Self { token, binding, proof, authentication_age }
    }
}

/// The outcome of [`Verifier::verify`].
#[derive(Debug)]
pub enum Verified<'e> {
    /// All that was needed is settled.
    Settled(Principal<'e>),
    /// The token names a key that its issuer's set does not have: a refetch may bring it. Await it, then
    /// ask again with [`Waited::refetched`].
    KeyMissing(Refetch),
    /// The token's issuer has to be asked about it. Await it, then ask again with what it answered as
    /// [`Waited::introspected`].
    Introspects(Introspection),
}

/// What was waited for before: nothing at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited<'w> {
    /// A refetch of keys: one that is missing still is unknown for good.
    pub refetched: bool,
    /// What an issuer said about a token.
    pub introspected: Option<&'w Introspected>,
    /// The DPoP proof of this very check, verified at the same time.
    pub proven: Option<&'w ProvenKey>,
}

/// A DPoP proof that was verified in this check, with the thumbprint of its key. Method, path and token are
/// those of the check, and so no part of it.
#[derive(Clone, Debug)]
pub struct ProvenKey {
    key: Thumbprint,
    proof: Box<VerifiedProof>,
}

impl Principal<'_> {
    /// Returns the verified DPoP proof, where there is one, for [`Waited::proven`].
    #[must_use]
    pub fn proven_key(&self) -> Option<ProvenKey> {
        let Proof::Proven(bound) = &self.token else { return None };
        Some(ProvenKey { key: bound.token.confirmation.key?, proof: bound.proof.clone()? })
    }
}

/// What verifying rests on.
#[derive(Clone, Copy, Debug)]
pub struct Verifier<'v> {
    /// Whom we believe.
    pub trust: &'v Trust,
    /// Tokens verified before.
    pub tokens: &'v TokenCache,
    /// Verifies DPoP proofs.
    pub proofs: &'v ProofVerifier,
    /// The time of the check.
    pub now: UnixTime,
}

impl Verifier<'_> {
    /// Verifies who calls: the peer, which is always judged, and where a rule `asks_workload` what the workload
    /// tells of itself. Which rules ask further depends on it.
    ///
    /// # Errors
    /// The refetch of keys to wait for before asking again with [`Waited::refetched`].
    pub fn callers<'e>(
        &self,
        evidence: &'e Evidence<'e>,
        asks_workload: bool,
        waited: Waited<'_>,
    ) -> Result<Principal<'e>, Refetch> {
        let peer = peer::verify(evidence.peer.as_ref(), self.trust, self.now);
        let workload = if asks_workload {
            match self.proofs.workload(evidence, &self.trust.workloads, self.now) {
                Ok(Some(workload)) => Proof::Proven(workload),
                Ok(None) => Proof::Absent,
                Err(workload::Refusal::Final(error)) => Proof::Unproven(error.into()),
                Err(workload::Refusal::KeyMissing(error, issuer)) => {
                    match if waited.refetched { None } else { issuer.refetch() } {
                        Some(refetch) => return Err(refetch),
                        None => Proof::Unproven(error.into()),
                    }
                }
            }
        } else {
            Proof::Absent
        };
        Ok(Principal { peer, workload, token: Proof::Absent, refused_token: None })
    }

    /// Verifies what the candidate rules need besides who calls. Synchronous; takes no lock that is held
    /// across an await.
    ///
    /// The token is judged only where `needs` says so. After a refetch a key that is missing is unknown for
    /// good.
    ///
    /// Does *not* check whom the token is for, its scopes, or what a rule asks of peer and binding; nor
    /// whether a proof was used before.
    #[must_use]
    pub fn verify<'e>(
        &self,
        evidence: &'e Evidence<'e>,
        mut principal: Principal<'e>,
        needs: Needs<'_>,
        waited: Waited<'_>,
    ) -> Verified<'e> {
        if !needs.token {
            return Verified::Settled(principal);
        }
        let (scheme, token) = match evidence.credentials() {
            Credentials::Absent => return Verified::Settled(principal),
            Credentials::Unusable(reason) => {
                principal.token = Proof::Unproven(reason);
                return Verified::Settled(principal);
            }
            Credentials::Token { scheme, token } => (scheme, token),
        };
        let verified = self.token(token, needs.opaque, waited).and_then(|(token, hash)| {
            let call = (scheme, &principal.peer, waited.proven);
            self.bind(evidence, call, token, hash)
        });
        match verified {
            Ok(token) => principal.token = Proof::Proven(token),
            Err(Refusal::Final { reason, token }) => {
                principal.token = Proof::Unproven(reason);
                principal.refused_token = token;
            }
            Err(Refusal::KeyMissing { reason, issuer }) => {
                match if waited.refetched { None } else { issuer.refetch() } {
                    Some(refetch) => return Verified::KeyMissing(refetch),
                    None => principal.token = Proof::Unproven(reason),
                }
            }
            Err(Refusal::Unasked(introspection)) => return Verified::Introspects(introspection),
        }
        Verified::Settled(principal)
    }

    /// Proves how a token is bound to this call.
    fn bind(
        &self,
        evidence: &Evidence<'_>,
        (scheme, peer, proven): (Scheme, &Proof<Peer<'_>>, Option<&ProvenKey>),
        token: Arc<AccessToken>,
        hash: Thumbprint,
    ) -> Result<BoundToken, Refusal> {
        let prove_key = |key| {
            if let Some(proven) = proven.filter(|proven| proven.key == key) {
                return Ok(proven.proof.clone());
            }
            let http = evidence.http();
            let (method, path) = http.map_or(("", ""), |http| (http.method, http.path.sent()));
            let presented = http.map(|http| http.proof).unwrap_or_default();
            let call = Call { method, path, token: hash, key };
            self.proofs.verify(presented, call, self.now).map(Box::new)
        };
        let proven = token.confirmation.prove(scheme, evidence.peer.as_ref(), self.now, prove_key);
        match proven {
            Ok((binding, proof)) => match actor::check_peer(&token.actors, peer) {
                Ok(()) => Ok(BoundToken::new(token, binding, proof, self.now)),
                Err(error) => Err(Refusal::of(token, error)),
            },
            Err(error) => Err(Refusal::of(token, error)),
        }
    }

    /// Verifies a token as far as it does not depend on the call; returns its SHA-256 with it. Warm, this is
    /// a hash, a look-up and the times.
    fn token(
        &self,
        token: &str,
        opaque: Option<&str>,
        waited: Waited<'_>,
    ) -> Result<(Arc<AccessToken>, Thumbprint), Refusal> {
        // Before it is hashed: an oversized token costs nothing.
        if token.len() > token::MAX_BYTES {
            return Err(TokenError::TooLong.into());
        }
        let asked = if token::is_compact_jws(token) {
            None
        } else {
            Some(introspection::issuer(opaque, &self.trust.issuers)?)
        };
        let key = TokenCache::key(token);
        if let Some((token, issuer)) = self.tokens.find(key, &self.trust.issuers, self.now)
            // What one issuer said of an opaque token is not another's word.
            && asked.is_none_or(|asked| Arc::ptr_eq(asked, issuer))
        {
            return match token.check_times(&issuer.document, self.now) {
                Ok(()) => Ok((token, key.hash())),
                Err(error) => {
                    self.tokens.forget(key);
                    Err(Refusal::of(token, error))
                }
            };
        }
        let presented = Presented { token, hash: key.hash(), now: self.now, waited };
        let kept = match asked {
            Some(issuer) => introspection::read_opaque(presented, issuer)?,
            None => self.signed(presented)?,
        };
        let token = Arc::clone(&kept.token);
        self.tokens.keep(key, kept);
        Ok((token, key.hash()))
    }

    /// Returns the issuer whose keys have the word on a JWT: the one that `iss` names. A JWT-SVID need not name
    /// one, nor one that is declared: the trust domain of its `sub` has the keys (JWT-SVID §3.1).
    fn issuer(&self, jws: &Jws<'_>) -> Result<&Arc<Issuer>, TokenError> {
        let issuers = &self.trust.issuers;
        let none = match jws.issuer() {
            Ok(iss) => match issuers.find(iss).filter(|issuer| !issuer.signs_svids()) {
                Some(issuer) => return Ok(issuer),
                None => TokenError::IssuerUnknown,
            },
            Err(TokenError::IssuerMissing) => TokenError::IssuerMissing,
            Err(malformed) => return Err(malformed),
        };
        jws.trust_domain().and_then(|domain| issuers.of_trust_domain(domain)).ok_or(none)
    }

    /// Verifies a JWT that was not seen before. Nothing that it claims counts before its signature holds
    /// (RFC 8725 §3.3): `iss` and `sub` only choose whose keys are asked.
    fn signed(&self, presented: Presented<'_>) -> Result<Kept, Refusal> {
        let jws = token::parse(presented.token)?;
        let issuer = self.issuer(&jws)?;
        jws.check_header(&issuer.document)?;
        let missing = |error: TokenError| Refusal::KeyMissing {
            reason: error.into(),
            issuer: Arc::clone(issuer),
        };
        let keys = issuer.keys(self.now).ok_or_else(|| missing(TokenError::KeysUnavailable))?;
        // A token that names no key may be signed by the one that has taken the place of ours.
        let is_named = jws.names_key();
        let refused =
            |error: TokenError| if is_named { Refusal::from(error) } else { missing(error) };
        let claims = match jws.find_key(&keys.set, &issuer.document) {
            Found::Key(key) => jws.verify_signature(key).map_err(refused)?,
            Found::Unknown => return Err(missing(TokenError::KeyUnknown)),
            Found::Unfit => return Err(refused(TokenError::KeyUnknown)),
        };
        let required = Required::of(issuer.document.profile);
        let token = judge(issuer, claims, required, self.now)?;
        let iss = Arc::clone(issuer.shared_identifier());
        let kept = Kept { token, iss, version: keys.version, until: None };
        introspection::narrow(presented, issuer, kept)
    }
}

/// Reads claims that the issuer vouches for, and judges what does not depend on the call.
fn judge(
    issuer: &Issuer,
    claims: Object,
    required: Required,
    now: UnixTime,
) -> Result<Arc<AccessToken>, Refusal> {
    let (token, bindable) =
        AccessToken::read(Arc::clone(issuer.name()), &issuer.document, claims, required)?;
    let token = Arc::new(token);
    let checked = token
        .check_times(&issuer.document, now)
        .and_then(|()| token.check_document(&issuer.document, now));
    if let Err(error) = checked {
        return Err(Refusal::of(token, error));
    }
    match bindable {
        Ok(()) => Ok(token),
        Err(error) => Err(Refusal::of(token, error)),
    }
}

/// Why a token is not verified.
enum Refusal {
    /// For good.
    Final {
        reason: Reason,
        /// The claims, where the signature held.
        token: Option<Arc<AccessToken>>,
    },
    /// Unless newer keys of the issuer say otherwise.
    KeyMissing { reason: Reason, issuer: Arc<Issuer> },
    /// Unless its issuer, which has to be asked, says otherwise.
    Unasked(Introspection),
}

impl Refusal {
    fn of(token: Arc<AccessToken>, error: impl Into<Reason>) -> Self {
        Self::Final { reason: error.into(), token: Some(token) }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::Final { reason: error.into(), token: None }
    }
}

impl From<ClaimsError> for Refusal {
    fn from(error: ClaimsError) -> Self {
        Self::Final { reason: error.into(), token: None }
    }
}

impl From<IntrospectedError> for Refusal {
    fn from(error: IntrospectedError) -> Self {
        Self::Final { reason: error.into(), token: None }
    }
}

#[cfg(test)]
mod tests;
