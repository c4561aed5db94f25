//! Certificates as forwarded (percent-encoded or plain PEM), parsed once and cached under bounds.

use std::sync::Arc;

use crate::{
    clock::UnixTime,
    identity::{SpiffeId, Thumbprint},
};

/// A parsed leaf certificate. Its chain is *not* verified here.
#[derive(Debug)]
pub struct Certificate {
    thumbprint: Thumbprint,
    /// The only URI SAN, where it is a SPIFFE ID.
    spiffe: Option<Box<str>>,
    dns: Vec<String>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Certificate {
    /// Returns the SHA-256 of the DER encoding (RFC 8705 §3.1).
    #[must_use]
    pub const fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// Returns the SPIFFE ID of an X.509-SVID leaf (X509-SVID §2–§5), `None` where the certificate is none.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId<'_>> {
        self.spiffe.as_deref().and_then(|id| SpiffeId::parse(id).ok())
    }

    /// Returns the DNS SANs.
    #[must_use]
    pub fn dns(&self) -> &[String] {
        &self.dns
    }

    /// Returns the first and the last second of validity, both inclusive (RFC 5280 §4.1.2.5).
    #[must_use]
    pub const fn validity(&self) -> (UnixTime, UnixTime) {
        (self.not_before, self.not_after)
    }
}

/// Parsed certificates by their forwarded text. Bounded; holds no verdict.
#[derive(Debug)]
pub struct CertificateCache {
    _entries: Option<Arc<Certificate>>,
}
