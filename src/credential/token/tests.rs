//! Tokens taken apart: the RFC 7515 example and what is refused.

use serde_json::json;

use super::*;
use crate::credential::testing::{Signer, b64, claims, document, issuer_of, jwks};

/// RFC 7515, Appendix A.3: a JWS with ES256, its payload and its key.
const RFC7515_A3: &str = "eyJhbGciOiJFUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RFC7515_A3_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn verify_a3(token: &str) -> Result<Object, TokenError> {
    let keys = KeySet::parse(RFC7515_A3_KEYS.as_bytes()).unwrap();
    let jws = parse(token)?;
    let Found::Key(key) = jws.find_key(&keys, &document()) else {
        return Err(TokenError::KeyUnknown);
    };
    jws.verify_signature(key)
}

#[test]
fn the_example_of_rfc_7515_verifies() {
    let claims = verify_a3(RFC7515_A3).unwrap();
    assert_eq!(claims.get("iss"), Some(&json!("joe")));
    assert_eq!(claims.get("exp"), Some(&json!(1_300_819_380)));
}

#[test]
fn the_example_of_rfc_7515_fails_with_any_character_changed() {
    for at in 0..RFC7515_A3.len() {
        let mut changed = RFC7515_A3.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verify_a3(&changed).is_err(), "{at}");
    }
}

#[test]
fn every_supported_algorithm_verifies_with_its_key() {
    let signers = [
        Signer::es256("a"),
        Signer::es384("b"),
        Signer::ed25519("c"),
        Signer::rsa("d", "PS256"),
        Signer::rsa("e", "RS256"),
        Signer::es512("f"),
    ];
    let mut document = document();
    document.algorithms = Algorithm::NAMED.map(|(_, algorithm)| algorithm).to_vec();
    let keys = KeySet::parse(jwks(&signers.each_ref()).as_bytes()).unwrap();
    for signer in &signers {
        let token = signer.sign(&claims());
        let jws = parse(&token).unwrap();
        jws.check_header(&document).unwrap();
        let Found::Key(key) = jws.find_key(&keys, &document) else { panic!("{}", signer.alg) };
        assert!(jws.verify_signature(key).is_ok(), "{}", signer.alg);
        let mut forged = token.into_bytes();
        let place = forged.len() - 40;
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        let refused = parse(&forged).unwrap().verify_signature(key);
        assert_eq!(refused.map(drop), Err(TokenError::Signature), "{}", signer.alg);
    }
}

#[test]
fn the_fully_specified_name_of_ed25519_is_the_same_algorithm() {
    let signer = Signer::ed25519("c");
    let header = json!({"alg": "Ed25519", "typ": "at+jwt", "kid": "c"});
    let token = signer.sign_with(&header, &claims());
    let keys = KeySet::parse(jwks(&[&signer]).as_bytes()).unwrap();
    let jws = parse(&token).unwrap();
    let Found::Key(key) = jws.find_key(&keys, &document()) else { panic!() };
    assert!(jws.verify_signature(key).is_ok());
}

#[test]
fn only_three_parts_of_canonical_base64url_are_a_token() {
    let good = Signer::es256("k").sign(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let header_text = |text: &str| format!("{}.{payload}.{signature}", b64(text));
    let payload_text = |text: &str| format!("{header}.{}.{signature}", b64(text));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let malformed = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "rubbish".to_owned(),
        signed.to_owned(),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{good} "),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+")) + "+",
        format!("{header}..{signature}"),
        // The last character's unused bits are not zero: another spelling of the same octets.
        format!("{}.{payload}.{signature}", "eyJhbGciOiJFUzI1NiJ"),
        "eyJhbGciOiJFUzI1NiJ9.e31=.AA".to_owned(),
        "eyJhbGciOiJFUzI1NiJ9.e30.AB".to_owned(),
        header_text("[]"),
        header_text("{\"alg\":\"ES256\",\"alg\":\"ES256\"}"),
        header_text("{\"alg\":\"ES256\",\"kid\":7}"),
        header_text(&format!("{{\"alg\":\"ES256\",\"kid\":\"{}\"}}", "k".repeat(1024))),
        header_text(&format!("{{\"alg\":\"ES256\",\"x\":\"{}\"}}", "x".repeat(4096))),
        payload_text("\"text\""),
        payload_text("{\"iss\":1,\"iss\":1}"),
        payload_text("{\"a\":{\"b\":1,\"b\":1}}"),
        payload_text("{\"exp\":1e400}"),
        payload_text(&deep),
        // RFC 7515 §7.2: the JSON serialisation.
        format!("{{\"payload\":\"{payload}\",\"signature\":\"{signature}\"}}"),
    ];
    for token in malformed {
        assert_eq!(parse(&token).map(drop), Err(TokenError::Malformed), "{token}");
    }
}

#[test]
fn a_token_over_the_limit_is_too_long_before_it_is_read() {
    assert_eq!(parse(&"a".repeat(MAX_BYTES + 1)).map(drop), Err(TokenError::TooLong));
    assert_eq!(parse(&"a".repeat(1 << 20)).map(drop), Err(TokenError::TooLong));
    assert_eq!(parse(&"a".repeat(MAX_BYTES)).map(drop), Err(TokenError::Malformed));
}

#[test]
fn an_algorithm_that_no_issuer_could_allow_is_refused() {
    let signer = Signer::es256("k");
    let algorithms = [
        json!("none"),
        json!("nOnE"),
        json!("None"),
        json!(""),
        json!("HS256"),
        json!("HS512"),
        json!("es256"),
        json!("ES256 "),
        json!("ES521"),
        json!("ES256K"),
        json!(["ES256"]),
        json!(null),
        json!(256),
    ];
    for alg in algorithms {
        let token = signer.sign_with(&json!({"alg": alg, "typ": "at+jwt", "kid": "k"}), &claims());
        assert_eq!(parse(&token).map(drop), Err(TokenError::Algorithm), "{alg}");
    }
    let token = signer.sign_with(&json!({"typ": "at+jwt"}), &claims());
    assert_eq!(parse(&token).map(drop), Err(TokenError::Algorithm));
    let unsigned = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(claims().to_string()));
    assert_eq!(parse(&unsigned).map(drop), Err(TokenError::Algorithm));
}

#[test]
fn an_algorithm_that_the_issuer_does_not_list_is_refused() {
    let token = Signer::rsa("k", "RS256").sign(&claims());
    let refused = parse(&token).unwrap().check_header(&document());
    assert_eq!(refused, Err(TokenError::Algorithm));
}

#[test]
fn anything_critical_is_refused() {
    let signer = Signer::es256("k");
    let headers = [
        json!({"alg": "ES256", "crit": ["exp"], "exp": 1}),
        json!({"alg": "ES256", "crit": []}),
        json!({"alg": "ES256", "crit": null}),
        json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "b64": false}),
        json!({"alg": "ES256", "b64": true}),
        json!({"alg": "ES256", "zip": "DEF"}),
    ];
    for header in headers {
        let token = signer.sign_with(&header, &claims());
        assert_eq!(parse(&token).map(drop), Err(TokenError::Critical), "{header}");
    }
}

#[test]
fn the_type_is_compared_as_a_media_type() {
    let signer = Signer::es256("k");
    let check = |typ: Value| {
        let token = signer.sign_with(&json!({"alg": "ES256", "typ": typ}), &claims());
        parse(&token).unwrap().check_header(&document())
    };
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert_eq!(check(json!(typ)), Ok(()), "{typ}");
    }
    for typ in [
        "JWT",
        "dpop+jwt",
        "wit+jwt",
        "",
        "at+jwt ",
        "application/",
        "text/at+jwt",
        "application/application/at+jwt",
    ] {
        assert_eq!(check(json!(typ)), Err(TokenError::Type), "{typ}");
    }
    for typ in [json!(null), json!(1), json!(["at+jwt"])] {
        assert_eq!(check(typ), Err(TokenError::Type));
    }
    let token = signer.sign_with(&json!({"alg": "ES256"}), &claims());
    assert_eq!(parse(&token).unwrap().check_header(&document()), Err(TokenError::Type));
}

#[test]
fn keys_that_the_token_brings_along_are_not_used() {
    let (ours, theirs) = (Signer::es256("k"), Signer::es256("k"));
    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "k", "jwk": theirs.jwk(),
        "jku": "http://127.0.0.1/keys", "x5u": "http://127.0.0.1/cert", "x5c": ["AA=="]});
    let issuer = issuer_of(document(), &[&ours]);
    let keys = issuer.last_keys().unwrap();
    let verify = |token: &str| {
        let jws = parse(token).unwrap();
        let Found::Key(key) = jws.find_key(&keys, &issuer.document) else { panic!() };
        jws.verify_signature(key).map(drop)
    };
    assert_eq!(verify(&theirs.sign_with(&header, &claims())), Err(TokenError::Signature));
    assert_eq!(verify(&ours.sign_with(&header, &claims())), Ok(()));
}

#[test]
fn signatures_of_the_wrong_form_do_not_verify() {
    let signer = Signer::es256("k");
    let good = signer.sign(&claims());
    let message = good.rsplit_once('.').unwrap().0;
    let issuer = issuer_of(document(), &[&signer]);
    let keys = issuer.last_keys().unwrap();
    // All zeros (r and s out of range), empty, cut, too long, DER in place of R and S.
    for signature in [&[0; 64][..], &[], &[1; 63], &[1; 65], &[0x30, 6, 2, 1, 1, 2, 1, 1]] {
        let token = format!("{message}.{}", b64(signature));
        let jws = parse(&token).unwrap();
        let Found::Key(key) = jws.find_key(&keys, &issuer.document) else { panic!() };
        assert_eq!(jws.verify_signature(key).map(drop), Err(TokenError::Signature));
    }
}

#[test]
fn each_error_has_its_reason() {
    let reasons = [
        (TokenError::Algorithm, Reason::TokenAlgorithm),
        (TokenError::Critical, Reason::TokenCritical),
        (TokenError::IssuerInvalid, Reason::TokenClaimInvalid),
        (TokenError::IssuerMissing, Reason::TokenClaimMissing),
        (TokenError::IssuerUnknown, Reason::TokenIssuerUnknown),
        (TokenError::KeyUnknown, Reason::TokenKeyUnknown),
        (TokenError::KeysUnavailable, Reason::IssuerKeysUnavailable),
        (TokenError::Malformed, Reason::TokenMalformed),
        (TokenError::Signature, Reason::TokenSignature),
        (TokenError::TooLong, Reason::TokenTooLarge),
        (TokenError::Type, Reason::TokenType),
    ];
    for (error, reason) in reasons {
        assert_eq!(Reason::from(error), reason);
    }
}
