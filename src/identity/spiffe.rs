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

/// A valid SPIFFE ID that owns its text, for what is kept: parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSpiffeId {
    text: Box<str>,
    path_at: usize,
}

impl OwnedSpiffeId {
    /// Returns the ID.
    #[must_use]
    pub fn as_id(&self) -> SpiffeId<'_> {
        SpiffeId { text: &self.text, path_at: self.path_at }
    }
}

impl From<SpiffeId<'_>> for OwnedSpiffeId {
    fn from(id: SpiffeId<'_>) -> Self {
        Self { text: id.text.into(), path_at: id.path_at }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_grammar_allows_is_accepted() {
        for (text, trust_domain, path) in [
            ("spiffe://td", "td", ""),
            ("spiffe://td/a", "td", "/a"),
            ("spiffe://prod.example/ns/payments/sa/api", "prod.example", "/ns/payments/sa/api"),
            ("spiffe://127.0.0.1/a", "127.0.0.1", "/a"),
            ("spiffe://a..b/a", "a..b", "/a"),
            ("spiffe://.td./a", ".td.", "/a"),
            ("spiffe://-td-/a", "-td-", "/a"),
            ("spiffe://t_d/a", "t_d", "/a"),
            ("spiffe://td/.../.x/x..", "td", "/.../.x/x.."),
            ("spiffe://td/A-Z_0.9", "td", "/A-Z_0.9"),
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.as_str(), id.trust_domain(), id.path()), (text, trust_domain, path));
        }
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        for (text, error) in [
            ("", SpiffeIdError::Scheme),
            ("spiffe:/td/a", SpiffeIdError::Scheme),
            ("SPIFFE://td/a", SpiffeIdError::Scheme),
            ("https://td/a", SpiffeIdError::Scheme),
            (" spiffe://td/a", SpiffeIdError::Scheme),
            ("spiffe://", SpiffeIdError::TrustDomain),
            ("spiffe:///a", SpiffeIdError::TrustDomain),
            ("spiffe://TD/a", SpiffeIdError::TrustDomain),
            ("spiffe://td:80/a", SpiffeIdError::TrustDomain),
            ("spiffe://td:/a", SpiffeIdError::TrustDomain),
            ("spiffe://user@td/a", SpiffeIdError::TrustDomain),
            ("spiffe://@td/a", SpiffeIdError::TrustDomain),
            ("spiffe://t%64/a", SpiffeIdError::TrustDomain),
            ("spiffe://tü/a", SpiffeIdError::TrustDomain),
            ("spiffe://td?x", SpiffeIdError::TrustDomain),
            ("spiffe://td#x", SpiffeIdError::TrustDomain),
            ("spiffe://td\0", SpiffeIdError::TrustDomain),
            ("spiffe://td ", SpiffeIdError::TrustDomain),
            ("spiffe://td/", SpiffeIdError::Path),
            ("spiffe://td/a/", SpiffeIdError::Path),
            ("spiffe://td//a", SpiffeIdError::Path),
            ("spiffe://td/.", SpiffeIdError::Path),
            ("spiffe://td/a/../b", SpiffeIdError::Path),
            ("spiffe://td/a?x", SpiffeIdError::Path),
            ("spiffe://td/a#x", SpiffeIdError::Path),
            ("spiffe://td/a%62", SpiffeIdError::Path),
            ("spiffe://td/a b", SpiffeIdError::Path),
            ("spiffe://td/a;URI=b", SpiffeIdError::Path),
            ("spiffe://td/a,b", SpiffeIdError::Path),
            ("spiffe://td/a\r\n", SpiffeIdError::Path),
            ("spiffe://td/a\0", SpiffeIdError::Path),
            ("spiffe://td/ä", SpiffeIdError::Path),
            ("spiffe://td/a!", SpiffeIdError::Path),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn every_byte_is_judged_as_the_grammar_says() {
        for byte in 0..=0x7f_u8 {
            let c = char::from(byte);
            let in_domain = matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
            let domain = SpiffeId::parse(&format!("spiffe://t{c}d")).is_ok();
            assert_eq!(domain, in_domain || c == '/', "{c:?}");
            let path = SpiffeId::parse(&format!("spiffe://td/a{c}b")).is_ok();
            assert_eq!(path, in_domain || c.is_ascii_uppercase() || c == '/', "{c:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let id = |length: usize| format!("spiffe://td/{}", "a".repeat(length - 12));
        assert!(SpiffeId::parse(&id(MAX_BYTES)).is_ok());
        assert_eq!(SpiffeId::parse(&id(MAX_BYTES + 1)), Err(SpiffeIdError::TooLong));
        assert!(SpiffeId::parse(&format!("spiffe://{}/a", "a".repeat(255))).is_ok());
        let long = format!("spiffe://{}/a", "a".repeat(256));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeIdError::TrustDomain));
    }

    proptest! {
        #[test]
        fn a_parsed_id_is_its_parts(text in "spiffe://[a-zA-Z0-9./:@%_-]{0,40}|.*") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
