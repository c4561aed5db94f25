//! Certificates as forwarded (percent-encoded or plain PEM), parsed once and cached under bounds.

mod pem;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, sync::Cache};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    time::ASN1Time,
};

use crate::{
    clock::UnixTime,
    identity::{OwnedSpiffeId, SpiffeId, SpiffeIdError, Thumbprint},
};

/// A parsed leaf certificate. Its chain is *not* verified here, nor is its signature.
#[derive(Debug)]
pub struct Certificate {
    thumbprint: Thumbprint,
    /// The only URI SAN, where the certificate is an X.509-SVID leaf.
    spiffe: Option<OwnedSpiffeId>,
    uris: Vec<Box<str>>,
    dns: Vec<String>,
    not_before: UnixTime,
    not_after: UnixTime,
    svid_error: Option<SvidError>,
}

/// The longest certificate text that is read. SVIDs take 1 to 3 KiB percent-encoded; this leaves room for
/// RSA-4096 with many names.
pub const MAX_TEXT_BYTES: usize = 32 * 1024;

/// Why a certificate cannot be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("the certificate's text is over {MAX_TEXT_BYTES} bytes")]
    TooLong,
    /// A `%` or a backslash starts no valid escape.
    #[error("the certificate's text has an invalid escape")]
    Escape,
    /// It is not exactly one PEM block labelled `CERTIFICATE` (RFC 7468 §5).
    #[error("the certificate is not exactly one PEM block")]
    Pem,
    /// It is not DER of one certificate, or an extension of it cannot be read.
    #[error("the certificate is not well-formed DER")]
    Der,
    /// Bytes follow the certificate.
    #[error("bytes follow the certificate")]
    TrailingBytes,
    /// An extension comes twice (RFC 5280 §4.2).
    #[error("an extension comes twice")]
    DuplicateExtension,
}

/// Why a well-formed certificate is no X.509-SVID leaf. Its thumbprint may still bind a token: binding
/// rests on the key's possession (RFC 8705 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// It has no URI SAN: it does not claim to be one (X509-SVID §2).
    #[error("the certificate has no URI SAN")]
    NoUri,
    /// It has more than one URI SAN, of whatever scheme (X509-SVID §2).
    #[error("the certificate has more than one URI SAN")]
    SeveralUris,
    /// Its URI SAN is no SPIFFE ID.
    #[error("the URI SAN is no SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// Its SPIFFE ID has no path: it names a trust domain, not a workload (X509-SVID §5.2).
    #[error("the SPIFFE ID has no path")]
    NoPath,
    /// It is a CA's (X509-SVID §5.2).
    #[error("the certificate is a CA's")]
    Authority,
    /// Its key usage is missing, lacks digitalSignature (X509-SVID §4.3), or has keyCertSign or cRLSign
    /// (§5.2). That the extension is critical is not asked: validators are not told to, and real ones differ.
    #[error("the key usage is not a leaf's")]
    KeyUsage,
    /// It has an extended key usage without clientAuth (X509-SVID §4.4).
    #[error("the extended key usage does not include client authentication")]
    ExtendedKeyUsage,
    /// It has a critical extension that is not understood (RFC 5280 §4.2).
    #[error("a critical extension is not understood")]
    CriticalExtension,
}

impl Certificate {
    /// Parses DER.
    ///
    /// # Errors
    /// [`CertificateError::Der`], [`CertificateError::TrailingBytes`] or
    /// [`CertificateError::DuplicateExtension`]. What is well-formed and no SVID is no error, see
    /// [`Certificate::svid_error`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_error| CertificateError::Der)?;
        if !rest.is_empty() {
            return Err(CertificateError::TrailingBytes);
        }
        let contents = Contents::read(&certificate)?;
        let validity = certificate.validity();
        let svid_error = contents.svid_error();
        let spiffe = match (svid_error, contents.uris.as_slice()) {
            (None, [uri]) => SpiffeId::parse(uri).ok().map(OwnedSpiffeId::from),
            _ => None,
        };
        Ok(Self {
            thumbprint: Thumbprint::of(der),
            spiffe,
            not_before: unix_time(validity.not_before),
            not_after: unix_time(validity.not_after),
            svid_error,
            uris: contents.uris,
            dns: contents.dns,
        })
    }

    /// Returns the SHA-256 of the DER encoding (RFC 8705 §3.1).
    #[must_use]
    pub const fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// Returns the SPIFFE ID of an X.509-SVID leaf (X509-SVID §2–§5), `None` where the certificate is none.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId<'_>> {
        self.spiffe.as_ref().map(OwnedSpiffeId::as_id)
    }

    /// Returns why the certificate is no X.509-SVID leaf, `None` where it is one.
    #[must_use]
    pub const fn svid_error(&self) -> Option<SvidError> {
        self.svid_error
    }

    /// Returns the URI SANs as they are: not an identity, see [`Certificate::spiffe`].
    #[must_use]
    pub fn uris(&self) -> &[Box<str>] {
        &self.uris
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

    /// Returns whether the certificate is not valid yet at `now`.
    #[must_use]
    pub const fn is_not_yet_valid(&self, now: UnixTime) -> bool {
        now.as_secs() < self.not_before.as_secs()
    }

    /// Returns whether the certificate is no longer valid at `now`; in its last second it still is.
    #[must_use]
    pub const fn has_expired(&self, now: UnixTime) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }
}

/// What the extensions say.
#[derive(Default)]
struct Contents {
    uris: Vec<Box<str>>,
    dns: Vec<String>,
    has_key_usage: bool,
    /// The first fault of an extension.
    fault: Option<SvidError>,
}

impl Contents {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an extension that the parser learns to read is judged like one it cannot read"
    )]
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        certificate.extensions_map().map_err(|_error| CertificateError::DuplicateExtension)?;
        let mut contents = Self::default();
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } => return Err(CertificateError::Der),
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        contents.take(name)?;
                    }
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    contents.fault_if(constraints.ca, SvidError::Authority);
                }
                ParsedExtension::KeyUsage(usage) => {
                    contents.has_key_usage = true;
                    let is_leaf =
                        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign();
                    contents.fault_if(!is_leaf, SvidError::KeyUsage);
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    let not_for_clients = !usage.client_auth && !usage.any;
                    contents.fault_if(not_for_clients, SvidError::ExtendedKeyUsage);
                }
                // Nothing of these is looked at here, so that a critical one cannot be honoured.
                _ => contents.fault_if(extension.critical, SvidError::CriticalExtension),
            }
        }
        Ok(contents)
    }

    fn take(&mut self, name: &GeneralName<'_>) -> Result<(), CertificateError> {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).into()),
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::Invalid(..) => return Err(CertificateError::Der),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
        Ok(())
    }

    const fn fault_if(&mut self, is_fault: bool, error: SvidError) {
        if is_fault && self.fault.is_none() {
            self.fault = Some(error);
        }
    }

    fn svid_error(&self) -> Option<SvidError> {
        let uri = match self.uris.as_slice() {
            [] => return Some(SvidError::NoUri),
            [uri] => uri,
            _ => return Some(SvidError::SeveralUris),
        };
        match SpiffeId::parse(uri) {
            Err(error) => Some(SvidError::SpiffeId(error)),
            Ok(id) if id.path().is_empty() => Some(SvidError::NoPath),
            Ok(_) if !self.has_key_usage => Some(SvidError::KeyUsage),
            Ok(_) => self.fault,
        }
    }
}

/// A time before 1970 counts as 1970: such a certificate has expired either way.
fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::new(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default()))
}

/// A certificate as it was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateText<'r> {
    /// Percent-encoded PEM, as in `source.certificate` and XFCC's TEXT format.
    Percent(&'r [u8]),
    /// The inside of a JSON string that holds PEM, as in XFCC's JSON format.
    Json(&'r [u8]),
}

impl<'r> CertificateText<'r> {
    const fn bytes(self) -> &'r [u8] {
        match self {
            Self::Percent(text) | Self::Json(text) => text,
        }
    }
}

/// Parsed certificates by their forwarded text. Bounded; holds no verdict: whether one is valid now and
/// whom it names is looked at on every check.
#[derive(Debug)]
pub struct CertificateCache {
    /// INVARIANT (one text, one certificate): both encodings of [`CertificateText`] may share a key, since
    /// PEM has neither `%` nor a backslash: a text that can be decoded in both ways has no escapes at all.
    entries: Cache<Box<[u8]>, Arc<Certificate>, PerPage>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Weighs an entry by its started 4 KiB, so that the capacity bounds the memory, too.
#[derive(Clone, Copy, Debug)]
struct PerPage;

impl Weighter<Box<[u8]>, Arc<Certificate>> for PerPage {
    fn weight(&self, text: &Box<[u8]>, _: &Arc<Certificate>) -> u64 {
        u64::try_from(text.len() / 4096).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl CertificateCache {
    /// Creates a cache for `capacity` certificates of up to 4 KiB of text; a longer one counts for more.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        Self {
            entries: Cache::with_weighter(capacity, weight, PerPage),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Returns the certificate of a forwarded text, parsing it if it is not at hand. Only well-formed ones
    /// are kept, each with a copy of its text, which is compared whole.
    ///
    /// # Errors
    /// As [`CertificateError`] says.
    pub fn read(&self, text: CertificateText<'_>) -> Result<Arc<Certificate>, CertificateError> {
        let key = text.bytes();
        if key.len() > MAX_TEXT_BYTES {
            return Err(CertificateError::TooLong);
        }
        if let Some(certificate) = self.entries.get(key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(certificate);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let certificate = Arc::new(Certificate::parse(&pem::decode(text)?)?);
        self.entries.insert(key.into(), Arc::clone(&certificate));
        Ok(certificate)
    }

    /// Returns how many certificates are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns how often a certificate was at hand.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Returns how often a certificate had to be parsed.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
