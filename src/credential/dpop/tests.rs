//! Proofs: the examples of RFC 9449, every field of them changed, and what is accepted besides.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::credential::testing::{NOW, Signer, b64};

const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
/// RFC 9449, figure 12.
const PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik\
    VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR\
    nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE\
    QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIj\
    oiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0Z\
    WRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNF\
    c05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71E\
    OptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
/// RFC 9449, figures 4 and 5: a proof for a token endpoint.
const TOKEN_ENDPOINT_PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik\
    VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR\
    nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE\
    QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIj\
    oiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwia\
    WF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg\
    4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
/// RFC 9449, figure 9.
const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
const ISSUED: UnixTime = UnixTime::from_secs(1_562_262_618);

fn jkt() -> Thumbprint {
    Thumbprint::from_base64url(JKT).unwrap()
}

fn rfc_call() -> Call<'static> {
    let token = Thumbprint::of(TOKEN.as_bytes());
    Call { method: "GET", path: "/protectedresource", token, key: jkt() }
}

fn verifier() -> ProofVerifier {
    crate::credential::testing::proofs()
}

fn one(text: &str) -> PresentedProof<'_> {
    PresentedProof::One(text)
}

#[test]
fn the_example_of_rfc_9449_is_verified_as_written() {
    let verifier = verifier();
    for _cold_then_warm in 0..2 {
        let proof = verifier.verify(one(PROOF), rfc_call(), ISSUED).unwrap();
        assert_eq!(proof.origin, Origin::parse("https://resource.example.org").unwrap());
        assert_eq!((proof.issued, proof.is_recent), (ISSUED, true));
        assert_eq!(proof.nonce, PresentedNonce::Absent);
    }
    assert_eq!(verifier.headers.len(), 1);
}

#[test]
fn the_proof_for_a_token_endpoint_is_none_for_a_token() {
    let call = Call { method: "POST", path: "/token", ..rfc_call() };
    let refused = verifier().verify(one(TOKEN_ENDPOINT_PROOF), call, ISSUED);
    assert_eq!(refused, Err(ProofError::Token));
}

#[test]
fn the_example_is_refused_with_any_character_changed() {
    let verifier = verifier();
    // Its key is known, as that of a client that calls again.
    verifier.verify(one(PROOF), rfc_call(), ISSUED).unwrap();
    for at in 0..PROOF.len() {
        let mut changed = PROOF.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verifier.verify(one(&changed), rfc_call(), ISSUED).is_err(), "{at}");
    }
    for cut in 0..PROOF.len() {
        let (short, _) = PROOF.split_at(cut);
        assert!(verifier.verify(one(short), rfc_call(), ISSUED).is_err(), "{cut}");
    }
}

#[test]
fn the_example_is_refused_for_any_other_call() {
    let verifier = verifier();
    let verify = |call| verifier.verify(one(PROOF), call, ISSUED).err();
    for method in ["POST", "get", "Get", "HEAD", ""] {
        assert_eq!(verify(Call { method, ..rfc_call() }), Some(ProofError::Method), "{method}");
    }
    for path in
        ["/", "", "/Protectedresource", "/protectedresource/", "/a/protectedresource", "*", "/%zz"]
    {
        assert_eq!(verify(Call { path, ..rfc_call() }), Some(ProofError::Uri), "{path}");
    }
    let token = Thumbprint::of(b"other");
    assert_eq!(verify(Call { token, ..rfc_call() }), Some(ProofError::Token));
    let key = Thumbprint::of(b"other");
    assert_eq!(verify(Call { key, ..rfc_call() }), Some(ProofError::OtherKey));
    // The same path in another spelling is the same path.
    let path = "/x/../%70rotectedresource";
    assert_eq!(verify(Call { path, ..rfc_call() }), None);
}

#[test]
fn none_several_and_unreadable_ones_have_their_reasons() {
    let verify = |presented| verifier().verify(presented, rfc_call(), ISSUED).err();
    assert_eq!(verify(PresentedProof::Absent), Some(ProofError::Missing));
    assert_eq!(verify(PresentedProof::Several), Some(ProofError::Ambiguous));
    assert_eq!(verify(PresentedProof::Unreadable), Some(ProofError::Malformed));
}

/// A client with a key, and proofs of it at [`NOW`].
struct Client {
    signer: Signer,
    header: Value,
    claims: Value,
    verifier: ProofVerifier,
}

impl Client {
    fn of(signer: Signer) -> Self {
        let mut jwk = signer.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        Self {
            header: json!({"typ": "dpop+jwt", "alg": signer.alg, "jwk": jwk}),
            claims: json!({
                "jti": "1", "htm": "POST", "htu": "https://api.example/a", "iat": NOW.as_secs(),
                "ath": Thumbprint::of(b"token").to_base64url(),
            }),
            signer,
            verifier: verifier(),
        }
    }

    fn new() -> Self {
        Self::of(Signer::es256("k"))
    }

    fn key(&self) -> Thumbprint {
        let algorithm = crate::trust::jwks::Algorithm::parse(self.signer.alg).unwrap();
        let key = crate::trust::jwks::PublicKey::read(&self.signer.jwk(), algorithm);
        key.unwrap().thumbprint()
    }

    fn present(&self, proof: &str) -> Result<VerifiedProof, ProofError> {
        let token = Thumbprint::of(b"token");
        let call = Call { method: "POST", path: "/a", token, key: self.key() };
        self.verifier.verify(PresentedProof::read(proof.as_bytes()), call, NOW)
    }

    fn verify(&self) -> Result<VerifiedProof, ProofError> {
        self.present(&self.signer.sign_with(&self.header, &self.claims))
    }

    fn with_header(&self, name: &str, value: Option<Value>) -> Result<VerifiedProof, ProofError> {
        let header = changed(&self.header, name, value);
        self.present(&self.signer.sign_with(&header, &self.claims))
    }

    fn with_claim(&self, name: &str, value: Option<Value>) -> Result<VerifiedProof, ProofError> {
        let claims = changed(&self.claims, name, value);
        self.present(&self.signer.sign_with(&self.header, &claims))
    }
}

fn changed(object: &Value, name: &str, value: Option<Value>) -> Value {
    let mut object = object.clone();
    let members = object.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    object
}

#[test]
fn keys_of_every_accepted_kind_make_proofs() {
    let signers =
        [Signer::es256("k"), Signer::es384("k"), Signer::ed25519("k"), Signer::rsa("k", "PS256")];
    for signer in signers {
        let client = Client::of(signer);
        assert!(client.verify().is_ok(), "{}", client.signer.alg);
    }
}

#[test]
fn an_algorithm_that_is_not_accepted_is_refused_though_the_key_could() {
    let client = Client::of(Signer::rsa("k", "RS256"));
    assert_eq!(client.verify(), Err(ProofError::Algorithm));
    let client = Client::new();
    for alg in [json!("none"), json!("HS256"), json!("es256"), json!(["ES256"]), json!(null)] {
        let refused = client.with_header("alg", Some(alg.clone()));
        assert_eq!(refused, Err(ProofError::Algorithm), "{alg}");
    }
    assert_eq!(client.with_header("alg", None), Err(ProofError::Algorithm));
    // Another that is accepted, and does not fit the key.
    for alg in ["ES384", "EdDSA", "PS256"] {
        assert_eq!(client.with_header("alg", Some(json!(alg))), Err(ProofError::Key), "{alg}");
    }
}

#[test]
fn the_type_is_a_media_type() {
    let client = Client::new();
    for typ in ["dpop+jwt", "DPoP+JWT", "application/dpop+jwt", "Application/DPOP+jwt"] {
        assert!(client.with_header("typ", Some(json!(typ))).is_ok(), "{typ}");
    }
    for typ in [json!("at+jwt"), json!("JWT"), json!(""), json!("dpop"), json!(["dpop+jwt"])] {
        assert_eq!(client.with_header("typ", Some(typ.clone())), Err(ProofError::Type), "{typ}");
    }
    assert_eq!(client.with_header("typ", None), Err(ProofError::Type));
}

#[test]
fn a_key_that_is_private_malformed_or_missing_is_refused() {
    let client = Client::new();
    assert_eq!(client.with_header("jwk", None), Err(ProofError::Key));
    let jwk = client.header["jwk"].clone();
    let with = |name: &str, value| client.with_header("jwk", Some(changed(&jwk, name, value)));
    for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"] {
        assert_eq!(with(private, Some(json!(null))), Err(ProofError::Key), "{private}");
    }
    let x = jwk["x"].as_str().unwrap().to_owned();
    let bad = [json!(format!("{x}=")), json!(format!("{x}A")), json!(1), json!(b64([1; 32]))];
    for bad in bad {
        assert_eq!(with("x", Some(bad.clone())), Err(ProofError::Key), "{bad}");
    }
    assert_eq!(with("kty", Some(json!("oct"))), Err(ProofError::Key));
    assert_eq!(with("crv", Some(json!("P-384"))), Err(ProofError::Key));
    assert_eq!(with("alg", Some(json!("ES384"))), Err(ProofError::Key));
    assert_eq!(with("use", Some(json!("enc"))), Err(ProofError::Key));
    assert!(with("alg", Some(json!("ES256"))).is_ok());
    // The key is that of `jwk`, whatever else is named.
    for (name, value) in [("kid", json!("x")), ("jku", json!("https://x")), ("x5c", json!([]))] {
        assert!(client.with_header(name, Some(value)).is_ok(), "{name}");
    }
}

#[test]
fn another_keys_signature_is_refused() {
    let (client, stranger) = (Client::new(), Signer::es256("k"));
    let forged = stranger.sign_with(&client.header, &client.claims);
    assert_eq!(client.present(&forged), Err(ProofError::Signature));
    let other = Client::new();
    let valid = other.signer.sign_with(&other.header, &other.claims);
    assert_eq!(client.present(&valid), Err(ProofError::OtherKey));
    assert!(client.verifier.headers.is_empty(), "keys that nobody vouches for are not kept");
}

#[test]
fn each_claim_is_required_and_of_its_type() {
    let client = Client::new();
    for name in ["jti", "htm", "htu", "iat"] {
        assert_eq!(client.with_claim(name, None), Err(ProofError::Malformed), "{name}");
        for value in [json!(null), json!([]), json!({}), json!(true)] {
            let refused = client.with_claim(name, Some(value.clone()));
            assert_eq!(refused, Err(ProofError::Malformed), "{name} {value}");
        }
    }
    assert_eq!(client.with_claim("ath", None), Err(ProofError::Token));
    for (name, value) in [
        ("jti", json!("")),
        ("jti", json!("x".repeat(proof::MAX_JTI_BYTES + 1))),
        ("jti", json!(1)),
        ("iat", json!(NOW.as_secs().to_string())),
        ("iat", json!(-1)),
        ("iat", json!(1e300)),
        ("ath", json!(1)),
        ("nonce", json!(null)),
        ("nonce", json!(1)),
        ("exp", json!("1")),
        ("nbf", json!(null)),
    ] {
        let refused = client.with_claim(name, Some(value.clone()));
        assert_eq!(refused, Err(ProofError::Malformed), "{name} {value}");
    }
    let print = Thumbprint::of(b"token").to_base64url();
    for ath in ["", "x", &format!("{print}="), &print.to_uppercase()] {
        assert_eq!(client.with_claim("ath", Some(json!(ath))), Err(ProofError::Token), "{ath}");
    }
    assert!(client.with_claim("jti", Some(json!("x".repeat(proof::MAX_JTI_BYTES)))).is_ok());
    assert!(client.with_claim("unknown", Some(json!([1]))).is_ok());
}

#[test]
fn what_is_no_strict_compact_jws_is_malformed() {
    let client = Client::new();
    let good = client.signer.sign_with(&client.header, &client.claims);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!() };
    for bad in [
        "x".to_owned(),
        "..".to_owned(),
        format!("{good}."),
        format!("{header}.{payload}"),
        format!("{good}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{{}}{good}"),
        "A".repeat(proof::MAX_BYTES + 1),
    ] {
        assert_eq!(client.present(&bad), Err(ProofError::Malformed), "{bad}");
    }
    for parameter in ["crit", "b64", "zip"] {
        let refused = client.with_header(parameter, Some(json!(["exp"])));
        assert_eq!(refused, Err(ProofError::Malformed));
    }
    let (header, claims) = (client.header.to_string(), client.claims.to_string());
    let doubled =
        |text: &str, member: &str| format!("{{{member},{}", text.strip_prefix('{').unwrap());
    let twice = client.signer.sign_text(&doubled(&header, r#""typ":"dpop+jwt""#), &claims);
    assert_eq!(client.present(&twice), Err(ProofError::Malformed));
    let twice = client.signer.sign_text(&header, &doubled(&claims, r#""htm":"POST""#));
    assert_eq!(client.present(&twice), Err(ProofError::Malformed));
    let list = client.signer.sign_text(&header, "[]");
    assert_eq!(client.present(&list), Err(ProofError::Malformed));
}

#[test]
fn query_and_fragment_count_on_neither_side_and_another_uri_is_refused() {
    let client = Client::new();
    for htu in
        ["https://api.example/a?x=1#y", "HTTPS://API.EXAMPLE:443/./a", "http://other.example/a"]
    {
        // Whose origin it is, the rule judges.
        assert!(client.with_claim("htu", Some(json!(htu))).is_ok(), "{htu}");
    }
    for htu in
        ["https://api.example/b", "https://api.example/a/", "/a", "", "https://u@api.example/a"]
    {
        assert_eq!(client.with_claim("htu", Some(json!(htu))), Err(ProofError::Uri), "{htu}");
    }
}

#[test]
fn the_window_is_sixty_seconds_past_and_ten_ahead() {
    let client = Client::new();
    let now = NOW.as_secs();
    for (iat, recent) in [
        (json!(now - 60), true),
        (json!(now - 61), false),
        (json!(now + 10), true),
        (json!(now + 11), false),
        (json!(0), false),
    ] {
        let proof = client.with_claim("iat", Some(iat.clone())).unwrap();
        assert_eq!(proof.is_recent, recent, "{iat}");
    }
    let proof = client.verify().unwrap();
    assert_eq!(proof.usable_until.as_secs(), now + 70);
    let ages = client.with_claim("iat", Some(json!(now + 7201)));
    assert_eq!(ages, Err(ProofError::Time));
    for (name, value, good) in [
        ("exp", now - 9, true),
        ("exp", now - 10, false),
        ("nbf", now + 10, true),
        ("nbf", now + 11, false),
    ] {
        assert_eq!(client.with_claim(name, Some(json!(value))).is_ok(), good, "{name} {value}");
    }
}

#[test]
fn a_nonce_of_ours_tells_the_time_for_as_long_as_a_proof_is_accepted() {
    let client = Client::new();
    let nonces = client.verifier.nonces();
    let issued = |ago: u64| NOW.saturating_sub(Duration::from_secs(ago));
    let state = |nonce: Option<String>, iat: u64| {
        let claims = changed(&client.claims, "nonce", Some(json!(nonce)));
        let claims = changed(&claims, "iat", Some(json!(iat)));
        let proof = client.present(&client.signer.sign_with(&client.header, &claims)).unwrap();
        (proof.nonce, proof.created(), proof.usable_until)
    };
    let hour_ago = NOW.as_secs() - 3600;
    let nonce = nonces.issue(client.key(), issued(60));
    let (found, created, until) = state(nonce, hour_ago);
    assert_eq!((found, created), (PresentedNonce::Valid(issued(60)), issued(60)));
    assert_eq!(until.as_secs(), NOW.as_secs() + 10);
    let old = nonces.issue(client.key(), issued(61));
    assert_eq!(state(old, hour_ago).0, PresentedNonce::Invalid);
    let others = nonces.issue(Thumbprint::of(b"other"), NOW);
    assert_eq!(state(others, hour_ago).0, PresentedNonce::Invalid);
    assert_eq!(state(Some(String::new()), hour_ago).0, PresentedNonce::Invalid);
    // Dated ahead, it is remembered for as long as its own word would let it pass elsewhere.
    let hour_ahead = NOW.as_secs() + 3600;
    let (_, _, until) = state(nonces.issue(client.key(), NOW), hour_ahead);
    assert_eq!(until.as_secs(), hour_ahead + 70);
}

#[test]
fn proofs_are_told_apart_by_key_and_identifier() {
    let (a, b) = (Client::new(), Client::new());
    let id = |client: &Client, jti: &str| client.with_claim("jti", Some(json!(jti))).unwrap().id;
    assert_eq!(id(&a, "1"), id(&a, "1"));
    assert_ne!(id(&a, "1"), id(&a, "2"));
    assert_ne!(id(&a, "1"), id(&b, "1"));
}

#[test]
fn each_error_has_its_reason() {
    let reasons = [
        (ProofError::Algorithm, Reason::DpopProofAlgorithm),
        (ProofError::Ambiguous, Reason::DpopProofAmbiguous),
        (ProofError::Key, Reason::DpopProofKey),
        (ProofError::Malformed, Reason::DpopProofMalformed),
        (ProofError::Method, Reason::DpopProofMethod),
        (ProofError::Missing, Reason::DpopProofMissing),
        (ProofError::OtherKey, Reason::DpopKeyMismatch),
        (ProofError::Signature, Reason::DpopProofSignature),
        (ProofError::Time, Reason::DpopProofTime),
        (ProofError::Token, Reason::DpopProofToken),
        (ProofError::Type, Reason::DpopProofType),
        (ProofError::Uri, Reason::DpopProofUri),
    ];
    for (error, reason) in reasons {
        assert_eq!(Reason::from(error), reason);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_is_a_proof_or_panics(text in "[A-Za-z0-9_.-]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(verifier().verify(one(&text), rfc_call(), ISSUED).is_err());
        let text = format!("{}.{}.{}", b64(&bytes), b64(&bytes), b64(&bytes));
        prop_assert!(verifier().verify(one(&text), rfc_call(), ISSUED).is_err());
    }

    #[test]
    fn a_proof_for_one_path_passes_for_no_other(signed in "(/[a-c%2F.]{0,3}){1,3}", asked in "(/[a-c%2F.]{0,3}){1,3}") {
        let client = Client::new();
        let claims = changed(&client.claims, "htu", Some(json!(format!("https://api.example{signed}"))));
        let proof = client.signer.sign_with(&client.header, &claims);
        let token = Thumbprint::of(b"token");
        let call = Call { method: "POST", path: &asked, token, key: client.key() };
        let passes = client.verifier.verify(one(&proof), call, NOW).is_ok();
        let same = matches!(
            (htu::normal_path(&signed), htu::normal_path(&asked)),
            (Some(signed), Some(asked)) if signed == asked
        );
        prop_assert_eq!(passes, same);
    }
}
