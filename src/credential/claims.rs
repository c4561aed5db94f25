//! The claims of an access token (RFC 9068 §2.2), read strictly.

use std::sync::Arc;

use crate::{clock::UnixTime, identity::Thumbprint};

/// The claims of a token whose signature, type and issuer were verified. What depends on the time or the
/// call (expiry, audience, binding) is looked at on every check.
#[derive(Debug)]
pub struct AccessToken {
    /// `metadata.name` of the Issuer that verified it.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Option<String>,
    /// `client_id`.
    pub client_id: Option<String>,
    /// `jti`.
    pub id: Option<String>,
    /// `aud`.
    pub audiences: Vec<String>,
    /// The scopes held, sorted, without duplicates.
    pub scopes: Vec<String>,
    /// `exp`.
    pub expires: UnixTime,
    /// `nbf`.
    pub not_before: Option<UnixTime>,
    /// `iat`.
    pub issued: Option<UnixTime>,
    /// `cnf`.
    pub confirmation: Confirmation,
    /// All claims, for templates and conditions.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// The confirmation of a token (RFC 7800), as far as it is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// `x5t#S256`.
    pub certificate: Option<Thumbprint>,
    /// `jkt`.
    pub key: Option<Thumbprint>,
}
