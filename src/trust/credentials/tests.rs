//! Credentials from files.

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::*;
use crate::credential::testing::NOW;

fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, ClientCredentials) {
    let all = tempfile::tempdir().unwrap();
    std::fs::create_dir(all.path().join("corp")).unwrap();
    for (name, content) in files {
        std::fs::write(all.path().join("corp").join(name), content).unwrap();
    }
    let credentials = ClientCredentials::of(Some(all.path()), "corp");
    (all, credentials)
}

#[tokio::test]
async fn a_secret_is_read_without_its_line_feed_and_again_each_time() {
    let (all, credentials) = folder(&[("client-secret", b"hunter2\n")]);
    assert_eq!(credentials.secret().await.unwrap(), "hunter2");
    std::fs::write(all.path().join("corp/client-secret"), "hunter3").unwrap();
    assert_eq!(credentials.secret().await.unwrap(), "hunter3");
}

#[tokio::test]
async fn what_is_missing_or_no_credential_is_named_without_its_content() {
    let secret = |credentials: ClientCredentials| async move {
        credentials.secret().await.unwrap_err().to_string()
    };
    let (_all, none) = folder(&[]);
    assert!(secret(none).await.contains("corp/client-secret"));
    for content in [&b"\n"[..], b"\xff\xfe", &vec![b'x'; MAX_FILE_BYTES + 1]] {
        let (_all, bad) = folder(&[("client-secret", content)]);
        assert!(secret(bad).await.contains("is empty, no text, or has more than"));
    }
    assert!(secret(ClientCredentials::of(None, "corp")).await.contains("outbound.credentialsDir"));
    for name in ["", ".", "..", "../corp", "a/b", ".corp"] {
        let error = ClientCredentials::of(Some(Path::new("/x")), name).secret().await.unwrap_err();
        assert!(matches!(error, CredentialsError::Name), "{name}");
    }
    let (_all, bad) = folder(&[("client-key.pem", b"-----BEGIN hunter2")]);
    let error = bad.assertion("symbolon", "https://i.example", NOW).await.unwrap_err();
    assert!(matches!(error, CredentialsError::Key { .. }));
    assert!(!error.to_string().contains("hunter2"));
}

#[tokio::test]
async fn an_assertion_names_us_the_issuer_alone_and_a_short_time() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let (_all, credentials) = folder(&[("client-key.pem", pair.serialize_pem().as_bytes())]);
    let make = || credentials.assertion("symbolon", "https://i.example", NOW);
    let (one, other) = (make().await.unwrap(), make().await.unwrap());
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.set_audience(&["https://i.example"]);
    let key = DecodingKey::from_ec_der(pair.public_key_raw());
    let read = |token: &str| jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
    let claims = read(&one).claims;
    assert_eq!(claims["iss"], "symbolon");
    assert_eq!(claims["sub"], "symbolon");
    assert_eq!(claims["aud"], "https://i.example");
    assert_eq!(claims["exp"], NOW.as_secs() + 60);
    assert_ne!(claims["jti"], read(&other).claims["jti"]);
}

#[tokio::test]
async fn keys_of_each_kind_sign_with_their_own_algorithm() {
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
    for (algorithm, expected) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
        (&rcgen::PKCS_ED25519, Algorithm::EdDSA),
        (&rcgen::PKCS_RSA_SHA256, Algorithm::PS256),
    ] {
        let (_all, credentials) = folder(&[("client-key.pem", pem(algorithm).as_bytes())]);
        let token = credentials.assertion("c", "https://i.example", NOW).await.unwrap();
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().alg, expected);
    }
}
