//! The immediate peer of the Envoy that asks: from principal, certificate and XFCC, which must agree.

use std::sync::Arc;

use crate::{
    evidence::{
        EvidenceError, PeerSources,
        certificate::{Certificate, CertificateCache, CertificateText},
        http::Single,
        xfcc::{self, Element, Uri, XfccError},
    },
    identity::{SpiffeId, SpiffeIdError, Thumbprint},
};

/// The immediate peer, as all listed sources agree on it. Envoy's word, not verified by us.
#[derive(Debug)]
pub struct PeerEvidence<'r> {
    /// The SPIFFE ID as the request's text has it: XFCC's only URI, or `source.principal` where that alone is
    /// listed. Where only the certificate names it, it is `None` here: read it with [`PeerEvidence::spiffe`].
    pub spiffe: Option<SpiffeId<'r>>,
    /// Whether the peer may have a SPIFFE ID that the listed sources do not tell: XFCC's element has no `URI`,
    /// and neither a certificate nor a principal that is another name settles that there is none.
    pub spiffe_untold: bool,
    /// DNS SANs, from XFCC (those of a certificate are in it).
    pub dns: Vec<&'r str>,
    /// SHA-256 of the certificate: from its DER where there is one, else XFCC's `Hash`.
    pub thumbprint: Option<Thumbprint>,
    /// The leaf, where `source.certificate` or XFCC's `Cert` carried it.
    pub certificate: Option<Arc<Certificate>>,
}

/// How the listed sources contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerConflict {
    /// Some of the listed sources are there and others are not.
    #[error("some listed sources of the peer are there and others are not")]
    SomeAbsent,
    /// `source.certificate` and XFCC's `Cert` are different certificates.
    #[error("`source.certificate` and XFCC's `Cert` differ")]
    Certificate,
    /// XFCC's `Hash` is not that of the certificate.
    #[error("XFCC's `Hash` is not that of the certificate")]
    Hash,
    /// XFCC's `URI` is not the certificate's URI SAN.
    #[error("XFCC's `URI` is not the certificate's URI SAN")]
    Uri,
    /// XFCC's `DNS` are not the certificate's DNS SANs.
    #[error("XFCC's `DNS` are not the certificate's DNS SANs")]
    Dns,
    /// `source.principal` is not what the other sources name.
    #[error("`source.principal` is not what the other sources name")]
    Principal,
    /// XFCC's `By` does not name the proxy that asks: another one wrote the element.
    #[error("XFCC's `By` is not `destination.principal`")]
    By,
}

/// Why `source.principal` or XFCC's `URI` is no workload's SPIFFE ID although it begins like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is no SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
    /// It has no path: it names a trust domain (X509-SVID §5.2).
    #[error("the SPIFFE ID has no path")]
    NoPath,
    /// It has a control character.
    #[error("the principal has a control character")]
    Control,
}

/// Where the peer's evidence lies in a check; unread where PeerTrust does not list it.
pub(super) struct Presented<'r> {
    /// `source.principal`.
    pub(super) principal: &'r str,
    /// `source.certificate`.
    pub(super) certificate: &'r str,
    /// `x-forwarded-client-cert`.
    pub(super) xfcc: Single<'r>,
    /// `destination.principal`: the proxy that asks.
    pub(super) own: &'r str,
}

impl<'r> PeerEvidence<'r> {
    /// Reads what the listed sources say of the peer; `None` where all of them are absent.
    ///
    /// No chain and no validity is looked at, and nothing shows whether Envoy verified the certificate.
    pub(super) fn read(
        presented: &Presented<'r>,
        sources: PeerSources,
        certificates: &CertificateCache,
    ) -> Result<Option<Self>, EvidenceError> {
        let principal =
            Some(presented.principal).filter(|name| sources.principal && !name.is_empty());
        let text =
            Some(presented.certificate).filter(|text| sources.certificate && !text.is_empty());
        let element = if sources.xfcc { element(presented.xfcc)? } else { None };
        let listed = [
            (sources.principal, principal.is_some()),
            (sources.certificate, text.is_some()),
            (sources.xfcc, element.is_some()),
        ];
        let mut present =
            listed.into_iter().filter_map(|(listed, present)| listed.then_some(present));
        if present.clone().all(|present| !present) {
            return Ok(None);
        }
        if !present.all(|present| present) {
            return Err(PeerConflict::SomeAbsent.into());
        }
        let forwarded = text.map(|text| CertificateText::Percent(text.as_bytes()));
        let certificate = leaf(forwarded, element.as_ref(), certificates)?;
        if let Some(element) = &element {
            if !presented.own.is_empty()
                && !element.by.is_empty()
                && !element.by.contains(&presented.own)
            {
                return Err(PeerConflict::By.into());
            }
            if let Some(certificate) = &certificate {
                agree(element, certificate)?;
            }
        }
        let uri = element.as_ref().map_or(Uri::NotWritten, |element| element.uri);
        // A certificate that is no SVID names no workload, whatever else does.
        let named_by_certificate = certificate.as_ref().is_none_or(|leaf| leaf.spiffe().is_some());
        let name = match uri {
            Uri::Value(uri) => named_by_certificate.then_some(uri),
            // A principal alone: Envoy also puts DNS names and subjects there.
            Uri::NotWritten | Uri::Absent => {
                principal.filter(|_| certificate.is_none() && element.is_none())
            }
        };
        let spiffe = name.map_or(Ok(None), workload)?;
        // Envoy's principal is the first URI SAN where there is one: another name says that there is none.
        let spiffe_untold = uri == Uri::NotWritten
            && element.is_some()
            && certificate.is_none()
            && principal.is_none_or(is_spiffe_like);
        if let Some(principal) = principal {
            agree_on_principal(principal, certificate.as_deref(), element.as_ref())?;
        }
        let hash = element.as_ref().and_then(|element| element.hash);
        Ok(Some(Self {
            spiffe,
            spiffe_untold,
            thumbprint: certificate.as_ref().map(|leaf| leaf.thumbprint()).or(hash),
            dns: element.map(|element| element.dns).unwrap_or_default(),
            certificate,
        }))
    }

    /// Returns the SPIFFE ID: from the certificate's or XFCC's only URI SAN; from `source.principal` alone
    /// only where that alone is listed. `None` where the certificate is no X.509-SVID leaf.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId<'_>> {
        self.spiffe.or_else(|| self.certificate.as_ref().and_then(|leaf| leaf.spiffe()))
    }

    /// Returns the DNS SANs: the certificate's where there is one, else XFCC's.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        let leaf = self.certificate.iter().flat_map(|leaf| leaf.dns()).map(String::as_str);
        let written = if self.certificate.is_some() { &[][..] } else { self.dns.as_slice() };
        leaf.chain(written.iter().copied())
    }
}

fn element(header: Single<'_>) -> Result<Option<Element<'_>>, XfccError> {
    match header {
        Single::Absent | Single::One(b"") => Ok(None),
        Single::One(value) => xfcc::last(value),
        Single::Several => Err(XfccError::Several),
    }
}

fn leaf(
    forwarded: Option<CertificateText<'_>>,
    element: Option<&Element<'_>>,
    certificates: &CertificateCache,
) -> Result<Option<Arc<Certificate>>, EvidenceError> {
    let written = element.and_then(|element| element.certificate);
    let read = |text| certificates.read(text).map_err(EvidenceError::Certificate);
    match (forwarded, written) {
        (None, None) => Ok(None),
        (Some(text), None) | (None, Some(text)) => read(text).map(Some),
        (Some(one), Some(other)) if one == other => read(one).map(Some),
        (Some(one), Some(other)) => {
            let (one, other) = (read(one)?, read(other)?);
            if one.thumbprint() != other.thumbprint() {
                return Err(PeerConflict::Certificate.into());
            }
            Ok(Some(one))
        }
    }
}

/// What XFCC writes of a certificate is what the certificate says.
fn agree(element: &Element<'_>, certificate: &Certificate) -> Result<(), PeerConflict> {
    if element.hash.is_some_and(|hash| hash != certificate.thumbprint()) {
        return Err(PeerConflict::Hash);
    }
    let same_uri = match (element.uri, certificate.uris()) {
        (Uri::NotWritten, _) | (Uri::Absent, []) => true,
        (Uri::Value(written), [uri]) => written == &**uri,
        (Uri::Absent | Uri::Value(_), _) => false,
    };
    if !same_uri {
        return Err(PeerConflict::Uri);
    }
    let same_dns = element.dns.is_empty() || element.dns.iter().eq(certificate.dns().iter());
    if same_dns { Ok(()) } else { Err(PeerConflict::Dns) }
}

/// Envoy's principal is the first URI SAN, else the first DNS SAN, else the subject, of which the last is
/// not compared: it names no workload.
fn agree_on_principal(
    principal: &str,
    certificate: Option<&Certificate>,
    element: Option<&Element<'_>>,
) -> Result<(), PeerConflict> {
    let (uri, dns, has_no_uri) = match (certificate, element) {
        (Some(leaf), _) => {
            (leaf.uris().first().map(|uri| &**uri), leaf.dns().first().map(String::as_str), true)
        }
        (None, Some(element)) => match element.uri {
            Uri::Value(uri) => (Some(uri), None, false),
            Uri::Absent => (None, element.dns.first().copied(), true),
            Uri::NotWritten => (None, None, false),
        },
        (None, None) => return Ok(()),
    };
    let same = match uri.or(dns) {
        Some(name) => principal == name,
        None => !(has_no_uri && is_spiffe_like(principal)),
    };
    if same { Ok(()) } else { Err(PeerConflict::Principal) }
}

/// Reads a name that may be a workload's SPIFFE ID. Another URI, a DNS name or a subject is none; what
/// begins like one must be one.
fn workload(name: &str) -> Result<Option<SpiffeId<'_>>, NameError> {
    if name.bytes().any(|b| b.is_ascii_control()) {
        return Err(NameError::Control);
    }
    if !is_spiffe_like(name) {
        return Ok(None);
    }
    let id = SpiffeId::parse(name)?;
    if id.path().is_empty() { Err(NameError::NoPath) } else { Ok(Some(id)) }
}

fn is_spiffe_like(name: &str) -> bool {
    name.as_bytes()
        .split_first_chunk()
        .is_some_and(|(scheme, _): (&[u8; 7], _)| scheme.eq_ignore_ascii_case(b"spiffe:"))
}

#[cfg(test)]
mod tests;
