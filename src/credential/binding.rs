//! The bond between token and caller: `cnf` against the peer's certificate and the key of a proof.

use serde_json::Value;

use crate::{
    clock::UnixTime,
    credential::{dpop::ProofError, peer},
    evidence::{authorization::Scheme, peer::PeerEvidence},
    identity::Thumbprint,
    reason::Reason,
};

/// The confirmation of a token (RFC 7800), as far as it is understood. Without any member the token has no
/// `cnf`: one that has, and whose members are all unknown, is refused when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// `x5t#S256`.
    pub certificate: Option<Thumbprint>,
    /// `jkt`.
    pub key: Option<Thumbprint>,
}

/// How a token is bound to this call. Every understood member of its `cnf` is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Binding {
    /// `x5t#S256` equals the thumbprint of the peer's certificate (RFC 8705 §3).
    pub certificate: bool,
    /// `jkt` equals the thumbprint of the key of a valid DPoP proof (RFC 9449 §6).
    pub dpop: bool,
}

impl Binding {
    /// Returns whether the token is not bound at all: a bearer token.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.certificate && !self.dpop
    }

    /// Returns what binds it, by name; `none` where nothing does.
    #[must_use]
    pub const fn names(self) -> &'static [&'static str] {
        match (self.certificate, self.dpop) {
            (true, false) => &["certificate"],
            (false, true) => &["dpop"],
            (true, true) => &["certificate", "dpop"],
            (false, false) => &["none"],
        }
    }
}

/// Why a bond is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The token is bound to a certificate and the call has none.
    #[error("the token is bound to a certificate and the call has none")]
    CertificateAbsent,
    /// It is bound to another certificate.
    #[error("the token is bound to another certificate")]
    CertificateMismatch,
    /// It is bound to the certificate of this call, which is not valid now.
    #[error("the token is bound to a certificate that is not valid now")]
    CertificateNotValid,
    /// `cnf` is no object, or an understood member is no canonical thumbprint.
    #[error("the token's confirmation is malformed")]
    Malformed,
    /// `cnf` has no understood member.
    #[error("no member of the token's confirmation is understood")]
    NotUnderstood,
    /// The proof of its key does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// It came with the DPoP scheme and is not bound to a DPoP key, or is and came as a Bearer token.
    #[error("the token came with the scheme of another kind of token")]
    SchemeMismatch,
}

impl From<BindingError> for Reason {
    fn from(error: BindingError) -> Self {
        match error {
            BindingError::CertificateAbsent => Self::CertificateAbsent,
            BindingError::CertificateMismatch => Self::CertificateMismatch,
            BindingError::CertificateNotValid => Self::CertificateNotValid,
            BindingError::Malformed => Self::ConfirmationMalformed,
            BindingError::NotUnderstood => Self::ConfirmationNotUnderstood,
            BindingError::Proof(error) => error.into(),
            BindingError::SchemeMismatch => Self::SchemeMismatch,
        }
    }
}

impl Confirmation {
    /// Reads `cnf`. Members that are not understood are ignored beside one that is (RFC 7800 §3.1; some
    /// issuers add their own); alone they are refused, as the token would pass for a bearer token.
    ///
    /// `x5t` and `x5t#S512` are not understood: another hash is another member (RFC 8705 §7.2). Nor are
    /// `jwk` and `kid`, which no binding of access tokens uses.
    ///
    /// # Errors
    /// [`BindingError::Malformed`] and [`BindingError::NotUnderstood`].
    pub fn read(cnf: Option<&Value>) -> Result<Self, BindingError> {
        let Some(cnf) = cnf else { return Ok(Self::default()) };
        let cnf = cnf.as_object().ok_or(BindingError::Malformed)?;
        let member = |name| {
            cnf.get(name)
                .map(|value| {
                    value
                        .as_str()
                        .and_then(Thumbprint::from_base64url)
                        .ok_or(BindingError::Malformed)
                })
                .transpose()
        };
        let read = Self { certificate: member("x5t#S256")?, key: member("jkt")? };
        if read == Self::default() { Err(BindingError::NotUnderstood) } else { Ok(read) }
    }

    /// Proves that the caller holds what the token is bound to: every understood member, not one of them.
    ///
    /// The certificate is that of the immediate peer, whoever it names: the bond rests on possession of its
    /// key, not on its chain (RFC 8705 §6.2). A rotated certificate is another certificate (§6.3).
    ///
    /// A token bound to a key comes with the DPoP scheme: as a Bearer token it is refused, with or without
    /// a proof beside it (RFC 9449 §7.2). Any other with that scheme is refused too: it has no key that a
    /// proof could be made with (§7.1), and one bound to a certificate is a Bearer token (RFC 8705 §3).
    ///
    /// `prove_key` verifies the proof for the key it is given; it is called last, and only for a token that
    /// is bound to a key.
    ///
    /// # Errors
    /// Every [`BindingError`] but those of [`Confirmation::read`].
    pub fn prove<P>(
        &self,
        scheme: Scheme,
        peer: Option<&PeerEvidence<'_>>,
        now: UnixTime,
        prove_key: impl FnOnce(Thumbprint) -> Result<P, ProofError>,
    ) -> Result<(Binding, Option<P>), BindingError> {
        if self.key.is_some() != (scheme == Scheme::Dpop) {
            return Err(BindingError::SchemeMismatch);
        }
        if let Some(bound) = self.certificate {
            let peer = peer.ok_or(BindingError::CertificateAbsent)?;
            prove_certificate(bound, peer, now)?;
        }
        let proof = self.key.map(prove_key).transpose()?;
        Ok((Binding { certificate: self.certificate.is_some(), dpop: proof.is_some() }, proof))
    }
}

fn prove_certificate(
    bound: Thumbprint,
    peer: &PeerEvidence<'_>,
    now: UnixTime,
) -> Result<(), BindingError> {
    // The comparison takes constant time.
    if peer.thumbprint.ok_or(BindingError::CertificateAbsent)? != bound {
        return Err(BindingError::CertificateMismatch);
    }
    match peer.certificate.as_ref().map(|leaf| peer::check_validity(leaf.validity(), now)) {
        None | Some(Ok(())) => Ok(()),
        Some(Err(_expired_or_too_early)) => Err(BindingError::CertificateNotValid),
    }
}

#[cfg(test)]
mod tests;
