//! What a check carried, not yet believed: borrowed from the message, bounded, read one way or refused.
//!
//! Nothing here says that an identity is genuine or a token valid; that is [`crate::credential`]'s part.

pub mod authorization;
pub mod certificate;
pub mod http;
pub mod path;
pub mod peer;
pub mod xfcc;

use crate::{
    evidence::{
        authorization::Credentials, certificate::CertificateCache, http::HttpRequest,
        peer::PeerEvidence,
    },
    identity::SpiffeId,
    reason::Reason,
    transport::wire::CheckRequest,
};

/// What one check carried.
#[derive(Debug)]
pub struct Evidence<'r> {
    /// Envoy's id of the stream; empty for a TCP check.
    pub request_id: &'r str,
    /// What is asked for.
    pub attempt: Attempt<'r>,
    /// The SPIFFE ID of the service called: `destination.principal`, else the caller, else `workload` in the
    /// context extensions.
    pub workload: Option<SpiffeId<'r>>,
    /// The immediate peer, from the sources that PeerTrust lists.
    pub peer: Option<PeerEvidence<'r>>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Attempt<'r> {
    /// An HTTP request.
    Http(HttpRequest<'r>),
    /// A TCP connection to a port (a check without `request.http`).
    Tcp {
        /// The destination port.
        port: u32,
    },
}

/// Which of a check's sources describe the immediate peer; from the `PeerTrust` document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSources {
    /// `source.principal`.
    pub principal: bool,
    /// `source.certificate`.
    pub certificate: bool,
    /// The right-most element of `x-forwarded-client-cert`.
    pub xfcc: bool,
}

impl<'r> Evidence<'r> {
    /// Reads the evidence of a check. `caller` is the SPIFFE ID of the Envoy that asks, where it
    /// authenticated itself.
    ///
    /// # Errors
    /// The reason of the denial, where the evidence is malformed, conflicting, oversized or ambiguous. An
    /// ambiguous path alone is no error: it is in [`HttpRequest::path`] with its forms, because a policy may
    /// opt in to them. Bad credentials are no error either: they are a fact for the rules.
    pub fn read(
        request: &'r CheckRequest,
        sources: PeerSources,
        caller: Option<SpiffeId<'r>>,
        certificates: &CertificateCache,
    ) -> Result<Self, EvidenceError> {
        let _ = (request, sources, caller, certificates);
        Err(EvidenceError::Malformed)
    }

    /// Returns the HTTP request, unless this is a TCP check.
    #[must_use]
    pub const fn http(&self) -> Option<&HttpRequest<'r>> {
        match &self.attempt {
            Attempt::Http(request) => Some(request),
            Attempt::Tcp { .. } => None,
        }
    }

    /// Returns the credentials presented; none for a TCP check.
    #[must_use]
    pub fn credentials(&self) -> Credentials<'r> {
        self.http().map_or(Credentials::Absent, |http| http.credentials)
    }
}

/// Why a check cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// A field every check has is missing, or is not UTF-8 where Envoy's message says `string`.
    #[error("the check lacks a field or has one that is not UTF-8")]
    Malformed,
}

impl From<EvidenceError> for Reason {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Malformed => Self::MalformedCheck,
        }
    }
}
