//! SHA-256 thumbprints: `x5t#S256` of a certificate (RFC 8705 §3.1), `jkt` of a key (RFC 7638).

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// A SHA-256 thumbprint. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Returns the SHA-256 of `bytes`: for a certificate, of its DER encoding (RFC 8705 §3.1).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let mut octets = [0; 32];
        octets.copy_from_slice(digest.as_ref());
        Self(octets)
    }

    /// Reads 43 characters of unpadded, canonical base64url; anything else is `None`.
    #[must_use]
    pub fn from_base64url(text: &str) -> Option<Self> {
        // RFC 8705 §3.1: no padding, no white space; the decoder refuses non-zero trailing bits.
        if text.len() != 43 {
            return None;
        }
        let mut octets = [0; 32];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut octets).ok()?;
        (length == 32).then_some(Self(octets))
    }

    /// Reads 64 hexadecimal digits in lower case, as Envoy writes XFCC's `Hash`; anything else is `None`.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b.wrapping_sub(b'0')),
            b'a'..=b'f' => Some(b.wrapping_sub(b'a').wrapping_add(10)),
            _ => None,
        };
        let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut octets = [0; 32];
        for (octet, pair) in octets.iter_mut().zip(text.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *octet = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(octets))
    }

    /// Returns the octets.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the unpadded base64url form.
    #[must_use]
    pub fn to_base64url(self) -> String {
        String::from_utf8_lossy(&self.base64url()).into_owned()
    }

    /// Returns the unpadded base64url form as ASCII that takes no memory: it is in every record.
    #[must_use]
    pub fn base64url(self) -> [u8; 43] {
        let mut text = [0; 43];
        // 32 octets are 43 characters: there is always room.
        let written = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        debug_assert_eq!(written, Ok(text.len()));
        text
    }
}

impl PartialEq for Thumbprint {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Thumbprint {}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const BASE64URL: &str = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";

    #[test]
    fn all_three_forms_are_one_thumbprint() {
        let thumbprint = Thumbprint::of(b"abc");
        assert_eq!(Thumbprint::from_hex(HEX), Some(thumbprint));
        assert_eq!(Thumbprint::from_base64url(BASE64URL), Some(thumbprint));
        assert_eq!(thumbprint.to_base64url(), BASE64URL);
    }

    #[test]
    fn other_spellings_are_refused() {
        let upper = HEX.to_uppercase();
        for text in
            ["", HEX.strip_prefix('b').unwrap(), &format!("{HEX}0"), &upper, &HEX.replace('b', "g")]
        {
            assert_eq!(Thumbprint::from_hex(text), None, "{text}");
        }
        let trailing_bits = BASE64URL.replace("Fa0", "Fa1");
        let standard = BASE64URL.replace('-', "+").replace('_', "/");
        for text in [
            "",
            BASE64URL.strip_prefix('u').unwrap(),
            &format!("{BASE64URL}="),
            &trailing_bits,
            &standard,
        ] {
            assert_eq!(Thumbprint::from_base64url(text), None, "{text}");
        }
    }
}
