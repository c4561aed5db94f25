//! The HTTP request of a check.

use std::borrow::Cow;

use crate::evidence::{authorization::Credentials, path::Path};

/// The HTTP request that is asked about.
#[derive(Debug)]
pub struct HttpRequest<'r> {
    /// The method, as sent: methods are case-sensitive (RFC 9110 §9.1).
    pub method: &'r str,
    /// The canonical host: lower case, without port and trailing dot, not empty, one host only.
    pub host: Cow<'r, str>,
    /// The path, canonical, with the forms that make it ambiguous.
    pub path: Path<'r>,
    /// All headers, in the order they came.
    pub headers: Headers<'r>,
    /// The protocol of the `upgrade` header, in lower case.
    pub upgrade: Option<Cow<'r, str>>,
    /// Whether this is a CORS preflight: `OPTIONS` with `origin` and `access-control-request-method`.
    pub preflight: bool,
    /// Whether the content type is gRPC's.
    pub grpc: bool,
    /// The credentials presented.
    pub credentials: Credentials<'r>,
}

/// The headers of a request, without pseudo-headers.
#[derive(Debug, Default)]
pub struct Headers<'r> {
    /// Name in lower case, value as received.
    entries: Vec<(&'r str, &'r [u8])>,
}

impl<'r> Headers<'r> {
    /// Returns every header: its name in lower case and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'r str, &'r [u8])> {
        self.entries.iter().copied()
    }
}
