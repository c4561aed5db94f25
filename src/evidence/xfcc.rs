//! `x-forwarded-client-cert`, both formats, strictly.
//!
//! Only the right-most element is read: in the modes that PeerTrust's `xfcc` stands for, the asking Envoy
//! wrote that one, and the client may have written all others. Those must split, and are not judged.
//! Envoy does not escape `By`, `URI` and `DNS`, so that a certificate with `,` or `;` in a name can still
//! forge an element: the element is evidence beside `source.principal`, not instead of it.

mod json;
mod text;

use smallvec::SmallVec;

use crate::{evidence::certificate::CertificateText, identity::Thumbprint};

/// The longest header that is read: a leaf with its chain takes some 8 KiB percent-encoded.
pub const MAX_BYTES: usize = 32 * 1024;
/// One element for each proxy on the way; no real path has this many.
pub const MAX_ELEMENTS: usize = 16;

/// Why the header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XfccError {
    /// The header comes twice. Envoy joins its lines before it asks.
    #[error("the header comes more than once")]
    Several,
    /// It is longer than [`MAX_BYTES`].
    #[error("the header is over {MAX_BYTES} bytes")]
    TooLong,
    /// It has more than [`MAX_ELEMENTS`] elements.
    #[error("the header has more than {MAX_ELEMENTS} elements")]
    TooManyElements,
    /// It has a control character.
    #[error("the header has a control character")]
    Control,
    /// It cannot be split into elements.
    #[error("the header cannot be split into elements")]
    Syntax,
    /// A key of the element used is not known.
    #[error("a key of the element is not known")]
    UnknownKey,
    /// A key of the element used comes twice that may come once.
    #[error("a key of the element comes twice")]
    DuplicateKey,
    /// A value of the element used is not what its key asks for.
    #[error("a value of the element is not what its key asks for")]
    Value,
    /// The element used names a certificate's names without its hash or URI.
    #[error("the element describes a certificate without its hash or URI")]
    Incomplete,
}

/// The element used.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element<'r> {
    /// The URI SANs of the certificate of the proxy that wrote the element.
    pub by: SmallVec<[&'r str; 2]>,
    /// SHA-256 of the peer certificate's DER.
    pub hash: Option<Thumbprint>,
    /// The peer certificate.
    pub certificate: Option<CertificateText<'r>>,
    /// The only URI SAN of the peer certificate.
    pub uri: Uri<'r>,
    /// The DNS SANs of the peer certificate.
    pub dns: Vec<&'r str>,
    /// What is not read.
    unread: Unread,
}

/// Which keys were there that are not read; each may come once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unread {
    chain: Option<()>,
    subject: Option<()>,
    issuer: Option<()>,
}

/// What an element says of the peer's URI SAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uri<'r> {
    /// Nothing: Envoy was not told to write it.
    #[default]
    NotWritten,
    /// There is none.
    Absent,
    /// This one.
    Value(&'r str),
}

/// Returns the right-most element of the header's value; `None` where it names no peer (`By=…;URI=`, as a
/// waypoint writes for a caller without identity).
///
/// # Errors
/// As [`XfccError`] says.
pub fn last(header: &[u8]) -> Result<Option<Element<'_>>, XfccError> {
    if header.len() > MAX_BYTES {
        return Err(XfccError::TooLong);
    }
    // One branch-free pass that the compiler vectorizes: NUL, CR and LF of a SAN arrive here raw.
    if header.iter().fold(false, |found, b| found | b.is_ascii_control()) {
        return Err(XfccError::Control);
    }
    // Envoy's own test for the format it appends in. What passes it and is no JSON is refused: the client
    // chose the format, and no other reading is safe.
    let element = match header {
        [b'[', .., b']'] => json::last(header)?,
        _ => text::last(header)?,
    };
    if element.hash.is_some() || element.certificate.is_some() {
        return Ok(Some(element));
    }
    match element.uri {
        Uri::Value(_) => Ok(Some(element)),
        Uri::NotWritten | Uri::Absent
            if element.dns.is_empty() && element.unread == Unread::default() =>
        {
            Ok(None)
        }
        Uri::NotWritten | Uri::Absent => Err(XfccError::Incomplete),
    }
}

/// The keys Envoy writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    By,
    Hash,
    Cert,
    Chain,
    Subject,
    Uri,
    Dns,
    Issuer,
}

impl<'r> Element<'r> {
    /// Takes a value. One that decides is visible ASCII without quote and backslash; `!` is refused, too:
    /// Envoy writes it in place of a byte that is not UTF-8.
    fn take(&mut self, key: Key, value: &'r [u8], format: Format) -> Result<(), XfccError> {
        match key {
            Key::By => match plain(value)? {
                "" => {}
                by => self.by.push(by),
            },
            Key::Hash => {
                let hash = Thumbprint::from_hex(plain(value)?).ok_or(XfccError::Value)?;
                once(&mut self.hash, hash)?;
            }
            Key::Cert => {
                let text = match format {
                    Format::Text => CertificateText::Percent(value),
                    Format::Json => CertificateText::Json(value),
                };
                once(&mut self.certificate, text)?;
            }
            Key::Uri => {
                if self.uri != Uri::NotWritten {
                    return Err(XfccError::DuplicateKey);
                }
                self.uri = match plain(value)? {
                    "" => Uri::Absent,
                    uri => Uri::Value(uri),
                };
            }
            Key::Dns => match plain(value)? {
                "" => return Err(XfccError::Value),
                name => self.dns.push(name),
            },
            Key::Chain => once(&mut self.unread.chain, ())?,
            Key::Subject => once(&mut self.unread.subject, ())?,
            Key::Issuer => once(&mut self.unread.issuer, ())?,
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    Json,
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), XfccError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(XfccError::DuplicateKey),
    }
}

fn plain(value: &[u8]) -> Result<&str, XfccError> {
    let is_plain = |b: u8| matches!(b, b'#'..=b'[' | b']'..=b'~');
    match str::from_utf8(value) {
        // Without an early end, so that many bytes are looked at at once.
        Ok(text) if value.iter().fold(true, |plain, b| plain & is_plain(*b)) => Ok(text),
        Ok(_) | Err(_) => Err(XfccError::Value),
    }
}

#[cfg(test)]
mod tests;
