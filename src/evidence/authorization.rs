//! The credentials a request presents: `authorization` and `dpop`.

use crate::{evidence::http::is_token_character, reason::Reason};

/// The access token presented, and how. Has no `Debug` that would show it.
#[derive(Clone, Copy)]
pub enum Credentials<'r> {
    /// No Bearer or DPoP credential. Other schemes (Basic) count as absent.
    Absent,
    /// What was presented cannot be one credential (two values, two schemes, in the query, bad syntax).
    Unusable(Reason),
    /// One token.
    Token {
        /// The scheme it came with.
        scheme: Scheme,
        /// The token: visible ASCII without comma, not empty, within the size limit.
        token: &'r str,
    },
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Unusable(reason) => write!(f, "Unusable({reason})"),
            Self::Token { scheme, .. } => write!(f, "Token({scheme:?}, [redacted])"),
        }
    }
}

/// What the `dpop` header presents (RFC 9449 §4.1), or another that holds one JWS. Has no `Debug` that would
/// show it.
#[derive(Clone, Copy, Default)]
pub enum PresentedProof<'r> {
    /// There is none.
    #[default]
    Absent,
    /// One, unread.
    One(&'r str),
    /// More than one: several headers, or a comma, with which Envoy joins them.
    Several,
    /// No text that could be a proof: empty, longer than a token may be, or with other characters than
    /// base64url and dots.
    Unreadable,
}

impl std::fmt::Debug for PresentedProof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::One(_) => "One([redacted])",
            Self::Several => "Several",
            Self::Unreadable => "Unreadable",
        })
    }
}

impl<'r> PresentedProof<'r> {
    /// Reads the value of one such header. Nothing of it is decoded or verified.
    #[must_use]
    pub fn read(value: &'r [u8]) -> Self {
        if value.contains(&b',') {
            return Self::Several;
        }
        let is_proof = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        match str::from_utf8(value) {
            Ok(text)
                if (1..=MAX_TOKEN_BYTES).contains(&text.len()) && value.iter().all(is_proof) =>
            {
                Self::One(text)
            }
            Ok(_) | Err(_) => Self::Unreadable,
        }
    }
}

/// An authentication scheme for access tokens, compared without regard to case (RFC 9110 §11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449 §7.1.
    Dpop,
}

/// The longest token that is read: real ones with many claims stay under 8 KiB, and Envoy's own limit for
/// all headers is 60 KiB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

impl<'r> Credentials<'r> {
    /// Reads the value of one `authorization` header (RFC 9110 §11.4, RFC 6750 §2.1).
    ///
    /// A comma is two values: Envoy joins repeated headers with one, and neither a token nor Basic has any.
    /// The token is not decoded here, and nothing of it is verified.
    #[must_use]
    pub fn read(value: &'r [u8]) -> Self {
        if value.contains(&b',') {
            return Self::Unusable(Reason::CredentialsAmbiguous);
        }
        // Branch-free, so that it is vectorized: a token is the longest text that every check looks through.
        if value.iter().fold(false, |found, b| found | b.is_ascii_control()) {
            return Self::Unusable(Reason::TokenMalformed);
        }
        // `!` is no part of a name here: Envoy writes it in place of a byte that is not UTF-8, and both
        // header encodings are to be read alike.
        let end = value.iter().position(|b| !is_name(*b)).unwrap_or(value.len());
        let Some((name, rest)) = value.split_at_checked(end) else { return Self::Absent };
        let scheme = if name.eq_ignore_ascii_case(b"bearer") {
            Scheme::Bearer
        } else if name.eq_ignore_ascii_case(b"dpop") {
            Scheme::Dpop
        } else if name.is_empty() && !rest.is_empty() {
            // White space or worse before a scheme: a server that trims it reads another value.
            return Self::Unusable(Reason::TokenMalformed);
        } else {
            return Self::Absent;
        };
        let token = rest.trim_ascii_start();
        if token.len() == rest.len() {
            return Self::Unusable(Reason::TokenMalformed);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Self::Unusable(Reason::TokenTooLarge);
        }
        if token.trim_ascii_end().contains(&b' ') {
            return Self::Unusable(Reason::CredentialsAmbiguous);
        }
        match str::from_utf8(token) {
            Ok(text) if is_token68(token) => Self::Token { scheme, token: text },
            _ => Self::Unusable(Reason::TokenMalformed),
        }
    }

    /// Returns these credentials beside a token in the query: that is a second method where one token is
    /// here already (RFC 6750 §2), and no token that could be used where none is.
    #[must_use]
    pub const fn beside_query_token(self) -> Self {
        match self {
            Self::Absent => Self::Unusable(Reason::TokenInQuery),
            Self::Token { .. } | Self::Unusable(_) => Self::Unusable(Reason::CredentialsAmbiguous),
        }
    }
}

/// A character of a scheme's name (RFC 9110 §5.6.2 `token`), without `!`.
const fn is_name(byte: u8) -> bool {
    byte != b'!' && is_token_character(byte)
}

/// RFC 6750 §2.1 `b64token`: one or more characters, then padding.
fn is_token68(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|b| **b == b'=').count();
    let Some(body) = token.get(..token.len().saturating_sub(padding)) else { return false };
    !body.is_empty() && body.iter().fold(true, |all, b| all & is_token68_character(*b))
}

#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches, so that the fold over a whole token is vectorized"
)]
const fn is_token68_character(byte: u8) -> bool {
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let is_digit = byte.wrapping_sub(b'0') < 10;
    let is_mark = (byte == b'-') | (byte == b'.') | (byte == b'_') | (byte == b'~');
    is_letter | is_digit | is_mark | (byte == b'+') | (byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> String {
        format!("{:?}", Credentials::read(value.as_bytes()))
    }

    fn unusable(reason: Reason) -> String {
        format!("Unusable({reason})")
    }

    #[test]
    fn the_scheme_is_compared_without_regard_to_case() {
        for (value, scheme) in [
            ("Bearer abc", "Bearer"),
            ("bearer abc", "Bearer"),
            ("BEARER   abc", "Bearer"),
            ("DPoP abc", "Dpop"),
            ("dpop abc==", "Dpop"),
        ] {
            assert_eq!(read(value), format!("Token({scheme}, [redacted])"), "{value}");
        }
    }

    #[test]
    fn the_token_is_what_follows_the_scheme() {
        let Credentials::Token { token, .. } = Credentials::read(b"Bearer  a.b-c_d~e+f/g==") else {
            panic!("a token")
        };
        assert_eq!(token, "a.b-c_d~e+f/g==");
    }

    #[test]
    fn other_schemes_count_as_absent() {
        for value in ["", "Basic dTpw", "Negotiate", "Bearerx abc", "Bearer-x abc", "xDPoP a"] {
            assert_eq!(read(value), "Absent", "{value}");
        }
    }

    #[test]
    fn two_credentials_in_one_value_are_ambiguous() {
        for value in [
            "Bearer a,Bearer b",
            "Bearer a,DPoP b",
            "Basic x,Bearer y",
            "Basic x, Bearer y",
            "Bearer a,",
            ",Bearer a",
            ",",
            "Bearer a DPoP b",
            "Bearer a b",
        ] {
            assert_eq!(read(value), unusable(Reason::CredentialsAmbiguous), "{value}");
        }
    }

    #[test]
    fn a_bad_token_is_malformed() {
        for value in [
            "Bearer",
            "Bearer ",
            "bearer  ",
            "Bearer a ",
            " Bearer a",
            "Bearer\ta",
            "Bearer \ta",
            "Bearer:a",
            "Bearer! a",
            "Bearer a!",
            "Bearer a\"",
            "Bearer ü",
            "Bearer =",
            "Bearer a=b",
            "Basic \0",
            "\u{7f}",
            "Bearer a\u{a0}",
        ] {
            assert_eq!(read(value), unusable(Reason::TokenMalformed), "{value:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_read_like_their_replacement() {
        for value in
            [&b"Bearer\xff a"[..], b"Bearer a\xff", b"\xffBearer a", b"Bea\xffrer a", b"Basic \xff"]
        {
            let replaced: Vec<u8> =
                value.iter().map(|b| if b.is_ascii() { *b } else { b'!' }).collect();
            assert_eq!(
                format!("{:?}", Credentials::read(value)),
                format!("{:?}", Credentials::read(&replaced)),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_token_over_the_limit_is_too_large() {
        let longest = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES));
        assert_eq!(read(&longest), "Token(Bearer, [redacted])");
        assert_eq!(read(&format!("{longest}a")), unusable(Reason::TokenTooLarge));
    }

    #[test]
    fn a_token_in_the_query_is_never_used() {
        let beside = |value: &[u8]| format!("{:?}", Credentials::read(value).beside_query_token());
        assert_eq!(beside(b""), unusable(Reason::TokenInQuery));
        assert_eq!(beside(b"Basic x"), unusable(Reason::TokenInQuery));
        assert_eq!(beside(b"Bearer x"), unusable(Reason::CredentialsAmbiguous));
    }

    #[test]
    fn a_token_has_the_characters_of_rfc_6750_and_no_others() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_token68_character(byte), expected, "{byte:#x}");
        }
    }

    #[test]
    fn the_token_is_not_shown_in_debug_output() {
        assert!(!read("Bearer secret").contains("secret"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(value: Vec<u8>) {
            let _credentials = Credentials::read(&value);
        }
    }
}
