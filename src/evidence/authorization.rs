//! The credentials a request presents: `authorization` and `dpop`.

use crate::reason::Reason;

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

/// An authentication scheme for access tokens, compared without regard to case (RFC 9110 §11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449 §7.1.
    Dpop,
}
