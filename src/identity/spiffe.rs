//! SPIFFE IDs, parsed strictly (SPIFFE-ID §2).

use std::fmt;

/// A valid SPIFFE ID, borrowed from where it was read.
///
/// Invariant: `text` satisfies the grammar of SPIFFE-ID §2 and is at most [`MAX_BYTES`] long; scheme and
/// trust domain are in lower case as §2.1 writes them (an upper-case form is refused, never folded, so
/// that bundle look-up, policy and record see one form).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId<'a> {
    text: &'a str,
    /// Where the path starts: at its `/`, or at the end of the text.
    path_at: usize,
}

/// SPIFFE-ID §2.3 asks for support of 2048 bytes; nothing longer is needed.
pub const MAX_BYTES: usize = 2048;

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It does not start with `spiffe://`.
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long or has a character outside `[a-z0-9._-]`.
    #[error("the trust domain is 1 to 255 characters of a-z, 0-9, `.`, `_` and `-`")]
    TrustDomain,
    /// A path segment is empty, `.`, `..` or has a character outside `[a-zA-Z0-9._-]`.
    #[error(
        "each path segment is one or more of a-z, A-Z, 0-9, `.`, `_` and `-`, and not `.` or `..`"
    )]
    Path,
    /// It is longer than [`MAX_BYTES`].
    #[error("a SPIFFE ID is at most {MAX_BYTES} bytes")]
    TooLong,
}

impl<'a> SpiffeId<'a> {
    /// Parses a SPIFFE ID.
    ///
    /// # Errors
    /// As [`SpiffeIdError`] says.
    pub fn parse(text: &'a str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match rest.split_once('/') {
            Some((trust_domain, path)) => (trust_domain, Some(path)),
            None => (rest, None),
        };
        if trust_domain.is_empty()
            || trust_domain.len() > 255
            || !trust_domain
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        {
            return Err(SpiffeIdError::TrustDomain);
        }
        if let Some(path) = path
            && !path.split('/').all(is_segment)
        {
            return Err(SpiffeIdError::Path);
        }
        let path_at = text.len().saturating_sub(path.map_or(0, |p| p.len().saturating_add(1)));
        Ok(Self { text, path_at })
    }

    /// Returns the whole ID.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.text
    }

    /// Returns the trust domain, without the scheme.
    #[must_use]
    pub fn trust_domain(self) -> &'a str {
        self.text.get("spiffe://".len()..self.path_at).unwrap_or_default()
    }

    /// Returns the path with its leading `/`, or an empty string.
    #[must_use]
    pub fn path(self) -> &'a str {
        self.text.get(self.path_at..).unwrap_or_default()
    }
}

impl fmt::Debug for SpiffeId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text, f)
    }
}

impl fmt::Display for SpiffeId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// Says whether `segment` is a path segment of a SPIFFE ID (SPIFFE-ID §2.2).
#[must_use]
pub fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}
