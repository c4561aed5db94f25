//! The bond between token and caller: `cnf` against the peer's certificate.

/// How a token is bound to this call. Every understood member of its `cnf` is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Binding {
    /// `x5t#S256` equals the thumbprint of the peer's certificate (RFC 8705 §3).
    pub certificate: bool,
    /// `jkt` equals the thumbprint of the key of a valid DPoP proof (RFC 9449 §6).
    pub dpop: bool,
}

impl Binding {
    /// Returns whether the token is not bound at all: a bearer token.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.certificate && !self.dpop
    }
}
