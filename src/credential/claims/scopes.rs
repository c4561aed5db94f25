//! Scopes as issuers send them: `scope`, `scp`, roles, groups, permissions.
//!
//! The claims that an Issuer lists are one set to the rules: a rule does not say in which of them a scope
//! must be. So a claim whose values others than the issuer choose (groups that anybody may create) is not
//! to be listed beside one whose values a rule asks for.

use serde_json::Value;

use crate::{
    credential::claims::ClaimsError,
    json::Object,
    policy::document::{IssuerDocument, Profile, ScopeClaim},
};

/// Reads the scopes from all claims that `document` lists, sorted, without duplicates. A claim that is not
/// there holds none.
///
/// - `scope` and `scp` are one text of scopes with spaces between them (RFC 6749 §3.3, RFC 8693 §4.2; Entra)
///   or an array of scopes (Okta), but for `scope` under RFC 9068, whose §2.2.3 knows the text only.
/// - Every other claim is an array of texts. Those that no rule can name, since they are no scope tokens
///   (display names of groups), are left out.
///
/// Anything else is refused: a scope that is not seen would not be seen by a rule that denies it either.
///
/// # Errors
/// [`ClaimsError::Invalid`].
pub(super) fn read(claims: &Object, document: &IssuerDocument) -> Result<Vec<String>, ClaimsError> {
    let mut scopes = Vec::new();
    for claim in &document.scope_claims {
        let Some(value) = claims.get(claim.name()) else { continue };
        let held = match (claim, value) {
            (ScopeClaim::Scope | ScopeClaim::Scp, Value::String(text)) => texts(text, &mut scopes),
            (ScopeClaim::Scope, Value::Array(values)) if document.profile != Profile::Rfc9068 => {
                entries(values, true, &mut scopes)
            }
            (ScopeClaim::Scp, Value::Array(values)) => entries(values, true, &mut scopes),
            (ScopeClaim::Other(_), Value::Array(values)) => entries(values, false, &mut scopes),
            (ScopeClaim::Scope | ScopeClaim::Scp | ScopeClaim::Other(_), _) => None,
        };
        held.ok_or(ClaimsError::Invalid(claim.kind()))?;
    }
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

/// Adds the scopes of a text with spaces between them; `None` if one is no scope token.
fn texts(text: &str, scopes: &mut Vec<String>) -> Option<()> {
    let named = || text.split(' ').filter(|scope| !scope.is_empty());
    if !named().all(is_scope_token) {
        return None;
    }
    scopes.extend(named().map(str::to_owned));
    Some(())
}

/// Adds the entries of an array that are scope tokens; `None` if one is no text, is empty or, where all
/// have to be scope tokens, is none.
fn entries(values: &[Value], all: bool, scopes: &mut Vec<String>) -> Option<()> {
    for value in values {
        let entry = value.as_str().filter(|entry| !entry.is_empty())?;
        if is_scope_token(entry) {
            scopes.push(entry.to_owned());
        } else if all {
            return None;
        }
    }
    Some(())
}

/// RFC 6749 §3.3: scope-token.
fn is_scope_token(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::credential::testing::document;

    fn read_from(
        listed: &[ScopeClaim],
        profile: Profile,
        claims: Value,
    ) -> Result<Vec<String>, ClaimsError> {
        let document = IssuerDocument { scope_claims: listed.to_vec(), profile, ..document() };
        let Value::Object(claims) = claims else { panic!() };
        read(&claims, &document)
    }

    fn other(name: &str) -> ScopeClaim {
        ScopeClaim::Other(name.into())
    }

    #[test]
    fn the_claims_that_are_listed_are_one_set_and_others_are_not_looked_at() {
        let claims = json!({
            "scope": "b a", "scp": "c  b", "roles": ["Task.Write", "a"], "groups": 7,
            "https://login.example/roles": ["x"],
        });
        let all = [ScopeClaim::Scope, ScopeClaim::Scp, other("roles"), other("permissions")];
        for profile in [Profile::Rfc9068, Profile::Jwt] {
            let held = read_from(&all, profile, claims.clone()).unwrap();
            assert_eq!(held, ["Task.Write", "a", "b", "c"]);
            let held = read_from(&[other("https://login.example/roles")], profile, claims.clone());
            assert_eq!(held.unwrap(), ["x"]);
        }
        assert_eq!(read_from(&[ScopeClaim::Scp], Profile::Jwt, json!({})).unwrap(), [""; 0]);
    }

    #[test]
    fn an_array_of_scopes_is_one_but_not_for_scope_under_rfc_9068() {
        let read = |claim: ScopeClaim, profile| {
            let claims = json!({claim.name(): ["b", "a"]});
            read_from(&[claim], profile, claims)
        };
        let held = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(read(ScopeClaim::Scope, Profile::Jwt), Ok(held.clone()));
        assert_eq!(read(ScopeClaim::Scp, Profile::Jwt), Ok(held.clone()));
        assert_eq!(read(ScopeClaim::Scp, Profile::Rfc9068), Ok(held));
        let refused = read(ScopeClaim::Scope, Profile::Rfc9068);
        assert_eq!(refused, Err(ClaimsError::Invalid("scope")));
    }

    #[test]
    fn an_array_of_scopes_holds_scope_tokens_only() {
        for claim in [ScopeClaim::Scope, ScopeClaim::Scp] {
            for value in [
                json!(["a b"]),
                json!(["a", ""]),
                json!(["a", 1]),
                json!([["a"]]),
                json!(["a\"b"]),
                json!([null]),
                json!({"a": 1}),
                json!("a\tb"),
                json!(null),
                json!(1),
            ] {
                let claims = json!({claim.name(): value});
                let refused = read_from(std::slice::from_ref(&claim), Profile::Jwt, claims);
                assert_eq!(refused, Err(ClaimsError::Invalid(claim.kind())), "{value}");
            }
        }
    }

    #[test]
    fn roles_are_arrays_of_texts_and_those_that_nobody_can_name_are_left_out() {
        let read =
            |value: Value| read_from(&[other("roles")], Profile::Jwt, json!({"roles": value}));
        let named = read(json!(["admin", "Domain Users", "payments:write", "ä", "a\"b"])).unwrap();
        assert_eq!(named, ["admin", "payments:write"]);
        for value in [
            json!("admin"),
            json!([""]),
            json!(["admin", 1]),
            json!([["admin"]]),
            json!([null]),
            json!({"admin": true}),
            json!(null),
            json!(true),
        ] {
            assert_eq!(read(value.clone()), Err(ClaimsError::Invalid("scopeClaims")), "{value}");
        }
    }
}
