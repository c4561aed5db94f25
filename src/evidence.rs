//! What a check carried, not yet believed: borrowed from the message, bounded, read one way or refused.
//!
//! Nothing here says that an identity is genuine or a token valid; that is [`crate::credential`]'s part.

pub mod authorization;
pub mod certificate;
pub mod host;
pub mod http;
pub mod path;
pub mod peer;
pub mod xfcc;

use crate::{
    evidence::{
        authorization::Credentials,
        certificate::{CertificateCache, CertificateError},
        host::HostError,
        http::{HttpRequest, Single, text},
        peer::{NameError, PeerConflict, PeerEvidence, Presented},
        xfcc::XfccError,
    },
    identity::SpiffeId,
    reason::Reason,
    transport::wire::{AttributeContext, CheckRequest, Peer},
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
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every check is HTTP: a box for each costs more"
)]
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
    /// The right-most element of `x-forwarded-client-cert`; not asked for in a TCP check.
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
        request: &'r CheckRequest<'r>,
        sources: PeerSources,
        caller: Option<SpiffeId<'r>>,
        certificates: &CertificateCache,
    ) -> Result<Self, EvidenceError> {
        let attributes = request.attributes.as_ref().ok_or(EvidenceError::FieldMissing)?;
        let (source, destination) = (attributes.source.as_ref(), attributes.destination.as_ref());
        let field = |bytes: Option<&'r [u8]>| text(bytes.unwrap_or_default());
        let own = field(destination.map(|peer| peer.principal))?;
        let http = attributes.http.as_ref();
        let (request_id, attempt, xfcc) = match http {
            Some(http) => {
                if http.id.len() > MAX_ID_BYTES {
                    return Err(EvidenceError::IdTooLong);
                }
                let (request, xfcc) = HttpRequest::read(http)?;
                (text(http.id)?, Attempt::Http(request), xfcc)
            }
            None => ("", Attempt::Tcp { port: port(attributes)? }, Single::Absent),
        };
        // XFCC is HTTP's: a connection has none, and its other sources must do. Asking for it there would
        // refuse every TCP check of a mesh.
        let sources = PeerSources { xfcc: sources.xfcc && http.is_some(), ..sources };
        let named = named_workload(attributes)?;
        let presented = Presented {
            principal: field(source.map(|peer| peer.principal))?,
            certificate: field(source.map(|peer| peer.certificate))?,
            xfcc,
            own,
        };
        Ok(Self {
            request_id,
            attempt,
            // What Envoy's own certificate says, then who was seen to ask, then what an operator wrote.
            workload: SpiffeId::parse(own).ok().or(caller).or(named),
            peer: PeerEvidence::read(&presented, sources, certificates)?,
        })
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

/// Envoy's stream ids are numbers of 64 bits; a record is to hold no more than a short name.
pub const MAX_ID_BYTES: usize = 256;

/// Returns the port of a TCP check.
fn port(attributes: &AttributeContext<'_>) -> Result<u32, EvidenceError> {
    match attributes.destination {
        Some(Peer { port: port @ 1..=65_535, .. }) => Ok(port),
        Some(_) | None => Err(EvidenceError::FieldMissing),
    }
}

/// Returns the `workload` of the context extensions, if it is a SPIFFE ID.
fn named_workload<'r>(
    attributes: &AttributeContext<'r>,
) -> Result<Option<SpiffeId<'r>>, EvidenceError> {
    let mut named = None;
    for extension in &attributes.context_extensions {
        let value = text(extension.value)?;
        if text(extension.key)? == "workload" && named.replace(value).is_some() {
            return Err(EvidenceError::DuplicateExtension);
        }
    }
    Ok(named.and_then(|id| SpiffeId::parse(id).ok()))
}

/// Why a check cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The attributes, or a TCP check's destination port, are missing.
    #[error("the check lacks a field that every check has")]
    FieldMissing,
    /// A field that is a `string` in Envoy's message is not UTF-8.
    #[error("a field of the check is not UTF-8")]
    NotUtf8,
    /// The request's id is longer than [`MAX_ID_BYTES`].
    #[error("the request's id is over {MAX_ID_BYTES} bytes")]
    IdTooLong,
    /// The method is no token (RFC 9110 §9.1).
    #[error("the method is no token")]
    Method,
    /// Headers came in both encodings.
    #[error("the check has headers in both encodings")]
    BothHeaderEncodings,
    /// A header's name is no token in lower case.
    #[error("a header's name is not a token in lower case")]
    HeaderName,
    /// A pseudo-header says something else than its attribute.
    #[error("a pseudo-header differs from its attribute")]
    PseudoHeader,
    /// `workload` comes twice among the context extensions.
    #[error("a context extension comes twice")]
    DuplicateExtension,
    /// There are more than [`http::MAX_HEADERS`] headers.
    #[error("the request has more than {max} headers", max = http::MAX_HEADERS)]
    TooManyHeaders,
    /// A header's name is longer than [`http::MAX_NAME_BYTES`].
    #[error("a header's name is over {max} bytes", max = http::MAX_NAME_BYTES)]
    HeaderNameTooLong,
    /// A header's value is longer than [`http::MAX_VALUE_BYTES`].
    #[error("a header's value is over {max} bytes", max = http::MAX_VALUE_BYTES)]
    HeaderValueTooLong,
    /// The headers together are longer than [`http::MAX_TOTAL_BYTES`].
    #[error("the headers are over {max} bytes", max = http::MAX_TOTAL_BYTES)]
    HeadersTooLong,
    /// The path with its query is longer than [`path::MAX_BYTES`].
    #[error("the path is over {max} bytes", max = path::MAX_BYTES)]
    PathTooLong,
    /// A header that decides comes twice or has not one word of visible ASCII.
    #[error("the header `{0}` has not one readable value")]
    InvalidHeader(&'static str),
    /// The authority is not one host.
    #[error(transparent)]
    Host(HostError),
    /// XFCC cannot be used.
    #[error(transparent)]
    Xfcc(#[from] XfccError),
    /// The forwarded certificate is none.
    #[error(transparent)]
    Certificate(CertificateError),
    /// The peer's name begins like a SPIFFE ID and is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The sources of the peer contradict each other.
    #[error(transparent)]
    Conflict(#[from] PeerConflict),
}

impl From<EvidenceError> for Reason {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::FieldMissing
            | EvidenceError::NotUtf8
            | EvidenceError::IdTooLong
            | EvidenceError::Method
            | EvidenceError::BothHeaderEncodings
            | EvidenceError::HeaderName
            | EvidenceError::PseudoHeader
            | EvidenceError::DuplicateExtension => Self::MalformedCheck,
            EvidenceError::TooManyHeaders
            | EvidenceError::HeaderNameTooLong
            | EvidenceError::HeaderValueTooLong
            | EvidenceError::HeadersTooLong
            | EvidenceError::PathTooLong => Self::HeadersTooLarge,
            EvidenceError::InvalidHeader(_) => Self::InvalidHeader,
            EvidenceError::Host(_) => Self::AmbiguousHost,
            EvidenceError::Xfcc(_) | EvidenceError::Certificate(_) | EvidenceError::Name(_) => {
                Self::PeerEvidenceMalformed
            }
            EvidenceError::Conflict(_) => Self::PeerEvidenceConflict,
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
