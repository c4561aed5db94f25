//! Access tokens as compact JWS (RFC 7515 §7.1), taken apart strictly and verified with an issuer's keys
//! (RFC 8725, RFC 9068 §4).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{
    identity::SpiffeId,
    json::{self, Object},
    policy::document::{ABSENT_TYPE, IssuerDocument},
    reason::Reason,
    trust::jwks::{self, Algorithm, Found, Key, KeySet},
};

/// Access tokens are one to four kilobytes; a proxy's whole header block is 60 by default.
pub const MAX_BYTES: usize = 16 << 10;
/// A header names an algorithm, a type and a key.
pub const MAX_HEADER_BYTES: usize = 2 << 10;

/// Why a token is refused before its claims are looked at. Carries nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `alg` is missing, no text, `none`, symmetric, unknown or not in the issuer's list.
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    /// The header has `crit`, or `b64` or `zip`, which a signed JWT must not use.
    #[error("the token has a critical header parameter")]
    Critical,
    /// `iss` is not a text.
    #[error("the token's issuer is not a text")]
    IssuerInvalid,
    /// There is no `iss`.
    #[error("the token names no issuer")]
    IssuerMissing,
    /// No declared issuer has this `iss`.
    #[error("the token's issuer is not declared")]
    IssuerUnknown,
    /// No key of the issuer, or more than one, fits `kid` and `alg`.
    #[error("no key of the issuer fits the token")]
    KeyUnknown,
    /// The issuer has no keys that are fresh enough.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    /// It has not three parts of canonical base64url, with strict JSON objects in the first two.
    #[error("the token is not a well-formed compact JWS")]
    Malformed,
    /// The signature does not verify.
    #[error("the token's signature does not verify")]
    Signature,
    /// It is longer than [`MAX_BYTES`].
    #[error("the token is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// `typ` is missing, no text, or not one of the issuer's.
    #[error("the token is of another type")]
    Type,
}

impl From<TokenError> for Reason {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Algorithm => Self::TokenAlgorithm,
            TokenError::Critical => Self::TokenCritical,
            TokenError::IssuerInvalid => Self::TokenClaimInvalid,
            TokenError::IssuerMissing => Self::TokenClaimMissing,
            TokenError::IssuerUnknown => Self::TokenIssuerUnknown,
            TokenError::KeyUnknown => Self::TokenKeyUnknown,
            TokenError::KeysUnavailable => Self::IssuerKeysUnavailable,
            TokenError::Malformed => Self::TokenMalformed,
            TokenError::Signature => Self::TokenSignature,
            TokenError::TooLong => Self::TokenTooLarge,
            TokenError::Type => Self::TokenType,
        }
    }
}

/// A token taken apart. Nothing of it is believed until [`Jws::verify_signature`] returns the claims.
pub struct Jws<'t> {
    /// Header and payload as they were sent: what is signed.
    signed: &'t str,
    /// Canonical base64url.
    signature: &'t str,
    algorithm: Algorithm,
    typ: Typ,
    kid: Option<String>,
    payload: Object,
}

/// What `typ` is.
enum Typ {
    Absent,
    Text(String),
    /// No text.
    Other,
}

impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Says whether a token has the outer form of a compact JWS (RFC 7515 §7.1), which is three parts. What has
/// it is judged as one and never asked about as opaque, however malformed; a JWE has five.
#[must_use]
pub fn is_compact_jws(token: &str) -> bool {
    memchr::memchr_iter(b'.', token.as_bytes()).count() == 2
}

/// Takes a token apart: compact form only (RFC 8725 §2.13 of its revision tells what mixing forms does),
/// canonical base64url, so that one token has one spelling. Verifies nothing.
///
/// Of the header, `alg`, `typ`, `kid`, `crit`, `b64` and `zip` are read; `jku`, `jwk`, `x5u` and `x5c` are ignored,
/// as keys come from the issuer alone (RFC 8725 §3.8, §3.10).
///
/// # Errors
/// [`TokenError::TooLong`], [`TokenError::Malformed`], [`TokenError::Critical`] and, for an algorithm that no
/// issuer could allow, [`TokenError::Algorithm`].
pub fn parse(token: &str) -> Result<Jws<'_>, TokenError> {
    if token.len() > MAX_BYTES {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    // A third dot is in the payload, and no base64url.
    if header.len() > MAX_HEADER_BYTES || URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err(TokenError::Malformed);
    }
    let header = part(header)?;
    if has_critical(&header) {
        return Err(TokenError::Critical);
    }
    // RFC 8725 §3.1: exactly as registered; `nOnE` is no algorithm either.
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::parse)
        .ok_or(TokenError::Algorithm)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= jwks::MAX_KID_BYTES => Some(kid.clone()),
        Some(_) => return Err(TokenError::Malformed),
    };
    let typ = match header.get("typ") {
        None => Typ::Absent,
        Some(Value::String(typ)) => Typ::Text(typ.clone()),
        Some(_) => Typ::Other,
    };
    Ok(Jws { signed, signature, algorithm, typ, kid, payload: part(payload)? })
}

impl Jws<'_> {
    /// Returns `iss`, not yet believed: for choosing the issuer whose keys have the word.
    ///
    /// # Errors
    /// [`TokenError::IssuerMissing`] and [`TokenError::IssuerInvalid`].
    pub fn issuer(&self) -> Result<&str, TokenError> {
        let iss = self.payload.get("iss").ok_or(TokenError::IssuerMissing)?;
        iss.as_str().ok_or(TokenError::IssuerInvalid)
    }

    /// Returns the trust domain of `sub`, where that is a SPIFFE ID; not yet believed, as [`Jws::issuer`].
    #[must_use]
    pub fn trust_domain(&self) -> Option<&str> {
        let sub = self.payload.get("sub")?.as_str()?;
        SpiffeId::parse(sub).ok().map(SpiffeId::trust_domain)
    }

    /// Says whether algorithm and type are among the issuer's.
    ///
    /// # Errors
    /// [`TokenError::Algorithm`] and [`TokenError::Type`].
    pub fn check_header(&self, issuer: &IssuerDocument) -> Result<(), TokenError> {
        if !issuer.algorithms.contains(&self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        // RFC 9068 §4; RFC 7515 §4.1.9: a media type, without regard to case, `application/` left out.
        let typ = match &self.typ {
            Typ::Absent => ABSENT_TYPE,
            Typ::Other => return Err(TokenError::Type),
            Typ::Text(typ) => match typ.split_at_checked("application/".len()) {
                Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
                _ => typ,
            },
        };
        // The word for what is absent is nothing that a token says of itself.
        if matches!(self.typ, Typ::Text(_)) && typ.eq_ignore_ascii_case(ABSENT_TYPE) {
            return Err(TokenError::Type);
        }
        if issuer.types.iter().any(|allowed| allowed.eq_ignore_ascii_case(typ)) {
            Ok(())
        } else {
            Err(TokenError::Type)
        }
    }

    /// Says whether it has a `kid`.
    #[must_use]
    pub const fn names_key(&self) -> bool {
        self.kid.is_some()
    }

    /// Finds the key of `keys` for this token.
    #[must_use]
    pub fn find_key<'k>(&self, keys: &'k KeySet, issuer: &IssuerDocument) -> Found<'k> {
        keys.find(self.kid.as_deref(), self.algorithm, &issuer.algorithms)
    }

    /// Verifies the signature and returns the claims. Does *not* check any of them.
    ///
    /// # Errors
    /// [`TokenError::Signature`].
    pub fn verify_signature(self, key: &Key) -> Result<Object, TokenError> {
        if key.verifies(self.signed.as_bytes(), self.signature, self.algorithm) {
            Ok(self.payload)
        } else {
            Err(TokenError::Signature)
        }
    }
}

/// Says whether a header asks for what is not understood: `crit` (RFC 7515 §4.1.11), `b64`, which is not for JWTs
/// (RFC 7797 §7), and `zip`, which is not for signed ones (RFC 7516 §4.1.3): some inflate the payload then, and
/// would read other claims.
pub(super) fn has_critical(header: &Object) -> bool {
    ["crit", "b64", "zip"].iter().any(|name| header.contains_key(*name))
}

fn part(text: &str) -> Result<Object, TokenError> {
    // The engine refuses padding, other alphabets and non-zero trailing bits (RFC 7515 §2).
    let text = URL_SAFE_NO_PAD.decode(text).map_err(|_encoding| TokenError::Malformed)?;
    json::object(&text).map_err(|json::JsonError| TokenError::Malformed)
}

#[cfg(test)]
mod tests;
