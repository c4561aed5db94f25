//! Key sets (RFC 7517) with keys for signatures (RFC 7518 §6, RFC 8037), each used with one algorithm.

mod algorithm;
mod public;

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::Value;

pub use self::{algorithm::Algorithm, public::PublicKey};
use crate::{
    identity::Thumbprint,
    json::{self, Object},
    trust::roca,
};

/// Real key sets are a few kilobytes; certificate chains (`x5c`) make some larger.
pub const MAX_BYTES: usize = 256 << 10;
/// Large providers publish some ten keys.
pub const MAX_KEYS: usize = 100;
/// Longer names of keys are of no use to anyone and cost a comparison each.
pub const MAX_KID_BYTES: usize = 256;

/// An issuer's keys. Has at least one usable key, unless made by [`KeySet::without_keys`].
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
    text: Box<[u8]>,
}

/// One public key, valid for its type: full-length coordinates on the curve, a modulus of 2048 to 8192 bits.
pub struct Key {
    id: Option<Box<str>>,
    algorithm: KeyAlgorithm,
    /// SHA-256 of the key's parts: tells two keys under one name from one key written twice.
    material: Thumbprint,
    verifying: Verifying,
}

/// What verifies signatures by a key.
enum Verifying {
    Library(DecodingKey),
    /// The library has no ES512.
    P521(ParsedPublicKey),
}

/// The algorithm a key is used with (RFC 8725 §3.1: one, checked at use).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyAlgorithm {
    /// The key's `alg`, or what its curve leaves.
    One(Algorithm),
    /// An RSA key without `alg`: the first RSA algorithm of the issuer's own list.
    FirstRsaAllowed,
}

/// A key of a set that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its `kid`, where it is a text within bounds. From outside: escape it where it is shown.
    pub kid: Option<String>,
    /// Why.
    pub why: KeyError,
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "key {kid:?}: {}", self.why),
            None => write!(f, "key without kid: {}", self.why),
        }
    }
}

/// Why a key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another key of the set has the same `kid` and fits the same algorithm.
    #[error("another key has the same kid and algorithm")]
    Ambiguous,
    /// `alg` does not belong to the key's type and curve, or is not supported.
    #[error("alg does not fit the key")]
    Algorithm,
    /// The curve is not supported, or does not belong to the key's type.
    #[error("the curve is not supported")]
    Curve,
    /// `kid` is no text, empty or longer than [`MAX_KID_BYTES`].
    #[error("kid is not a text of 1 to {MAX_KID_BYTES} bytes")]
    Id,
    /// A member is missing, has the wrong type or is not canonical base64url (RFC 7518 §6).
    #[error("a member is missing or malformed")]
    Member,
    /// The element of `keys` is no object.
    #[error("not an object")]
    NotAnObject,
    /// The values make no key: a point that is not on its curve, an even modulus or exponent.
    #[error("not a valid public key")]
    NotAKey,
    /// It has private members: whoever reads this set can sign.
    #[error("the key is published with its private part")]
    Private,
    /// `kty` is not supported.
    #[error("the key type is not supported")]
    Type,
    /// A symmetric key: whoever verifies could sign.
    #[error("the key is symmetric")]
    Symmetric,
    /// `use` is another, or `key_ops` lacks `verify`.
    #[error("the key is not for verifying signatures")]
    Use,
    /// An RSA modulus under 2048 bits (RFC 7518 §3.3), over 8192, or made by a generator known as broken.
    #[error("the key is weak, or larger than 8192 bits")]
    Weak,
}

/// Why a text is no key set that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is longer than [`MAX_BYTES`].
    #[error("the key set is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is no strict JSON object with an array `keys`.
    #[error("the key set is not a JSON object with an array `keys`")]
    Malformed,
    /// It has more than [`MAX_KEYS`] keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// The sequence number or refresh hint of a SPIFFE bundle is no whole number.
    #[error("`spiffe_sequence` or `spiffe_refresh_hint` is no whole number")]
    Hint,
    /// No key of it can be used.
    #[error("the key set has no key that can be used{}", Listed(.0))]
    NoUsableKey(Vec<SkippedKey>),
}

struct Listed<'a>(&'a [SkippedKey]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(place, skipped)| {
            write!(f, "{} {skipped}", if place == 0 { ":" } else { "," })
        })
    }
}

/// Reads a key set, as where it is from has it.
pub type Parse = fn(&[u8]) -> Result<KeySet, KeySetError>;

/// The outcome of [`KeySet::find`].
#[derive(Debug)]
pub enum Found<'k> {
    /// The one key that fits.
    Key(&'k Key),
    /// The set has no key of that name: a newer set may.
    Unknown,
    /// Keys of that name are there, and none or more than one fits the algorithm.
    Unfit,
}

impl KeySet {
    /// Reads a JWK Set (RFC 7517 §5). Keys that cannot be used are skipped and listed in
    /// [`KeySet::skipped`]; of keys with one `kid`, those are kept that differ in their algorithm.
    ///
    /// Does *not* look at `x5c` or any other certificate member.
    ///
    /// # Errors
    /// As [`KeySetError`] says.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set = Self::usable(&elements(text)?.0, "sig", text);
        if set.keys.is_empty() { Err(KeySetError::NoUsableKey(set.skipped)) } else { Ok(set) }
    }

    /// Reads the JWT authorities of a SPIFFE bundle (SPIFFE Trust Domain and Bundle §4): the keys with
    /// `use: jwt-svid`, each by its `kid`. Others, of unknown types among them, are ignored.
    ///
    /// A bundle without such keys is one (§4.1.2): no JWT-SVID is valid then, and older keys are not kept.
    /// `spiffe_sequence` and `spiffe_refresh_hint` are not used: bundles are fetched as often as key sets are.
    ///
    /// # Errors
    /// As [`KeySetError`] says, but [`KeySetError::NoUsableKey`].
    pub fn of_jwt_svids(text: &[u8]) -> Result<Self, KeySetError> {
        Self::of_bundle(text, "jwt-svid")
    }

    /// Reads the authorities of workload identity tokens of a SPIFFE bundle, likewise: the keys with
    /// `use: wit-svid`.
    ///
    /// # Errors
    /// As [`KeySet::of_jwt_svids`].
    pub fn of_wit_svids(text: &[u8]) -> Result<Self, KeySetError> {
        Self::of_bundle(text, "wit-svid")
    }

    fn of_bundle(text: &[u8], own_use: &str) -> Result<Self, KeySetError> {
        let (elements, set) = elements(text)?;
        let is_number = |name| set.get(name).is_none_or(Value::is_u64);
        if !is_number("spiffe_sequence") || !is_number("spiffe_refresh_hint") {
            return Err(KeySetError::Hint);
        }
        let is_known = |element: &Value| {
            let kty = element.get("kty").and_then(Value::as_str);
            let usage = element.get("use").and_then(Value::as_str);
            usage == Some(own_use) && kty.is_some_and(|kty| ["EC", "RSA"].contains(&kty))
        };
        let own: Vec<Value> = elements.into_iter().filter(is_known).collect();
        let mut set = Self::usable(&own, own_use, text);
        // §4.2.2: `kid` has to be there.
        set.keys.retain(|key| {
            if key.id.is_none() {
                set.skipped.push(SkippedKey { kid: None, why: KeyError::Id });
            }
            key.id.is_some()
        });
        Ok(set)
    }

    /// Sorts out which keys of a set can be used.
    fn usable(elements: &[Value], usage: &str, text: &[u8]) -> Self {
        let mut keys: Vec<Key> = Vec::new();
        let mut skipped = Vec::new();
        for element in elements {
            match Key::read(element, usage) {
                Ok(key) if keys.iter().any(|other| other.is_same(&key)) => {}
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(SkippedKey { kid: shown_id(element), why }),
            }
        }
        skip_ambiguous(&mut keys, &mut skipped);
        Self { keys, skipped, text: text.into() }
    }

    /// Returns the set of an issuer none of whose tokens is a JWT: every key is unknown.
    #[must_use]
    pub fn without_keys() -> Self {
        Self { keys: Vec::new(), skipped: Vec::new(), text: Box::default() }
    }

    /// Returns the number of usable keys.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Returns the keys that are not used.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Returns the text it was read from: whether two sets are the same.
    #[must_use]
    pub const fn text(&self) -> &[u8] {
        &self.text
    }

    /// Finds the key for a token's `kid` and `alg`, which must be one of `allowed`, the issuer's list.
    ///
    /// A token without `kid` needs a set with exactly one key that fits; a key without `kid` is found by
    /// such tokens only.
    #[must_use]
    pub fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        allowed: &[Algorithm],
    ) -> Found<'_> {
        let named = || self.keys.iter().filter(|key| kid.is_none() || key.id.as_deref() == kid);
        let mut fitting = named().filter(|key| key.algorithm(allowed) == Some(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(key),
            (None, _) if named().next().is_none() => Found::Unknown,
            _ => Found::Unfit,
        }
    }
}

impl Key {
    /// Returns whether `signature`, in base64url, is one of `message` by this key with `algorithm`, which
    /// [`KeySet::find`] found it for.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &str, algorithm: Algorithm) -> bool {
        match (&self.verifying, algorithm.in_library()) {
            (Verifying::Library(key), Some(algorithm)) => {
                // An error is a signature that is no base64url or a key of another family.
                jsonwebtoken::crypto::verify(signature, message, key, algorithm).unwrap_or(false)
            }
            (Verifying::P521(key), None) => URL_SAFE_NO_PAD
                .decode(signature)
                .is_ok_and(|signature| key.verify_sig(message, &signature).is_ok()),
            (Verifying::Library(_), None) | (Verifying::P521(_), Some(_)) => false,
        }
    }

    /// The one algorithm this key is used with for an issuer that allows `allowed`.
    fn algorithm(&self, allowed: &[Algorithm]) -> Option<Algorithm> {
        match self.algorithm {
            KeyAlgorithm::One(algorithm) => allowed.contains(&algorithm).then_some(algorithm),
            KeyAlgorithm::FirstRsaAllowed => {
                allowed.iter().copied().find(|algorithm| algorithm.is_rsa())
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.algorithm == other.algorithm && self.material == other.material
    }

    fn read(element: &Value, usage: &str) -> Result<Self, KeyError> {
        let Value::Object(jwk) = element else { return Err(KeyError::NotAnObject) };
        let id = match jwk.get("kid") {
            None => None,
            Some(Value::String(id)) if (1..=MAX_KID_BYTES).contains(&id.len()) => {
                Some(id.clone().into_boxed_str())
            }
            Some(_) => return Err(KeyError::Id),
        };
        let kty = public_type(jwk)?;
        check_use(jwk, usage)?;
        let (algorithm, material, verifying) = match kty {
            "RSA" => rsa(jwk)?,
            "EC" => ec(jwk)?,
            "OKP" => okp(jwk)?,
            _ => return Err(KeyError::Type),
        };
        Ok(Self { id, algorithm, material, verifying })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Returns the elements of `keys`, and the set.
fn elements(text: &[u8]) -> Result<(Vec<Value>, Object), KeySetError> {
    if text.len() > MAX_BYTES {
        return Err(KeySetError::TooLong);
    }
    let mut set = json::object(text).map_err(|json::JsonError| KeySetError::Malformed)?;
    let Some(Value::Array(elements)) = set.remove("keys") else {
        return Err(KeySetError::Malformed);
    };
    if elements.len() > MAX_KEYS {
        return Err(KeySetError::TooManyKeys);
    }
    Ok((elements, set))
}

type Parts = (KeyAlgorithm, Thumbprint, Verifying);

fn rsa(jwk: &Object) -> Result<Parts, KeyError> {
    let algorithm = match jwk.get("alg") {
        None => KeyAlgorithm::FirstRsaAllowed,
        Some(alg) => KeyAlgorithm::One(
            declared(alg).filter(|algorithm| algorithm.is_rsa()).ok_or(KeyError::Algorithm)?,
        ),
    };
    let (n, e) = rsa_components(jwk)?;
    RsaPublicKeyComponents { n: &n, e: &e }
        .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_rejected| KeyError::NotAKey)?;
    let material = Thumbprint::of(&[n.as_slice(), b"/", e.as_slice()].concat());
    let key = DecodingKey::from_rsa_raw_components(&n, &e);
    Ok((algorithm, material, Verifying::Library(key)))
}

/// Returns `n` and `e`, of a size and kind that is fit for use.
fn rsa_components(jwk: &Object) -> Result<(Vec<u8>, Vec<u8>), KeyError> {
    let (n, e) = (unsigned(jwk, "n")?, unsigned(jwk, "e")?);
    let (Some(first), Some(last)) = (n.first(), n.last()) else { return Err(KeyError::Member) };
    let unused = usize::try_from(first.leading_zeros()).map_err(|_wide| KeyError::Member)?;
    let bits = n.len().saturating_mul(8).saturating_sub(unused);
    if !RSA_BITS.contains(&bits) || roca::is_suspect(&n) {
        return Err(KeyError::Weak);
    }
    // RFC 8017 §3.1: an odd exponent of at least 3. A larger one than four octets only costs time.
    let odd = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 1 == 1);
    if !odd(Some(last)) || !odd(e.last()) || e == [1] || e.len() > 4 {
        return Err(KeyError::NotAKey);
    }
    Ok((n, e))
}

fn ec(jwk: &Object) -> Result<Parts, KeyError> {
    let (curve, point) = ec_point(jwk)?;
    // Refuses a point that is not on the curve (RFC 8725 §3.4).
    let parsed =
        ParsedPublicKey::new(curve.verifying, &point).map_err(|_rejected| KeyError::NotAKey)?;
    let verifying = match curve.algorithm.in_library() {
        Some(_) => Verifying::Library(DecodingKey::from_ec_der(&point)),
        None => Verifying::P521(parsed),
    };
    Ok((KeyAlgorithm::One(curve.algorithm), Thumbprint::of(&point), verifying))
}

/// A curve of RFC 7518 §6.2.1.1, with the one algorithm of §3.4 that it is for.
#[derive(Clone, Copy)]
struct Curve {
    name: &'static str,
    algorithm: Algorithm,
    /// Octets of a coordinate.
    size: usize,
    verifying: &'static signature::EcdsaVerificationAlgorithm,
}

const CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        algorithm: Algorithm::ES256,
        size: 32,
        verifying: &signature::ECDSA_P256_SHA256_FIXED,
    },
    Curve {
        name: "P-384",
        algorithm: Algorithm::ES384,
        size: 48,
        verifying: &signature::ECDSA_P384_SHA384_FIXED,
    },
    Curve {
        name: "P-521",
        algorithm: Algorithm::ES512,
        size: 66,
        verifying: &signature::ECDSA_P521_SHA512_FIXED,
    },
];

/// Returns the curve, and the point uncompressed (SEC 1 §2.3.3); not yet known to be on it.
fn ec_point(jwk: &Object) -> Result<(Curve, Vec<u8>), KeyError> {
    let name = text(jwk, "crv")?;
    let curve = *CURVES.iter().find(|curve| curve.name == name).ok_or(KeyError::Curve)?;
    check_declared(jwk, curve.algorithm)?;
    let (x, y) = (octets(jwk, "x")?, octets(jwk, "y")?);
    // RFC 7518 §6.2.1.2: the full size of a coordinate, leading zeros included.
    if x.len() != curve.size || y.len() != curve.size {
        return Err(KeyError::Member);
    }
    Ok((curve, [&[4][..], &x, &y].concat()))
}

fn okp(jwk: &Object) -> Result<Parts, KeyError> {
    let x = ed25519_point(jwk)?;
    ParsedPublicKey::new(&signature::ED25519, &x).map_err(|_rejected| KeyError::NotAKey)?;
    let verifying = Verifying::Library(DecodingKey::from_ed_der(&x));
    Ok((KeyAlgorithm::One(Algorithm::EdDSA), Thumbprint::of(&x), verifying))
}

fn ed25519_point(jwk: &Object) -> Result<Vec<u8>, KeyError> {
    if text(jwk, "crv")? != "Ed25519" {
        return Err(KeyError::Curve);
    }
    check_declared(jwk, Algorithm::EdDSA)?;
    let x = octets(jwk, "x")?;
    if x.len() == 32 { Ok(x) } else { Err(KeyError::Member) }
}

fn declared(alg: &Value) -> Option<Algorithm> {
    alg.as_str().and_then(Algorithm::parse)
}

fn check_declared(jwk: &Object, only: Algorithm) -> Result<(), KeyError> {
    match jwk.get("alg") {
        None => Ok(()),
        Some(alg) if declared(alg) == Some(only) => Ok(()),
        Some(_) => Err(KeyError::Algorithm),
    }
}

/// Returns `kty` of a key that is public by the names of its members, whatever they hold.
fn public_type(jwk: &Object) -> Result<&str, KeyError> {
    let kty = text(jwk, "kty")?;
    if kty == "oct" || jwk.contains_key("k") {
        return Err(KeyError::Symmetric);
    }
    if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err(KeyError::Private);
    }
    Ok(kty)
}

fn check_use(jwk: &Object, only: &str) -> Result<(), KeyError> {
    let by_use = jwk.get("use").is_none_or(|usage| usage == only);
    let by_ops = jwk.get("key_ops").is_none_or(|ops| {
        ops.as_array().is_some_and(|ops| ops.iter().any(|operation| operation == "verify"))
    });
    if by_use && by_ops { Ok(()) } else { Err(KeyError::Use) }
}

fn text<'j>(jwk: &'j Object, member: &str) -> Result<&'j str, KeyError> {
    jwk.get(member).and_then(Value::as_str).ok_or(KeyError::Member)
}

fn octets(jwk: &Object, member: &str) -> Result<Vec<u8>, KeyError> {
    // The engine refuses padding and non-zero trailing bits, so that a key has one spelling.
    URL_SAFE_NO_PAD.decode(text(jwk, member)?).map_err(|_encoding| KeyError::Member)
}

/// `Base64urlUInt` (RFC 7518 §2): the least number of octets.
fn unsigned(jwk: &Object, member: &str) -> Result<Vec<u8>, KeyError> {
    let octets = octets(jwk, member)?;
    if octets.first().is_none_or(|first| *first == 0) { Err(KeyError::Member) } else { Ok(octets) }
}

fn shown_id(element: &Value) -> Option<String> {
    let id = element.get("kid")?.as_str()?;
    (id.len() <= MAX_KID_BYTES).then(|| id.to_owned())
}

/// Takes out keys that no token could choose between.
fn skip_ambiguous(keys: &mut Vec<Key>, skipped: &mut Vec<SkippedKey>) {
    let ambiguous: Vec<bool> = keys
        .iter()
        .map(|key| {
            let rivals = keys.iter().filter(|other| {
                key.id.is_some() && other.id == key.id && other.algorithm == key.algorithm
            });
            rivals.count() > 1
        })
        .collect();
    let mut verdicts = ambiguous.into_iter();
    keys.retain(|key| {
        let skip = verdicts.next().unwrap_or(false);
        if skip {
            let kid = key.id.as_deref().map(str::to_owned);
            skipped.push(SkippedKey { kid, why: KeyError::Ambiguous });
        }
        !skip
    });
}

/// RFC 7518 §6.2.2, §6.3.2 and the private member of RFC 9864's AKP keys.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"];
/// RFC 7518 §3.3 asks for 2048; beyond 8192 a verification costs too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[cfg(test)]
mod tests;
