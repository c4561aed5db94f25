//! One public key by itself, as a DPoP proof carries it (RFC 9449 §4.2).

use std::fmt;

use aws_lc_rs::signature::{
    self, EdDSAParameters, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};
use serde_json::Value;

use super::{
    Algorithm, KeyError, check_use, declared, ec_point, ed25519_point, public_type, rsa_components,
    text,
};
use crate::{identity::Thumbprint, json::Object};

/// A public key that is used with one algorithm, and its RFC 7638 thumbprint.
pub struct PublicKey {
    thumbprint: Thumbprint,
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads a JWK for signatures by `algorithm`. Accepted in one spelling only (full-length coordinates on
    /// the curve, the least number of octets of `n` and `e`, canonical base64url), as members enter the
    /// thumbprint as they are written: one key must not have several.
    ///
    /// A private or symmetric key is refused by the names of its members (RFC 9449 §4.3, step 7). `kid` and
    /// the certificate members are ignored.
    ///
    /// # Errors
    /// Every [`KeyError`] but [`KeyError::Ambiguous`] and [`KeyError::Id`]; [`KeyError::Algorithm`] where
    /// type, curve or the key's own `alg` are of another algorithm.
    pub fn read(jwk: &Value, algorithm: Algorithm) -> Result<Self, KeyError> {
        let Value::Object(jwk) = jwk else { return Err(KeyError::NotAnObject) };
        let kty = public_type(jwk)?;
        check_use(jwk, "sig")?;
        if jwk.get("alg").is_some_and(|alg| declared(alg) != Some(algorithm)) {
            return Err(KeyError::Algorithm);
        }
        match kty {
            "EC" => ec(jwk, algorithm),
            "OKP" => okp(jwk, algorithm),
            "RSA" => rsa(jwk, algorithm),
            _ => Err(KeyError::Type),
        }
    }

    /// Returns the SHA-256 thumbprint (RFC 7638 §3): `jkt`.
    #[must_use]
    pub const fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// Returns whether `signature` is one of `message` by this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.thumbprint).finish()
    }
}

fn ec(jwk: &Object, algorithm: Algorithm) -> Result<PublicKey, KeyError> {
    let (curve, point) = ec_point(jwk)?;
    if curve.algorithm != algorithm {
        return Err(KeyError::Algorithm);
    }
    // Refuses a point that is not on the curve (RFC 8725 §3.4).
    let parsed =
        ParsedPublicKey::new(curve.verifying, &point).map_err(|_rejected| KeyError::NotAKey)?;
    let (crv, x, y) = (text(jwk, "crv")?, text(jwk, "x")?, text(jwk, "y")?);
    let members = format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Ok(PublicKey { thumbprint: Thumbprint::of(members.as_bytes()), parsed })
}

/// RFC 8037 §2 has the members of the thumbprint.
fn okp(jwk: &Object, algorithm: Algorithm) -> Result<PublicKey, KeyError> {
    const ED25519: &EdDSAParameters = &signature::ED25519;
    let point = ed25519_point(jwk)?;
    if algorithm != Algorithm::EdDSA {
        return Err(KeyError::Algorithm);
    }
    let parsed = ParsedPublicKey::new(ED25519, &point).map_err(|_rejected| KeyError::NotAKey)?;
    let x = text(jwk, "x")?;
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    Ok(PublicKey { thumbprint: Thumbprint::of(members.as_bytes()), parsed })
}

fn rsa(jwk: &Object, algorithm: Algorithm) -> Result<PublicKey, KeyError> {
    let padding: &'static RsaParameters = match algorithm {
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 | Algorithm::EdDSA => {
            return Err(KeyError::Algorithm);
        }
    };
    let (n, e) = rsa_components(jwk)?;
    let parsed = RsaPublicKeyComponents { n: &n, e: &e }
        .to_parsed_public_key(padding)
        .map_err(|_rejected| KeyError::NotAKey)?;
    let (n, e) = (text(jwk, "n")?, text(jwk, "e")?);
    let members = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    Ok(PublicKey { thumbprint: Thumbprint::of(members.as_bytes()), parsed })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::credential::testing::Signer;

    /// RFC 7638 §3.1.
    const N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    fn rfc7638() -> Value {
        json!({"kty": "RSA", "n": N, "e": "AQAB", "kid": "2011-04-29"})
    }

    #[test]
    fn the_example_of_rfc_7638_has_its_thumbprint_and_no_other_key_has() {
        let print = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
        let read = |jwk: &Value| PublicKey::read(jwk, Algorithm::PS256).map(|k| k.thumbprint());
        let own = read(&rfc7638()).unwrap();
        assert_eq!(own.to_base64url(), print);
        for at in 0..N.len() {
            let mut changed = N.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let mut jwk = rfc7638();
            jwk["n"] = json!(String::from_utf8(changed).unwrap());
            assert_ne!(read(&jwk), Ok(own), "{at}");
        }
        for e in ["Aw", "AQAB=", "AAEAAQ", "AQAA", "AQAC", ""] {
            let mut jwk = rfc7638();
            jwk["e"] = json!(e);
            assert_ne!(read(&jwk), Ok(own), "{e}");
        }
    }

    #[test]
    fn each_curve_verifies_by_its_own_algorithm_alone() {
        let signers = [Signer::es256("a"), Signer::es384("b"), Signer::es512("c")];
        for signer in &signers {
            for (name, algorithm) in Algorithm::NAMED {
                let read = PublicKey::read(&signer.jwk(), algorithm);
                if name != signer.alg {
                    assert_eq!(read.err(), Some(KeyError::Algorithm), "{name} {}", signer.alg);
                    continue;
                }
                let key = read.unwrap();
                assert!(key.verifies(b"signed", &signer.signature(b"signed")), "{name}");
                assert!(!key.verifies(b"forged", &signer.signature(b"signed")), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_required_member_does_not_enter_the_thumbprint() {
        let own = PublicKey::read(&rfc7638(), Algorithm::PS256).unwrap().thumbprint();
        let more =
            [("alg", json!("PS256")), ("use", json!("sig")), ("kid", json!(1)), ("x5c", json!([]))];
        for (name, value) in more {
            let mut jwk = rfc7638();
            jwk[name] = value;
            assert_eq!(
                PublicKey::read(&jwk, Algorithm::PS256).unwrap().thumbprint(),
                own,
                "{name}"
            );
        }
    }

    #[test]
    fn a_key_of_another_algorithm_or_use_is_refused() {
        let read = |jwk: &Value, algorithm| PublicKey::read(jwk, algorithm).err();
        for other in [Algorithm::ES256, Algorithm::ES512, Algorithm::EdDSA] {
            assert_eq!(read(&rfc7638(), other), Some(KeyError::Algorithm));
        }
        let mut declared = rfc7638();
        declared["alg"] = json!("RS256");
        assert_eq!(read(&declared, Algorithm::PS256), Some(KeyError::Algorithm));
        let mut encrypting = rfc7638();
        encrypting["use"] = json!("enc");
        assert_eq!(read(&encrypting, Algorithm::PS256), Some(KeyError::Use));
    }

    #[test]
    fn a_private_or_symmetric_key_is_refused_by_the_names_alone() {
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"] {
            for value in [json!(null), json!(""), json!([])] {
                let mut jwk = rfc7638();
                jwk[member] = value;
                let refused = PublicKey::read(&jwk, Algorithm::PS256).err();
                assert_eq!(refused, Some(KeyError::Private), "{member}");
            }
        }
        let mut jwk = rfc7638();
        jwk["k"] = json!(null);
        let refused = PublicKey::read(&jwk, Algorithm::PS256).err();
        assert_eq!(refused, Some(KeyError::Symmetric));
    }
}
