//! Claims: types, times, profiles.

use serde_json::json;

use super::*;
use crate::credential::testing::{NOW, claims, claims_with, document};

fn read_as(profile: Profile, claims: Value) -> Result<AccessToken, ClaimsError> {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let document = IssuerDocument { profile, ..document() };
    let required = Required::of(profile);
    AccessToken::read("corp".into(), &document, claims, required).map(|(token, _bindable)| token)
}

fn read(claims: Value) -> Result<AccessToken, ClaimsError> {
    read_as(Profile::Rfc9068, claims)
}

fn error(name: &str, value: Value) -> ClaimsError {
    read(claims_with(name, Some(value))).unwrap_err()
}

#[test]
fn the_claims_of_a_good_token_are_read() {
    let token = read(claims()).unwrap();
    assert_eq!(token.subject.as_deref(), Some("checkout"));
    assert_eq!(token.client_id.as_deref(), Some("checkout"));
    assert_eq!(token.id.as_deref(), Some("1"));
    assert_eq!(token.audiences, ["https://payments.example"]);
    assert_eq!(token.scopes, ["payments:read", "payments:write"]);
    assert_eq!(token.issued, Some(NOW));
    assert_eq!(token.expires.saturating_since(NOW).as_secs(), 300);
    assert_eq!(token.not_before, None);
    assert_eq!(token.confirmation, Confirmation::default());
}

#[test]
fn each_claim_of_the_profile_is_required() {
    for name in ["exp", "aud", "sub", "client_id", "iat", "jti"] {
        let refused = read(claims_with(name, None)).unwrap_err();
        assert_eq!(refused, ClaimsError::Missing(name));
    }
    for name in ["exp", "aud"] {
        let refused = read_as(Profile::Jwt, claims_with(name, None)).unwrap_err();
        assert_eq!(refused, ClaimsError::Missing(name));
    }
    for name in ["sub", "client_id", "iat", "jti", "scope"] {
        assert!(read_as(Profile::Jwt, claims_with(name, None)).is_ok(), "{name}");
    }
}

#[test]
fn wrong_types_are_refused_under_every_profile() {
    let texts = ["sub", "client_id", "jti"];
    let bad = [json!(1), json!(null), json!(""), json!(["a"]), json!({}), json!(true)];
    for name in texts {
        for value in &bad {
            assert_eq!(error(name, value.clone()), ClaimsError::Invalid(name));
            let claims = claims_with(name, Some(value.clone()));
            assert_eq!(read_as(Profile::Jwt, claims).unwrap_err(), ClaimsError::Invalid(name));
        }
    }
}

#[test]
fn times_are_numbers_in_range() {
    for name in ["exp", "nbf", "iat"] {
        let bad = [
            json!("1800000000"),
            json!(null),
            json!(-1),
            json!(-0.5),
            json!(1e300),
            json!(253_402_300_800_u64),
            json!(u64::MAX),
            json!([1]),
            json!(true),
        ];
        for value in bad {
            assert_eq!(error(name, value.clone()), ClaimsError::Invalid(name), "{name} {value}");
        }
    }
    let token = read(claims_with("exp", Some(json!(1_800_000_000.5)))).unwrap();
    assert_eq!(token.expires.saturating_since(NOW), Duration::from_millis(500));
}

#[test]
fn an_audience_is_a_text_or_a_bounded_list_of_texts() {
    for value in [json!("a"), json!(["a"]), json!(vec!["a"; MAX_AUDIENCES])] {
        assert!(read(claims_with("aud", Some(value))).is_ok());
    }
    let bad = [
        json!([]),
        json!(""),
        json!([""]),
        json!(["a", 1]),
        json!([["a"]]),
        json!(1),
        json!(null),
        json!({"a": 1}),
        json!(vec!["a"; MAX_AUDIENCES + 1]),
    ];
    for value in bad {
        assert_eq!(error("aud", value), ClaimsError::Invalid("aud"));
    }
}

#[test]
fn scopes_are_one_text_and_come_sorted_without_duplicates() {
    let scopes = |text: &str| read(claims_with("scope", Some(json!(text)))).unwrap().scopes;
    assert_eq!(scopes("b a  b"), ["a", "b"]);
    assert_eq!(scopes(""), [""; 0]);
    for value in [json!({"a": 1}), json!(null), json!(1), json!("a\tb"), json!("a\"b"), json!("ä")]
    {
        for profile in [Profile::Rfc9068, Profile::Jwt] {
            let refused = read_as(profile, claims_with("scope", Some(value.clone())));
            assert_eq!(refused.unwrap_err(), ClaimsError::Invalid("scope"), "{value}");
        }
    }
}

#[test]
fn how_the_user_authenticated_is_read_strictly() {
    let mut claims = claims_with("acr", Some(json!("gold")));
    claims["auth_time"] = json!(NOW.as_secs() - 60);
    let token = read(claims).unwrap();
    assert_eq!(token.authentication_class(), Some("gold"));
    assert_eq!(token.authenticated, Some(NOW.saturating_sub(Duration::from_secs(60))));
    for value in [json!(null), json!(""), json!(1), json!(["gold"])] {
        assert_eq!(error("acr", value), ClaimsError::Invalid("acr"));
    }
    for value in [json!(null), json!("1800000000"), json!(-1), json!(1e300), json!([1])] {
        assert_eq!(error("auth_time", value), ClaimsError::Invalid("auth_time"));
    }
}

#[test]
fn nobody_authenticates_in_the_future_beyond_the_leeway() {
    let at = |seconds| {
        let claims = claims_with("auth_time", Some(json!(NOW.as_secs() + seconds)));
        read(claims).unwrap().check_times(&document(), NOW)
    };
    assert_eq!(at(30), Ok(()));
    assert_eq!(at(31), Err(ClaimsError::Invalid("auth_time")));
}

#[test]
fn actors_are_read_with_the_claims() {
    let claims = claims_with("act", Some(json!({"sub": "web", "act": {"sub": "app"}})));
    let actors = read(claims).unwrap().actors;
    let subjects: Vec<&str> = actors.iter().map(|actor| actor.subject.as_str()).collect();
    assert_eq!(subjects, ["web", "app"]);
    assert_eq!(error("act", json!("web")), ClaimsError::Invalid("act"));
}

#[test]
fn leeway_is_at_most_a_minute_whatever_a_document_says() {
    let mut lax = document();
    lax.leeway = Duration::from_secs(3600);
    let token = read(claims()).unwrap();
    let end = token.expires.saturating_add(Duration::from_secs(60));
    assert_eq!(token.check_times(&lax, end), Err(ClaimsError::Expired));
    assert_eq!(token.check_times(&lax, end.saturating_sub(Duration::from_nanos(1))), Ok(()));
}

#[test]
fn a_token_without_iat_may_not_outlive_the_maximum_from_now() {
    let mut plain = document();
    plain.profile = Profile::Jwt;
    let lives = |seconds| {
        let mut claims = claims_with("iat", None);
        claims["exp"] = json!(NOW.as_secs() + seconds);
        read_as(Profile::Jwt, claims).unwrap().check_document(&plain, NOW)
    };
    assert_eq!(lives(900 + 30), Ok(()));
    assert_eq!(lives(900 + 31), Err(ClaimsError::Lifetime));
}

#[test]
fn larger_claims_weigh_more() {
    let light = read(claims()).unwrap().weight();
    let heavy = read(claims_with("x", Some(json!(vec![0; 1000])))).unwrap().weight();
    assert!(heavy > light + 1000 * size_of::<Value>(), "{light} {heavy}");
}

#[test]
fn each_error_has_its_reason() {
    let reasons = [
        (ClaimsError::Expired, Reason::TokenExpired),
        (ClaimsError::Invalid("sub"), Reason::TokenClaimInvalid),
        (ClaimsError::IssuedInFuture, Reason::TokenIssuedInFuture),
        (ClaimsError::Lifetime, Reason::TokenLifetime),
        (ClaimsError::Mismatch, Reason::TokenClaimMismatch),
        (ClaimsError::Missing("sub"), Reason::TokenClaimMissing),
        (ClaimsError::NotYetValid, Reason::TokenNotYetValid),
    ];
    for (error, reason) in reasons {
        assert_eq!(Reason::from(error), reason);
    }
}
