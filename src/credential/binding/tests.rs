//! Bonds: RFC 8705, Appendix A and what proves none.

use serde_json::json;

use super::*;
use crate::credential::testing::{self, certificate};

const NOW: UnixTime = UnixTime::from_secs(1_000);
/// RFC 9449, figure 9.
const RFC9449: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

fn print(text: &str) -> Thumbprint {
    Thumbprint::from_base64url(text).unwrap()
}

fn peer(thumbprint: Option<Thumbprint>) -> PeerEvidence<'static> {
    PeerEvidence {
        spiffe: None,
        spiffe_untold: false,
        dns: Vec::new(),
        thumbprint,
        certificate: None,
    }
}

/// For tokens that are bound to no key.
fn no_key(_: Thumbprint) -> Result<(), ProofError> {
    panic!("no proof is looked at")
}

#[test]
fn without_cnf_nothing_is_confirmed() {
    assert_eq!(Confirmation::read(None), Ok(Confirmation::default()));
}

#[test]
fn understood_members_are_read_and_others_beside_them_ignored() {
    let ours = Thumbprint::of(b"certificate").to_base64url();
    let read = |cnf| Confirmation::read(Some(&cnf));
    let certificate = Confirmation { certificate: Some(print(&ours)), key: None };
    assert_eq!(read(json!({"x5t#S256": ours})), Ok(certificate));
    let key = Confirmation { certificate: None, key: Some(print(RFC9449)) };
    assert_eq!(read(json!({"jkt": RFC9449, "kc-jkt-type": "x"})), Ok(key));
    let both = Confirmation { certificate: Some(print(&ours)), key: Some(print(RFC9449)) };
    assert_eq!(read(json!({"x5t#S256": ours, "jkt": RFC9449})), Ok(both));
}

#[test]
fn cnf_that_is_no_object_or_has_a_bad_thumbprint_is_malformed() {
    let print = Thumbprint::of(b"certificate").to_base64url();
    let bad_thumbprints = [
        json!(null),
        json!(1),
        json!(""),
        json!([print]),
        json!(format!("{print}=")),
        json!(format!(" {print}")),
        json!(print.split_at(42).0),
        json!("+".repeat(43)),
        // The last character's unused bits are not zero.
        json!(format!("{}B", "A".repeat(42))),
        // The SHA-1 form, and hexadecimal.
        json!("A".repeat(27)),
        json!("a".repeat(64)),
    ];
    for value in bad_thumbprints {
        for name in ["x5t#S256", "jkt"] {
            let refused = Confirmation::read(Some(&json!({name: value})));
            assert_eq!(refused, Err(BindingError::Malformed), "{name} {value}");
        }
        let beside = json!({"x5t#S256": print, "jkt": value});
        assert_eq!(Confirmation::read(Some(&beside)), Err(BindingError::Malformed));
    }
    for cnf in [json!(null), json!("x"), json!([]), json!(1), json!(true)] {
        assert_eq!(Confirmation::read(Some(&cnf)), Err(BindingError::Malformed));
    }
}

#[test]
fn cnf_without_an_understood_member_is_not_a_bearer_token() {
    let cnfs = [
        json!({}),
        json!({"kid": "k"}),
        json!({"jwk": {"kty": "EC"}}),
        json!({"x5t": "A"}),
        json!({"x5t#S512": "A"}),
        json!({"X5T#S256": Thumbprint::of(b"").to_base64url()}),
    ];
    for cnf in cnfs {
        assert_eq!(Confirmation::read(Some(&cnf)), Err(BindingError::NotUnderstood), "{cnf}");
    }
}

#[test]
fn a_certificate_bond_is_proven_by_the_peers_own_certificate_only() {
    let ours = Thumbprint::of(b"ours");
    let bound = Confirmation { certificate: Some(ours), key: None };
    let prove = |peer: Option<PeerEvidence<'_>>| {
        bound.prove(Scheme::Bearer, peer.as_ref(), NOW, no_key).map(|(binding, _)| binding)
    };
    assert_eq!(prove(Some(peer(Some(ours)))), Ok(Binding { certificate: true, dpop: false }));
    assert_eq!(prove(None), Err(BindingError::CertificateAbsent));
    assert_eq!(prove(Some(peer(None))), Err(BindingError::CertificateAbsent));
    let other = Thumbprint::of(b"other");
    assert_eq!(prove(Some(peer(Some(other)))), Err(BindingError::CertificateMismatch));
}

#[test]
fn a_certificate_that_is_not_valid_now_proves_no_bond() {
    let certificate = certificate(&[], false);
    let ours = certificate.thumbprint();
    let peer = PeerEvidence { certificate: Some(certificate), ..peer(Some(ours)) };
    let bound = Confirmation { certificate: Some(ours), key: None };
    let prove = |now| {
        bound.prove(Scheme::Bearer, Some(&peer), now, no_key).map(|(bond, _)| bond.certificate)
    };
    let hour = std::time::Duration::from_secs(3600);
    let second = std::time::Duration::from_secs(1);
    let (first, last) = (testing::NOW.saturating_sub(hour), testing::NOW.saturating_add(hour));
    assert_eq!(prove(first), Ok(true));
    assert_eq!(prove(last), Ok(true));
    assert_eq!(prove(first.saturating_sub(second)), Err(BindingError::CertificateNotValid));
    assert_eq!(prove(last.saturating_add(second)), Err(BindingError::CertificateNotValid));
}

#[test]
fn a_token_bound_to_a_key_is_no_bearer_token_whatever_else_holds() {
    let ours = Thumbprint::of(b"ours");
    let peer = peer(Some(ours));
    for certificate in [None, Some(ours)] {
        let bound = Confirmation { certificate, key: Some(print(RFC9449)) };
        let refused = bound.prove(Scheme::Bearer, Some(&peer), NOW, no_key);
        assert_eq!(refused, Err(BindingError::SchemeMismatch));
    }
}

#[test]
fn every_member_is_proven_and_the_key_is_the_one_of_the_token() {
    let (ours, other) = (Thumbprint::of(b"ours"), Thumbprint::of(b"other"));
    let peer = peer(Some(ours));
    let prove = |certificate, outcome| {
        let bound = Confirmation { certificate, key: Some(print(RFC9449)) };
        bound.prove(Scheme::Dpop, Some(&peer), NOW, |key| {
            assert_eq!(key, print(RFC9449));
            outcome
        })
    };
    let dpop = |certificate| Ok((Binding { certificate, dpop: true }, Some(())));
    assert_eq!(prove(None, Ok(())), dpop(false));
    assert_eq!(prove(Some(ours), Ok(())), dpop(true));
    assert_eq!(prove(Some(other), Ok(())), Err(BindingError::CertificateMismatch));
    let refused = BindingError::Proof(ProofError::Signature);
    assert_eq!(prove(Some(ours), Err(ProofError::Signature)), Err(refused));
}

#[test]
fn the_dpop_scheme_is_wrong_for_tokens_without_a_key() {
    let ours = Thumbprint::of(b"ours");
    let peer = peer(Some(ours));
    for certificate in [None, Some(ours)] {
        let bound = Confirmation { certificate, key: None };
        let refused = bound.prove(Scheme::Dpop, Some(&peer), NOW, no_key);
        assert_eq!(refused, Err(BindingError::SchemeMismatch));
    }
}

#[test]
fn an_unbound_token_is_a_bearer_token() {
    let bearer = Confirmation::default();
    let (binding, proof) = bearer.prove(Scheme::Bearer, None, NOW, no_key).unwrap();
    assert!(binding.is_none() && proof.is_none());
}

#[test]
fn each_error_has_its_reason() {
    let reasons = [
        (BindingError::CertificateAbsent, Reason::CertificateAbsent),
        (BindingError::CertificateMismatch, Reason::CertificateMismatch),
        (BindingError::CertificateNotValid, Reason::CertificateNotValid),
        (BindingError::Proof(ProofError::Missing), Reason::DpopProofMissing),
        (BindingError::Malformed, Reason::ConfirmationMalformed),
        (BindingError::NotUnderstood, Reason::ConfirmationNotUnderstood),
        (BindingError::SchemeMismatch, Reason::SchemeMismatch),
    ];
    for (error, reason) in reasons {
        assert_eq!(Reason::from(error), reason);
    }
}

/// RFC 8705, Appendix A: a self-signed certificate and its thumbprint.
const RFC8705_CERTIFICATE: &str = "MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx\
    ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNcnyxwq\
    V6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID\
    SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOVbUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L\
    +SY=";
const RFC8705_CNF: &str = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0";

#[test]
fn the_example_of_rfc_8705_is_proven_as_written_and_by_no_other_certificate() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let der = STANDARD.decode(RFC8705_CERTIFICATE).unwrap();
    let bound = Confirmation::read(Some(&json!({"x5t#S256": RFC8705_CNF}))).unwrap();
    let prove = |der: &[u8]| {
        let peer = peer(Some(Thumbprint::of(der)));
        bound.prove(Scheme::Bearer, Some(&peer), NOW, no_key).map(|(binding, _)| binding)
    };
    assert_eq!(prove(&der), Ok(Binding { certificate: true, dpop: false }));
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert_eq!(prove(&changed), Err(BindingError::CertificateMismatch), "{at}");
    }
}
