//! What of the evidence is proven: evidence and keys in, [`Principal`] out.

pub mod binding;
pub mod cache;
pub mod claims;
pub mod token;

use std::sync::Arc;

use crate::{
    clock::UnixTime,
    credential::{binding::Binding, claims::AccessToken},
    evidence::{Evidence, peer::PeerEvidence},
    identity::{SpiffeId, Thumbprint},
    policy::Needs,
    reason::Reason,
    trust::Trust,
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
    /// How it is bound; proven.
    pub binding: Binding,
}

/// The outcome of [`verify`].
#[derive(Debug)]
pub enum Verified<'e> {
    /// All that was needed is settled.
    Settled(Principal<'e>),
    /// The token names a key that its issuer's set does not have: a refetch may bring it. Await it, then
    /// call [`verify`] again with `refetched: true`.
    KeyMissing(crate::trust::Refetch),
}

/// Verifies what the candidate rules need. Synchronous; takes no lock that is held across an await.
pub fn verify<'e>(
    evidence: &'e Evidence<'e>,
    needs: Needs,
    trust: &Trust,
    now: UnixTime,
    refetched: bool,
) -> Verified<'e> {
    let _ = (evidence, needs, trust, now, refetched);
    Verified::Settled(Principal { peer: Proof::Absent, token: Proof::Absent, refused_token: None })
}
