//! Forwarded certificate texts to DER: one escape layer, then exactly one PEM block.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{CertificateError, CertificateText};
use crate::evidence::path::escape;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Returns the DER.
pub(super) fn decode(text: CertificateText<'_>) -> Result<Vec<u8>, CertificateError> {
    let pem = match text {
        CertificateText::Percent(text) => percent(text)?,
        CertificateText::Json(text) => json(text)?,
    };
    // RFC 7468 §2: what stands around the block is refused here; Envoy writes none.
    let body = str::from_utf8(&pem)
        .map_err(|_error| CertificateError::Pem)?
        .strip_prefix(BEGIN)
        .and_then(|text| text.trim_end_matches(['\n', '\r']).strip_suffix(END))
        .ok_or(CertificateError::Pem)?;
    let base64: Vec<u8> = body.bytes().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    // A second block has dashes, which are no base64.
    STANDARD.decode(base64).map_err(|_error| CertificateError::Pem)
}

/// Percent-decoding only: `+` is base64's and never a space.
fn percent(text: &[u8]) -> Result<Cow<'_, [u8]>, CertificateError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match byte {
            b'%' => escape(tail).ok_or(CertificateError::Escape)?,
            _ => (byte, tail),
        };
        decoded.push(byte);
        rest = tail;
    }
    Ok(Cow::Owned(decoded))
}

fn json(text: &[u8]) -> Result<Cow<'_, [u8]>, CertificateError> {
    let mut quoted = Vec::with_capacity(text.len().saturating_add(2));
    quoted.push(b'"');
    quoted.extend_from_slice(text);
    quoted.push(b'"');
    serde_json::from_slice::<String>(&quoted)
        .map(|text| Cow::Owned(text.into_bytes()))
        .map_err(|_error| CertificateError::Escape)
}
