//! What of the evidence is proven: evidence and keys in, [`Principal`] out.

pub mod actor;
pub mod binding;
pub mod cache;
pub mod claims;
pub mod dpop;
pub mod peer;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;

use std::{sync::Arc, time::Duration};

use crate::{
    clock::UnixTime,
    credential::{
        binding::Binding,
        cache::TokenCache,
        claims::{AccessToken, ClaimsError},
        dpop::{Call, ProofVerifier, VerifiedProof},
        token::TokenError,
    },
    evidence::{Evidence, authorization::Credentials, peer::PeerEvidence},
    identity::{SpiffeId, Thumbprint},
    policy::Needs,
    reason::Reason,
    trust::{Issuer, Trust, jwks::Found},
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

/// The outcome of [`verify`].
#[derive(Debug)]
pub enum Verified<'e> {
    /// All that was needed is settled.
    Settled(Principal<'e>),
    /// The token names a key that its issuer's set does not have: a refetch may bring it. Await it, then
    /// call [`verify`] again with [`Refetched::Yes`].
    KeyMissing(crate::trust::Refetch),
}

/// Whether a refetch was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refetched {
    /// No: for a missing key it may be worth one.
    No,
    /// Yes: a missing key is unknown for good.
    Yes,
}

/// Verifies what the candidate rules need. Synchronous; takes no lock that is held across an await.
///
/// The peer is always judged, the token only where `needs` says so. After a refetch a key that is missing
/// is unknown for good.
///
/// Does *not* check whom the token is for, its scopes, or what a rule asks of peer and binding; nor whether
/// a proof was used before.
pub fn verify<'e>(
    evidence: &'e Evidence<'e>,
    needs: Needs,
    trust: &Trust,
    tokens: &TokenCache,
    proofs: &ProofVerifier,
    now: UnixTime,
    refetched: Refetched,
) -> Verified<'e> {
    let mut principal = Principal {
        peer: peer::verify(evidence.peer.as_ref(), trust, now),
        token: Proof::Absent,
        refused_token: None,
    };
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
    let verified = verify_token(token, trust, tokens, now).and_then(|(token, hash)| {
        let prove_key = |key| {
            let http = evidence.http();
            let (method, path) = http.map_or(("", ""), |http| (http.method, http.path.sent()));
            let presented = http.map(|http| http.proof).unwrap_or_default();
            proofs.verify(presented, Call { method, path, token: hash, key }, now).map(Box::new)
        };
        match token.confirmation.prove(scheme, evidence.peer.as_ref(), now, prove_key) {
            Ok((binding, proof)) => match actor::check_peer(&token.actors, &principal.peer) {
                Ok(()) => Ok(BoundToken::new(token, binding, proof, now)),
                Err(error) => Err(Refusal::of(token, error)),
            },
            Err(error) => Err(Refusal::of(token, error)),
        }
    });
    match verified {
        Ok(token) => principal.token = Proof::Proven(token),
        Err(Refusal::Final { reason, token }) => {
            principal.token = Proof::Unproven(reason);
            principal.refused_token = token;
        }
        Err(Refusal::KeyMissing { reason, issuer }) => {
            match if refetched == Refetched::Yes { None } else { issuer.refetch() } {
                Some(refetch) => return Verified::KeyMissing(refetch),
                None => principal.token = Proof::Unproven(reason),
            }
        }
    }
    Verified::Settled(principal)
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

/// Verifies a token as far as it does not depend on the call; returns its SHA-256 with it. Warm, this is a
/// hash, a look-up and the times.
fn verify_token(
    token: &str,
    trust: &Trust,
    tokens: &TokenCache,
    now: UnixTime,
) -> Result<(Arc<AccessToken>, Thumbprint), Refusal> {
    // Before it is hashed: an oversized token costs nothing.
    if token.len() > token::MAX_BYTES {
        return Err(TokenError::TooLong.into());
    }
    let key = TokenCache::key(token);
    if let Some((token, issuer)) = tokens.find(key, &trust.issuers, now) {
        return match token.check_times(&issuer.document, now) {
            Ok(()) => Ok((token, key.hash())),
            Err(error) => {
                tokens.forget(key);
                Err(Refusal::of(token, error))
            }
        };
    }
    let (token, issuer, key_version) = verify_signed(token, trust, now)?;
    tokens.keep(key, issuer, key_version, Arc::clone(&token));
    Ok((token, key.hash()))
}

/// Verifies a token that was not seen before. Nothing that it claims counts before its signature holds
/// (RFC 8725 §3.3): `iss` only chooses whose keys are asked.
fn verify_signed<'t>(
    token: &str,
    trust: &'t Trust,
    now: UnixTime,
) -> Result<(Arc<AccessToken>, &'t Issuer, u64), Refusal> {
    let jws = token::parse(token)?;
    let issuer = trust.issuers.find(jws.issuer()?).ok_or(TokenError::IssuerUnknown)?;
    jws.check_header(&issuer.document)?;
    let missing = |error: TokenError| Refusal::KeyMissing {
        reason: error.into(),
        issuer: Arc::clone(issuer),
    };
    let keys = issuer.keys(now).ok_or_else(|| missing(TokenError::KeysUnavailable))?;
    // A token that names no key may be signed by the one that has taken the place of ours.
    let is_named = jws.names_key();
    let refused = |error: TokenError| if is_named { Refusal::from(error) } else { missing(error) };
    let claims = match jws.find_key(&keys.set, &issuer.document) {
        Found::Key(key) => jws.verify_signature(key).map_err(refused)?,
        Found::Unknown => return Err(missing(TokenError::KeyUnknown)),
        Found::Unfit => return Err(refused(TokenError::KeyUnknown)),
    };
    let name = Arc::clone(issuer.name());
    let (token, bindable) = AccessToken::read(name, &issuer.document, claims)?;
    let token = Arc::new(token);
    let checked = token
        .check_times(&issuer.document, now)
        .and_then(|()| token.check_document(&issuer.document, now));
    if let Err(error) = checked {
        return Err(Refusal::of(token, error));
    }
    match bindable {
        Ok(()) => Ok((token, issuer, keys.version)),
        Err(error) => Err(Refusal::of(token, error)),
    }
}

#[cfg(test)]
mod tests;
