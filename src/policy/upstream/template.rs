//! Templates of header values.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    credential::{Principal, Proof, claims::AccessToken},
    policy::pattern::PatternError,
};

/// A header value with placeholders.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) enum ValueTemplate {
    /// No placeholder at all.
    Constant(Box<[u8]>),
    /// One placeholder and nothing else: its value goes as it is.
    Alone(Place),
    /// Text with placeholders: their values are percent-encoded, so that none can pass for the text
    /// around it.
    Composed(Box<[Part]>),
}

/// A part of composed text.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) enum Part {
    Literal(Box<str>),
    Place(Place),
}

/// A placeholder.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) enum Place {
    PeerSpiffe,
    TokenSub,
    TokenClientId,
    TokenScope,
    TokenClaim(Box<str>),
    DecisionId,
}

/// What a template gives.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) enum Rendered<'a> {
    Value(Cow<'a, [u8]>),
    /// A placeholder has no value.
    Absent,
    /// The value is no fit header value.
    Invalid,
}

/// The placeholders, as written; of claims the prefix.
pub(in crate::policy) const PLACES: [&str; 6] = [
    "peer.spiffe",
    "token.sub",
    "token.client_id",
    "token.scope",
    "token.claims.NAME",
    "decision.id",
];

/// Services read identity headers whole; a longer one is an attack on their limits, not an identity.
const MAX_VALUE_BYTES: usize = 1024;

/// All but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl ValueTemplate {
    /// Parses a value such as `{peer.spiffe}` or `client={token.client_id}`.
    ///
    /// # Errors
    /// Where a placeholder is not known or not closed, or the text is empty, too long or not visible ASCII.
    pub(in crate::policy) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_VALUE_BYTES {
            return Err(PatternError::new(format!(
                "a header value is at most {MAX_VALUE_BYTES} bytes"
            )));
        }
        if !is_value(text.as_bytes(), true) {
            return Err(PatternError::new(
                "a header value is visible ASCII, with spaces inside only",
            ));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once('{') {
            let Some((name, tail)) = tail.split_once('}') else {
                return Err(PatternError::new("`{` without `}`"));
            };
            parts.extend(literal_part(literal)?);
            parts.push(Part::Place(Place::parse(name)?));
            rest = tail;
        }
        parts.extend(literal_part(rest)?);
        Ok(match parts.as_slice() {
            [Part::Literal(_)] | [] => Self::Constant(text.as_bytes().into()),
            [Part::Place(_)] => match parts.pop() {
                Some(Part::Place(place)) => Self::Alone(place),
                other => Self::Composed(other.into_iter().collect()),
            },
            [_, ..] => Self::Composed(parts.into()),
        })
    }

    /// Returns the placeholders.
    pub(in crate::policy) fn places(&self) -> impl Iterator<Item = &Place> {
        let (alone, parts) = match self {
            Self::Constant(_) => (None, None),
            Self::Alone(place) => (Some(place), None),
            Self::Composed(parts) => (None, Some(parts)),
        };
        alone.into_iter().chain(parts.into_iter().flatten().filter_map(|part| match part {
            Part::Place(place) => Some(place),
            Part::Literal(_) => None,
        }))
    }

    pub(in crate::policy) fn render<'a>(
        &'a self,
        principal: &'a Principal<'_>,
        decision_id: &'a str,
    ) -> Rendered<'a> {
        let (value, spaces) = match self {
            Self::Constant(value) => return Rendered::Value(Cow::Borrowed(value)),
            Self::Alone(place) => match place.value(principal, decision_id) {
                Some(value) => (value, place.is_list(principal)),
                None => return Rendered::Absent,
            },
            Self::Composed(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Literal(literal) => text.push_str(literal),
                        Part::Place(place) => match place.value(principal, decision_id) {
                            Some(value) => text.extend(utf8_percent_encode(&value, ENCODED)),
                            None => return Rendered::Absent,
                        },
                    }
                }
                (Cow::Owned(text), true)
            }
        };
        if value.len() <= MAX_VALUE_BYTES && is_value(value.as_bytes(), spaces) {
            Rendered::Value(match value {
                Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
                Cow::Owned(value) => Cow::Owned(value.into_bytes()),
            })
        } else {
            Rendered::Invalid
        }
    }
}

impl Place {
    fn parse(name: &str) -> Result<Self, PatternError> {
        Ok(match name {
            "peer.spiffe" => Self::PeerSpiffe,
            "token.sub" => Self::TokenSub,
            "token.client_id" => Self::TokenClientId,
            "token.scope" => Self::TokenScope,
            "decision.id" => Self::DecisionId,
            _ => match name.strip_prefix("token.claims.") {
                Some(claim) if !claim.is_empty() => Self::TokenClaim(claim.into()),
                Some(_) | None => {
                    let known = PLACES.map(|place| format!("`{{{place}}}`")).join(", ");
                    return Err(PatternError::new(format!("`{{{name}}}` is not a placeholder"))
                        .help(format!("the placeholders are {known}")));
                }
            },
        })
    }

    /// Returns the part of a rule that the placeholder needs.
    pub(in crate::policy) const fn needs(&self) -> Option<&'static str> {
        match self {
            Self::PeerSpiffe => Some("from"),
            Self::TokenSub | Self::TokenClientId | Self::TokenScope | Self::TokenClaim(_) => {
                Some("token")
            }
            Self::DecisionId => None,
        }
    }

    /// Returns the value, `None` where there is none; an empty one says nothing and counts as absent.
    fn value<'v>(
        &self,
        principal: &'v Principal<'_>,
        decision_id: &'v str,
    ) -> Option<Cow<'v, str>> {
        let value = match self {
            Self::DecisionId => Some(Cow::Borrowed(decision_id)),
            Self::PeerSpiffe => match &principal.peer {
                Proof::Proven(peer) => peer.spiffe.map(|id| Cow::Borrowed(id.as_str())),
                Proof::Absent | Proof::Unproven(_) => None,
            },
            Self::TokenSub => token(principal)?.subject.as_deref().map(Cow::Borrowed),
            Self::TokenClientId => token(principal)?.client_id.as_deref().map(Cow::Borrowed),
            Self::TokenScope => Some(Cow::Owned(token(principal)?.scopes.join(" "))),
            Self::TokenClaim(name) => claim(token(principal)?.claims.get(&**name)?),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Says whether the value is entries with spaces between them, none of which has one inside.
    fn is_list(&self, principal: &Principal<'_>) -> bool {
        match self {
            Self::TokenScope => true,
            Self::TokenClaim(name) => token(principal)
                .and_then(|token| token.claims.get(&**name))
                .is_some_and(Value::is_array),
            Self::PeerSpiffe | Self::TokenSub | Self::TokenClientId | Self::DecisionId => false,
        }
    }
}

fn token<'v>(principal: &'v Principal<'_>) -> Option<&'v AccessToken> {
    match &principal.token {
        Proof::Proven(bound) => Some(&bound.token),
        Proof::Absent | Proof::Unproven(_) => None,
    }
}

/// Returns a claim as text: strings, numbers and booleans as they are, an array of strings with spaces
/// between them. Anything else has no text that services agree on, and counts as absent; so does an array
/// with an entry that has a space inside, as it would read as two.
fn claim(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Array(values) => {
            let texts: Option<Vec<&str>> = values
                .iter()
                .map(|value| value.as_str().filter(|text| !text.is_empty() && !text.contains(' ')))
                .collect();
            Some(Cow::Owned(texts?.join(" ")))
        }
        Value::Object(_) | Value::Null => None,
    }
}

fn literal_part(text: &str) -> Result<Option<Part>, PatternError> {
    if text.contains('}') {
        return Err(PatternError::new("`}` without `{`"));
    }
    Ok((!text.is_empty()).then(|| Part::Literal(text.into())))
}

/// Says whether `value` is visible ASCII, not empty, where `spaces` with spaces inside.
fn is_value(value: &[u8], spaces: bool) -> bool {
    let visible = |b: &u8| matches!(b, 0x21..=0x7e);
    value.first().is_some_and(visible)
        && value.last().is_some_and(visible)
        && value.iter().all(|b| visible(b) || (spaces && *b == b' '))
}

#[cfg(test)]
pub(in crate::policy) mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{
        clock::UnixTime,
        credential::{
            BoundToken,
            binding::{Binding, Confirmation},
        },
    };

    /// A caller with a token whose subject is `subject`.
    pub(in crate::policy) fn principal(subject: &str) -> Principal<'static> {
        let claims = json!({
            "tenant": "bank", "level": 3, "admin": true, "roles": ["a", "b"],
            "odd": ["a b"], "deep": {"a": 1}, "empty": "", "text": "a b",
        });
        Principal {
            peer: Proof::Absent,
            token: Proof::Proven(BoundToken {
                token: Arc::new(AccessToken {
                    introspected: false,
                    issuer: "corp".into(),
                    subject: Some(subject.to_owned()),
                    client_id: None,
                    id: None,
                    audiences: vec!["https://pay.example".into()],
                    scopes: vec!["r".into(), "w".into()],
                    expires: UnixTime::from_secs(0),
                    not_before: None,
                    issued: None,
                    authenticated: None,
                    actors: Vec::new(),
                    confirmation: Confirmation::default(),
                    claims: claims.as_object().unwrap().clone(),
                }),
                binding: Binding::default(),
                proof: None,
                authentication_age: None,
            }),
            workload: Proof::Absent,
            refused_token: None,
        }
    }

    fn render(text: &str, subject: &str) -> Rendered<'static> {
        match ValueTemplate::parse(text).unwrap().render(&principal(subject), "id-1") {
            Rendered::Value(value) => Rendered::Value(Cow::Owned(value.into_owned())),
            Rendered::Absent => Rendered::Absent,
            Rendered::Invalid => Rendered::Invalid,
        }
    }

    fn value(text: &str) -> Rendered<'_> {
        Rendered::Value(Cow::Borrowed(text.as_bytes()))
    }

    #[test]
    fn a_value_alone_goes_as_it_is() {
        assert_eq!(render("{token.sub}", "a/b%"), value("a/b%"));
        assert_eq!(render("{decision.id}", ""), value("id-1"));
        assert_eq!(render("{token.scope}", ""), value("r w"));
        assert_eq!(render("fixed text", ""), value("fixed text"));
    }

    #[test]
    fn values_in_composed_text_are_percent_encoded() {
        assert_eq!(render("sub={token.sub};x", "a;b é\n"), value("sub=a%3Bb%20%C3%A9%0A;x"));
    }

    #[test]
    fn claims_are_text_where_services_agree_on_it() {
        assert_eq!(render("{token.claims.tenant}", ""), value("bank"));
        assert_eq!(render("{token.claims.level}", ""), value("3"));
        assert_eq!(render("{token.claims.admin}", ""), value("true"));
        assert_eq!(render("{token.claims.roles}", ""), value("a b"));
        for absent in ["odd", "deep", "empty", "missing"] {
            let text = format!("{{token.claims.{absent}}}");
            assert_eq!(render(&text, ""), Rendered::Absent, "{absent}");
        }
    }

    #[test]
    fn an_absent_value_makes_the_whole_absent() {
        assert_eq!(render("{token.client_id}", "x"), Rendered::Absent);
        assert_eq!(render("c={token.client_id}", "x"), Rendered::Absent);
        assert_eq!(render("{peer.spiffe}", "x"), Rendered::Absent);
    }

    #[test]
    fn what_is_not_visible_ascii_or_too_long_is_invalid() {
        for subject in ["a b", "é", "a\r\nx-admin: 1", "\u{7f}", &"x".repeat(1025)] {
            assert_eq!(render("{token.sub}", subject), Rendered::Invalid, "{subject:?}");
        }
        assert_eq!(render("{token.claims.text}", ""), Rendered::Invalid);
        assert_eq!(render("{token.sub}", &"x".repeat(1024)), value(&"x".repeat(1024)));
        assert_eq!(render("s={token.sub}", &"é".repeat(200)), Rendered::Invalid);
    }

    #[test]
    fn wrong_templates_are_refused() {
        for (text, message) in [
            ("{token.subject}", "`{token.subject}` is not a placeholder"),
            ("{token.claims.}", "`{token.claims.}` is not a placeholder"),
            ("{token.sub", "`{` without `}`"),
            ("a}", "`}` without `{`"),
            ("", "a header value is visible ASCII, with spaces inside only"),
            ("é", "a header value is visible ASCII, with spaces inside only"),
        ] {
            assert_eq!(ValueTemplate::parse(text).unwrap_err().message, message, "{text}");
        }
    }
}
