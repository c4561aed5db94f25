//! Key sets: the RFC 7638 key, choosing, and what is skipped.

use serde_json::json;

use super::*;
use crate::credential::testing::{Signer, b64, jwks};

/// RFC 7638 §3.1.
const RFC7638: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;

fn rfc7638() -> Value {
    serde_json::from_str(RFC7638).unwrap()
}

/// `jwk` with `name` set to `value`.
fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk.as_object_mut().unwrap().insert(name.to_owned(), value);
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// Why the one key of a set is not used.
fn why(jwk: Value) -> KeyError {
    match parse(&[jwk]) {
        Err(KeySetError::NoUsableKey(skipped)) => skipped[0].why,
        other => panic!("{other:?}"),
    }
}

fn ec() -> Value {
    Signer::es256("k").jwk()
}

#[test]
fn the_key_of_rfc_7638_is_read_as_written() {
    // The members as published: their thumbprint is the one of the RFC.
    let (n, e) = (rfc7638()["n"].clone(), rfc7638()["e"].clone());
    let canonical = format!(r#"{{"e":{e},"kty":"RSA","n":{n}}}"#);
    let thumbprint = Thumbprint::of(canonical.as_bytes()).to_base64url();
    assert_eq!(thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    let set = parse(&[rfc7638()]).unwrap();
    assert_eq!((set.count(), set.skipped().len()), (1, 0));
    let found = set.find(Some("2011-04-29"), Algorithm::RS256, &[Algorithm::RS256]);
    assert!(matches!(found, Found::Key(_)));
}

#[test]
fn what_is_no_key_set_is_refused() {
    for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[],\"keys\":[]}", "<html>"] {
        assert_eq!(KeySet::parse(text.as_bytes()).unwrap_err(), KeySetError::Malformed, "{text}");
    }
    assert_eq!(parse(&[]).unwrap_err(), KeySetError::NoUsableKey(Vec::new()));
    assert_eq!(KeySet::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err(), KeySetError::TooLong);
    assert_eq!(parse(&vec![json!({}); MAX_KEYS + 1]).unwrap_err(), KeySetError::TooManyKeys);
}

#[test]
fn a_key_that_cannot_be_used_is_skipped_and_named() {
    let symmetric = json!({"kty": "oct", "k": "AAAA", "kid": "s"});
    let set = parse(&[symmetric, ec(), json!(7)]).unwrap();
    assert_eq!(set.count(), 1);
    let skipped: Vec<_> = set.skipped().iter().map(ToString::to_string).collect();
    assert_eq!(skipped, ["key \"s\": the key is symmetric", "key without kid: not an object"]);
}

#[test]
fn private_and_symmetric_members_refuse_a_key_whatever_its_type() {
    for member in PRIVATE_MEMBERS {
        assert_eq!(why(with(ec(), member, json!("AA"))), KeyError::Private, "{member}");
        assert_eq!(why(with(rfc7638(), member, json!(null))), KeyError::Private, "{member}");
    }
    assert_eq!(why(json!({"kty": "oct", "k": "AA"})), KeyError::Symmetric);
    assert_eq!(why(with(ec(), "k", json!("AA"))), KeyError::Symmetric);
}

#[test]
fn keys_for_other_uses_are_skipped() {
    for usage in [json!("enc"), json!("SIG"), json!(null), json!(["sig"])] {
        assert_eq!(why(with(ec(), "use", usage)), KeyError::Use);
    }
    for operations in [json!(["sign"]), json!([]), json!("verify"), json!(null)] {
        assert_eq!(why(with(ec(), "key_ops", operations)), KeyError::Use);
    }
    let both = with(with(ec(), "use", json!("sig")), "key_ops", json!(["verify"]));
    assert!(parse(&[both]).is_ok());
}

#[test]
fn alg_must_belong_to_type_and_curve() {
    for alg in ["ES384", "ES512", "RS256", "HS256", "none", "es256"] {
        assert_eq!(why(with(ec(), "alg", json!(alg))), KeyError::Algorithm, "{alg}");
    }
    assert_eq!(why(with(ec(), "alg", json!(1))), KeyError::Algorithm);
    for alg in ["ES256", "RSA-OAEP", "EdDSA"] {
        assert_eq!(why(with(rfc7638(), "alg", json!(alg))), KeyError::Algorithm, "{alg}");
    }
    let ed = Signer::ed25519("k").jwk();
    assert_eq!(why(with(ed.clone(), "alg", json!("ES256"))), KeyError::Algorithm);
    assert!(parse(&[with(ed, "alg", json!("Ed25519"))]).is_ok());
}

#[test]
fn types_and_curves_that_are_not_supported_are_skipped() {
    for kty in ["AKP", "ec", "rsa", ""] {
        assert_eq!(why(with(ec(), "kty", json!(kty))), KeyError::Type, "{kty}");
    }
    assert_eq!(why(without(ec(), "kty")), KeyError::Member);
    for crv in ["P-512", "secp256k1", "Ed25519", "p-256"] {
        assert_eq!(why(with(ec(), "crv", json!(crv))), KeyError::Curve, "{crv}");
    }
    let ed = Signer::ed25519("k").jwk();
    for crv in ["Ed448", "X25519", "P-256"] {
        assert_eq!(why(with(ed.clone(), "crv", json!(crv))), KeyError::Curve, "{crv}");
    }
}

#[test]
fn a_point_that_is_not_on_its_curve_is_no_key() {
    for (x, y) in [([0; 32], [0; 32]), ([1; 32], [1; 32]), ([0xff; 32], [0xff; 32])] {
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)});
        assert_eq!(why(jwk), KeyError::NotAKey);
    }
    let wrong_curve = with(ec(), "crv", json!("P-384"));
    assert_eq!(why(wrong_curve), KeyError::Member);
}

#[test]
fn coordinates_and_integers_have_one_spelling() {
    let jwk = ec();
    let x = jwk["x"].as_str().unwrap();
    for bad in [
        json!(format!("{x}=")),
        json!(x.split_at(40).0),
        json!(format!("AA{x}")),
        json!(1),
        json!(""),
    ] {
        assert_eq!(why(with(jwk.clone(), "x", bad)), KeyError::Member);
    }
    assert_eq!(why(without(jwk, "y")), KeyError::Member);
    for e in ["AAEAAQ", "", "AQAB=", "AA"] {
        assert_eq!(why(with(rfc7638(), "e", json!(e))), KeyError::Member, "{e}");
    }
    let ed = Signer::ed25519("k").jwk();
    assert_eq!(why(with(ed, "x", json!(b64([1; 31])))), KeyError::Member);
}

#[test]
fn weak_oversized_and_impossible_rsa_keys_are_skipped() {
    let modulus = |bytes: usize| {
        let mut n = vec![0xc5; bytes];
        n[bytes - 1] = 0x35;
        json!({"kty": "RSA", "n": b64(n), "e": "AQAB"})
    };
    for bytes in [1, 64, 128, 255, 1025] {
        assert_eq!(why(modulus(bytes)), KeyError::Weak, "{bytes}");
    }
    // 2047 bits in 256 octets.
    let mut short = vec![0x45; 256];
    short[255] = 0x35;
    assert_eq!(why(json!({"kty": "RSA", "n": b64(short), "e": "AQAB"})), KeyError::Weak);
    let mut even = vec![0xc5; 256];
    even[255] = 0x34;
    assert_eq!(why(json!({"kty": "RSA", "n": b64(even), "e": "AQAB"})), KeyError::NotAKey);
    for e in [&[1][..], &[2], &[4], &[1, 0, 0, 0, 1]] {
        assert_eq!(why(with(rfc7638(), "e", json!(b64(e)))), KeyError::NotAKey, "{e:?}");
    }
}

#[test]
fn a_kid_is_a_text_within_bounds() {
    for kid in [json!(1), json!(null), json!(""), json!("k".repeat(MAX_KID_BYTES + 1))] {
        assert_eq!(why(with(ec(), "kid", kid)), KeyError::Id);
    }
}

#[test]
fn keys_of_one_name_are_told_apart_by_their_algorithm() {
    let (ec, ed) = (Signer::es256("k"), Signer::ed25519("k"));
    let set = KeySet::parse(jwks(&[&ec, &ed]).as_bytes()).unwrap();
    let allowed = [Algorithm::ES256, Algorithm::EdDSA];
    for algorithm in allowed {
        assert!(matches!(set.find(Some("k"), algorithm, &allowed), Found::Key(_)));
    }
    assert!(matches!(set.find(Some("k"), Algorithm::PS256, &allowed), Found::Unfit));
    assert!(matches!(set.find(Some("K"), Algorithm::ES256, &allowed), Found::Unknown));
}

#[test]
fn keys_that_no_token_could_choose_between_are_skipped() {
    let (one, two, other) = (Signer::es256("k"), Signer::es256("k"), Signer::es256("o"));
    let set = KeySet::parse(jwks(&[&one, &two, &other]).as_bytes()).unwrap();
    assert_eq!(set.count(), 1);
    let ambiguous = SkippedKey { kid: Some("k".to_owned()), why: KeyError::Ambiguous };
    assert_eq!(set.skipped(), [ambiguous.clone(), ambiguous]);
}

#[test]
fn a_key_written_twice_is_one_key() {
    let jwk = ec();
    let set = parse(&[jwk.clone(), jwk]).unwrap();
    assert_eq!((set.count(), set.skipped().len()), (1, 0));
}

#[test]
fn a_token_without_kid_needs_exactly_one_key_that_fits() {
    let (ec, ed, other) = (Signer::es256("a"), Signer::ed25519("b"), Signer::es256("c"));
    let allowed = [Algorithm::ES256, Algorithm::EdDSA];
    let set = KeySet::parse(jwks(&[&ec, &ed]).as_bytes()).unwrap();
    assert!(matches!(set.find(None, Algorithm::ES256, &allowed), Found::Key(_)));
    let set = KeySet::parse(jwks(&[&ec, &ed, &other]).as_bytes()).unwrap();
    assert!(matches!(set.find(None, Algorithm::ES256, &allowed), Found::Unfit));
    assert!(matches!(set.find(None, Algorithm::EdDSA, &allowed), Found::Key(_)));
}

#[test]
fn an_rsa_key_without_alg_is_used_with_the_first_rsa_algorithm_of_the_issuer() {
    let set = parse(&[without(rfc7638(), "alg")]).unwrap();
    let find = |algorithm, allowed: &[Algorithm]| {
        matches!(set.find(Some("2011-04-29"), algorithm, allowed), Found::Key(_))
    };
    let allowed = [Algorithm::ES256, Algorithm::PS256, Algorithm::RS256];
    assert!(find(Algorithm::PS256, &allowed));
    assert!(!find(Algorithm::RS256, &allowed));
    assert!(find(Algorithm::RS256, &[Algorithm::RS256]));
    assert!(!find(Algorithm::RS256, &[Algorithm::ES256]));
}

#[test]
fn a_key_is_never_used_with_an_algorithm_that_the_issuer_does_not_allow() {
    let set = parse(&[rfc7638()]).unwrap();
    let found = set.find(Some("2011-04-29"), Algorithm::RS256, &[Algorithm::PS256]);
    assert!(matches!(found, Found::Unfit));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        drop(KeySet::parse(&text));
    }
}

fn bundle(keys: &[Value]) -> Value {
    json!({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 60})
}

fn svid_key(kid: &str) -> Value {
    with(with(Signer::es256("k").jwk(), "kid", json!(kid)), "use", json!("jwt-svid"))
}

fn svids(bundle: &Value) -> KeySet {
    KeySet::of_jwt_svids(bundle.to_string().as_bytes()).unwrap()
}

#[test]
fn of_a_bundle_the_keys_for_jwt_svids_count_each_by_its_kid() {
    let rsa = with(with(rfc7638(), "use", json!("jwt-svid")), "kid", json!("rsa"));
    let set = svids(&bundle(&[svid_key("a"), svid_key("b"), rsa]));
    assert_eq!((set.count(), set.skipped().len()), (3, 0));
    assert!(matches!(set.find(Some("b"), Algorithm::ES256, &[Algorithm::ES256]), Found::Key(_)));
    // SPIRE's keys have no `alg`.
    let allowed = [Algorithm::RS256, Algorithm::PS256];
    assert!(matches!(set.find(Some("rsa"), Algorithm::RS256, &allowed), Found::Key(_)));
}

#[test]
fn what_a_bundle_has_for_others_is_ignored_and_what_is_wrong_is_named() {
    let other_use = |usage: Value| with(svid_key("a"), "use", usage);
    let ignored = [
        other_use(json!("x509-svid")),
        other_use(json!("sig")),
        other_use(json!("JWT-SVID")),
        other_use(json!(["jwt-svid"])),
        other_use(json!(null)),
        with(svid_key("a"), "kty", json!("oct")),
        with(svid_key("a"), "kty", json!("OKP")),
        with(svid_key("a"), "kty", json!("future")),
        json!("not an object"),
        json!({}),
    ];
    let set = svids(&bundle(&ignored));
    assert_eq!((set.count(), set.skipped()), (0, &[][..]));

    let mut nameless = svid_key("a");
    nameless.as_object_mut().unwrap().remove("kid");
    let wrong = [
        nameless,
        with(svid_key("b"), "crv", json!("P-255")),
        with(svid_key("c"), "d", json!("AA")),
    ];
    let set = svids(&bundle(&wrong));
    let why: Vec<_> = set.skipped().iter().map(|skipped| skipped.why).collect();
    assert_eq!((set.count(), why), (0, vec![KeyError::Curve, KeyError::Private, KeyError::Id]));
}

#[test]
fn a_bundle_without_keys_is_one_and_a_malformed_one_is_none() {
    assert_eq!(svids(&bundle(&[])).count(), 0);
    let refused = |text: String| KeySet::of_jwt_svids(text.as_bytes()).map(drop).unwrap_err();
    for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[],\"keys\":[]}"] {
        assert_eq!(refused(text.to_owned()), KeySetError::Malformed, "{text}");
    }
    for number in [json!(-1), json!("1"), json!(1.5), json!(null)] {
        for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
            let text = with(bundle(&[svid_key("a")]), name, number.clone()).to_string();
            assert_eq!(refused(text), KeySetError::Hint, "{name} {number}");
        }
    }
    let many: Vec<_> = (0..=MAX_KEYS).map(|_| json!({})).collect();
    assert_eq!(refused(bundle(&many).to_string()), KeySetError::TooManyKeys);
}
