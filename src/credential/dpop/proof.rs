//! A proof taken apart: a compact JWS whose header holds its key (RFC 9449 §4.2).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::ProofError;
use crate::{
    clock::UnixTime,
    credential::{claims, token},
    identity::Thumbprint,
    json::{self, Object},
    trust::jwks::{Algorithm, PublicKey},
};

/// A proof with an RSA key of 8192 bits is some 4 KiB.
pub const MAX_BYTES: usize = 8 << 10;
/// Identifiers are random numbers or UUIDs; the longest seen in use are under 100 bytes.
pub const MAX_JTI_BYTES: usize = 256;

/// The parts of a proof, as text.
#[derive(Clone, Copy)]
pub(in crate::credential) struct Parts<'p> {
    pub(in crate::credential) header: &'p str,
    pub(in crate::credential) payload: &'p str,
    signature: &'p str,
    /// Header and payload as they were sent: what is signed.
    signed: &'p str,
}

/// What the header says: the key, and the algorithm it is used with.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) key: PublicKey,
}

/// The claims of a proof whose signature holds.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) issued: UnixTime,
    /// `ath`; `None` also where it is no SHA-256 in base64url, which matches no token.
    pub(super) token: Option<Thumbprint>,
    pub(super) nonce: Option<String>,
    pub(super) expires: Option<UnixTime>,
    pub(super) not_before: Option<UnixTime>,
}

/// Splits a proof. Verifies nothing.
pub(in crate::credential) fn split(proof: &str) -> Result<Parts<'_>, ProofError> {
    if proof.len() > MAX_BYTES {
        return Err(ProofError::Malformed);
    }
    let (signed, signature) = proof.rsplit_once('.').ok_or(ProofError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(ProofError::Malformed)?;
    if payload.contains('.') {
        return Err(ProofError::Malformed);
    }
    Ok(Parts { header, payload, signature, signed })
}

impl Header {
    /// Reads the header: `typ`, `alg` and `jwk`. `kid`, `jku` and the certificate members are ignored
    /// (RFC 9449 §4.3, step 6: the key is that of `jwk`), and so is what is unknown.
    pub(super) fn read(text: &str, allowed: &[Algorithm]) -> Result<Self, ProofError> {
        let header = object(text)?;
        if token::has_critical(&header) {
            return Err(ProofError::Malformed);
        }
        if !is_type(&header, "dpop+jwt") {
            return Err(ProofError::Type);
        }
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(Algorithm::parse)
            .filter(|algorithm| allowed.contains(algorithm))
            .ok_or(ProofError::Algorithm)?;
        let jwk = header.get("jwk").ok_or(ProofError::Key)?;
        let key = PublicKey::read(jwk, algorithm).map_err(|_key| ProofError::Key)?;
        Ok(Self { key })
    }
}

impl Parts<'_> {
    /// Verifies the signature.
    pub(in crate::credential) fn verified_by(self, key: &PublicKey) -> Result<(), ProofError> {
        // The engine refuses padding and non-zero trailing bits: a proof has one spelling.
        let signature =
            URL_SAFE_NO_PAD.decode(self.signature).map_err(|_encoding| ProofError::Malformed)?;
        if key.verifies(self.signed.as_bytes(), &signature) {
            Ok(())
        } else {
            Err(ProofError::Signature)
        }
    }
}

/// Says whether `typ` of a header is this media type: without regard to case, `application/` left out
/// (RFC 7515 §4.1.9).
pub(in crate::credential) fn is_type(header: &Object, expected: &str) -> bool {
    let Some(typ) = header.get("typ").and_then(Value::as_str) else { return false };
    let typ = match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => typ,
    };
    typ.eq_ignore_ascii_case(expected)
}

impl Claims {
    /// Reads the claims, which are all required but `nonce`, `exp` and `nbf` (RFC 9449 §4.3, step 3).
    pub(super) fn read(parts: Parts<'_>) -> Result<Self, ProofError> {
        let payload = object(parts.payload)?;
        let text = |name: &str| match payload.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) | None => Err(ProofError::Malformed),
        };
        let time = |name| claims::time(&payload, name).map_err(|_claim| ProofError::Malformed);
        let id = text("jti")?;
        if !(1..=MAX_JTI_BYTES).contains(&id.len()) {
            return Err(ProofError::Malformed);
        }
        let nonce = match payload.get("nonce") {
            None => None,
            Some(_) => Some(text("nonce")?),
        };
        let token = match payload.get("ath") {
            Some(Value::String(hash)) => Thumbprint::from_base64url(hash),
            // Without it the proof is for no token at all.
            None => None,
            Some(_) => return Err(ProofError::Malformed),
        };
        Ok(Self {
            id,
            method: text("htm")?,
            uri: text("htu")?,
            issued: time("iat")?.ok_or(ProofError::Malformed)?,
            token,
            nonce,
            expires: time("exp")?,
            not_before: time("nbf")?,
        })
    }
}

/// Decodes a part of a JWS.
pub(in crate::credential) fn object(text: &str) -> Result<Object, ProofError> {
    let text = URL_SAFE_NO_PAD.decode(text).map_err(|_encoding| ProofError::Malformed)?;
    json::object(&text).map_err(|json::JsonError| ProofError::Malformed)
}
