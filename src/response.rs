//! From a decision to a `CheckResponse`: the only place that builds one.
//!
//! Envoy reads nothing but `status.code`: 0, also by default, allows. So there is one constructor, an
//! allow needs the [`Permit`] that only the policy makes, and everything else has a code that is not 0.

use bytes::Bytes;

use crate::{
    evidence::authorization::Scheme,
    policy::{Offer, Permit, upstream::HeaderChanges},
    reason::{Outcome, Reason},
    snapshot::Generation,
    telemetry::decision_id::DecisionId,
    transport::wire::{
        CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
        OkHttpResponse, Status, Struct, StructEntry, Value, value::Kind,
    },
};

/// What a check is answered with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most checks are allowed: a box for each costs more")]
pub enum Answer<'a> {
    /// The policy allowed, and these headers go on or come off.
    Allow(Permit<'a>, HeaderChanges),
    /// Everything else.
    Deny(Refusal<'a>),
}

/// A denial as the client gets it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why. [`Reason::Allowed`] cannot allow here: it is answered like an internal error.
    pub reason: Reason,
    /// The rule that denied or came closest.
    pub rule: Option<&'a str>,
    /// Scopes for the challenge; only where peer, token and binding held.
    pub scopes: &'a [Box<str>],
    /// Whether the client speaks gRPC: Envoy then puts the body into `grpc-message`.
    pub grpc: bool,
    /// What a challenge says of credentials.
    pub challenge: Challenge<'a>,
}

/// What a challenge says of credentials (RFC 6750 §3, RFC 9449 §7.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Challenge<'a> {
    /// The scheme that the request used: an error is told in it.
    pub used: Option<Scheme>,
    /// Which credentials are taken here; where nothing is known, Bearer ones.
    pub offer: Option<Offer>,
    /// The algorithms of proofs, with spaces between them.
    pub algorithms: &'a str,
    /// The nonce that the client is to use.
    pub nonce: Option<&'a str>,
}

impl Challenge<'_> {
    /// Says whether nothing of it has to do with DPoP.
    fn is_bearer(&self) -> bool {
        self.used != Some(Scheme::Dpop) && self.offer.is_none_or(|offer| !offer.dpop)
    }
}

impl Refusal<'_> {
    /// Returns a denial that no rule took part in.
    #[must_use]
    pub const fn without_rule(reason: Reason) -> Self {
        let challenge = Challenge { used: None, offer: None, algorithms: "", nonce: None };
        Self { reason, rule: None, scopes: &[], grpc: false, challenge }
    }
}

impl Answer<'_> {
    /// Returns the reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Allow(..) => Reason::Allowed,
            Self::Deny(refusal) => refusal.reason,
        }
    }

    /// Returns the deciding rule.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Allow(permit, _) => Some(&permit.rule().id),
            Self::Deny(refusal) => refusal.rule,
        }
    }
}

/// What names a decision, for Envoy's access log (dynamic metadata of `envoy.filters.http.ext_authz`).
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// The decision's id.
    pub id: &'a DecisionId,
    /// The policy set that decided, if any was loaded.
    pub generation: Option<&'a Generation>,
    /// The verified peer's SPIFFE ID.
    pub principal: Option<&'a str>,
}

/// Builds the response: the one constructor.
#[must_use]
pub fn build(answer: &Answer<'_>, label: Label<'_>) -> CheckResponse {
    let dynamic_metadata = Some(metadata(answer, label));
    match answer {
        Answer::Allow(_permit, changes) => CheckResponse {
            status: Some(Status { code: CODE_OK }),
            denied_response: None,
            ok_response: Some(OkHttpResponse {
                headers: changes
                    .set
                    .iter()
                    .map(|(name, value)| overwrite(name.clone(), value.clone()))
                    .collect(),
                headers_to_remove: changes.remove.to_vec(),
                response_headers_to_add: changes.nonce.as_ref().map_or_else(Vec::new, with_nonce),
            }),
            dynamic_metadata,
        },
        Answer::Deny(refusal) => CheckResponse {
            status: Some(Status { code: code(refusal.reason.outcome()) }),
            denied_response: Some(denied(refusal, label.id)),
            ok_response: None,
            dynamic_metadata,
        },
    }
}

/// Returns the `google.rpc.Code` of a denial; never 0.
const fn code(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::BadRequest
        | Outcome::InvalidRequest
        | Outcome::TooLarge
        | Outcome::HeadersTooLarge => CODE_INVALID_ARGUMENT,
        Outcome::Unauthorized
        | Outcome::InvalidToken
        | Outcome::InvalidDpopProof
        | Outcome::UseDpopNonce => CODE_UNAUTHENTICATED,
        Outcome::InsufficientScope | Outcome::Forbidden => CODE_PERMISSION_DENIED,
        Outcome::Internal => CODE_INTERNAL,
        Outcome::Unavailable => CODE_UNAVAILABLE,
    }
}

fn denied(refusal: &Refusal<'_>, id: &DecisionId) -> DeniedHttpResponse {
    let outcome = refusal.reason.outcome();
    let mut headers = vec![overwrite(
        Bytes::from_static(b"x-symbolon-decision"),
        Bytes::copy_from_slice(id.as_str().as_bytes()),
    )];
    if let Some(challenge) = challenge(outcome, refusal.scopes, refusal.challenge) {
        headers.push(overwrite(Bytes::from_static(b"www-authenticate"), challenge));
    }
    // RFC 9449 §8: exactly one, with this challenge and no other.
    if let (Outcome::UseDpopNonce, Some(nonce)) = (outcome, refusal.challenge.nonce) {
        headers.extend(with_nonce(&Bytes::copy_from_slice(nonce.as_bytes())));
    }
    let (title, problem) = body(outcome);
    let body = if refusal.grpc {
        title
    } else {
        headers.push(overwrite(
            Bytes::from_static(b"content-type"),
            Bytes::from_static(b"application/problem+json"),
        ));
        problem
    };
    DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(outcome.status()) }),
        headers,
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// Returns the headers that give a client a nonce: one of a kind, and nothing to be kept by caches
/// (RFC 9449 §8.2).
fn with_nonce(nonce: &Bytes) -> Vec<HeaderValueOption> {
    vec![
        overwrite(Bytes::from_static(b"dpop-nonce"), nonce.clone()),
        overwrite(Bytes::from_static(b"cache-control"), Bytes::from_static(b"no-store")),
    ]
}

/// Returns the challenge of RFC 6750 §3 and RFC 9449 §7.1. Nothing of the request is ever in it.
fn challenge(outcome: Outcome, scopes: &[Box<str>], asked: Challenge<'_>) -> Option<Bytes> {
    if !asked.is_bearer() {
        return dpop_challenge(outcome, scopes, asked);
    }
    // RFC 6750 §3: the scheme must be followed by at least one parameter, and without a credential
    // there is no error code: so a realm.
    let text: &'static [u8] = match outcome {
        Outcome::Unauthorized => br#"Bearer realm="api""#,
        Outcome::InvalidToken => br#"Bearer realm="api", error="invalid_token""#,
        Outcome::InvalidRequest => br#"Bearer realm="api", error="invalid_request""#,
        Outcome::InsufficientScope if scopes.is_empty() => {
            br#"Bearer realm="api", error="insufficient_scope""#
        }
        Outcome::InsufficientScope => {
            let scopes = scopes.join(" ");
            return Some(
                format!(r#"Bearer realm="api", error="insufficient_scope", scope="{scopes}""#)
                    .into(),
            );
        }
        // Nothing that is not about a DPoP credential comes out so.
        Outcome::InvalidDpopProof | Outcome::UseDpopNonce => {
            return dpop_challenge(outcome, scopes, asked);
        }
        Outcome::BadRequest
        | Outcome::Forbidden
        | Outcome::TooLarge
        | Outcome::HeadersTooLarge
        | Outcome::Internal
        | Outcome::Unavailable => return None,
    };
    Some(Bytes::from_static(text))
}

/// Returns the challenge where DPoP was used or is taken. The scheme that was used is told the error; one
/// that is taken besides is offered without: Bearer to who came with nothing, DPoP to who came without it.
fn dpop_challenge(outcome: Outcome, scopes: &[Box<str>], asked: Challenge<'_>) -> Option<Bytes> {
    let used_dpop = asked.used == Some(Scheme::Dpop);
    let offer = asked.offer.unwrap_or(Offer { bearer: !used_dpop, dpop: used_dpop });
    // For each scheme: whether it stands there, and with which error.
    let (dpop, bearer) = match outcome {
        Outcome::Unauthorized => (offer.dpop.then_some(""), offer.bearer.then_some("")),
        Outcome::InvalidRequest => {
            let error = r#", error="invalid_request""#;
            (offer.dpop.then_some(error), offer.bearer.then_some(error))
        }
        Outcome::InvalidToken if used_dpop => (Some(r#", error="invalid_token""#), None),
        Outcome::InvalidToken => (offer.dpop.then_some(""), Some(r#", error="invalid_token""#)),
        Outcome::InsufficientScope if used_dpop => (Some(r#", error="insufficient_scope""#), None),
        Outcome::InsufficientScope => (None, Some(r#", error="insufficient_scope""#)),
        Outcome::InvalidDpopProof => (Some(r#", error="invalid_dpop_proof""#), None),
        Outcome::UseDpopNonce => (Some(r#", error="use_dpop_nonce""#), None),
        Outcome::BadRequest
        | Outcome::Forbidden
        | Outcome::TooLarge
        | Outcome::HeadersTooLarge
        | Outcome::Internal
        | Outcome::Unavailable => return None,
    };
    let scopes = if outcome == Outcome::InsufficientScope && !scopes.is_empty() {
        format!(r#", scope="{}""#, scopes.join(" "))
    } else {
        String::new()
    };
    let algorithms = asked.algorithms;
    let dpop = dpop.map(|error| {
        let scopes = if error.is_empty() { "" } else { &scopes };
        format!(r#"DPoP realm="api"{error}{scopes}, algs="{algorithms}""#)
    });
    let bearer = bearer.map(|error| {
        let scopes = if error.is_empty() { "" } else { &scopes };
        format!(r#"Bearer realm="api"{error}{scopes}"#)
    });
    // RFC 9110 §11.6.1: challenges in one header, with commas between them.
    let challenges: Vec<String> = [bearer, dpop].into_iter().flatten().collect();
    Some(challenges.join(", ").into())
}

/// Returns the plain and the `application/problem+json` (RFC 9457) body: the same for every reason of a
/// status, so that it says nothing of the policy.
const fn body(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome.status() {
        400 => ("bad request", r#"{"type":"about:blank","title":"Bad Request","status":400}"#),
        401 => ("unauthorized", r#"{"type":"about:blank","title":"Unauthorized","status":401}"#),
        413 => (
            "content too large",
            r#"{"type":"about:blank","title":"Content Too Large","status":413}"#,
        ),
        431 => (
            "request header fields too large",
            r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431}"#,
        ),
        500 => (
            "internal server error",
            r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#,
        ),
        503 => (
            "service unavailable",
            r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#,
        ),
        _ => ("forbidden", r#"{"type":"about:blank","title":"Forbidden","status":403}"#),
    }
}

fn metadata(answer: &Answer<'_>, label: Label<'_>) -> Struct {
    let mut fields = Vec::with_capacity(5);
    fields.push(text(b"decision_id", Bytes::copy_from_slice(label.id.as_str().as_bytes())));
    fields.push(text(b"reason", Bytes::from_static(answer.reason().as_str().as_bytes())));
    if let Some(rule) = answer.rule() {
        fields.push(text(b"rule", Bytes::copy_from_slice(rule.as_bytes())));
    }
    if let Some(generation) = label.generation {
        fields.push(StructEntry {
            key: Bytes::from_static(b"generation"),
            value: Some(Value { kind: Some(Kind::NumberValue(as_number(generation.number))) }),
        });
    }
    if let Some(principal) = label.principal {
        fields.push(text(b"principal", Bytes::copy_from_slice(principal.as_bytes())));
    }
    Struct { fields }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a process does not load 2^53 generations"
)]
const fn as_number(generation: u64) -> f64 {
    generation as f64
}

const fn text(key: &'static [u8], value: Bytes) -> StructEntry {
    StructEntry {
        key: Bytes::from_static(key),
        value: Some(Value { kind: Some(Kind::StringValue(value)) }),
    }
}

/// Sets a header over whatever the client sent: anything else would add a second one next to a forged one.
const fn overwrite(key: Bytes, value: Bytes) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key, value, raw_value: Bytes::new() }),
        append_action: OVERWRITE_IF_EXISTS_OR_ADD,
    }
}

const CODE_OK: i32 = 0;
const CODE_INVALID_ARGUMENT: i32 = 3;
const CODE_PERMISSION_DENIED: i32 = 7;
const CODE_INTERNAL: i32 = 13;
const CODE_UNAVAILABLE: i32 = 14;
const CODE_UNAUTHENTICATED: i32 = 16;
const OVERWRITE_IF_EXISTS_OR_ADD: i32 = 2;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn respond(reason: Reason) -> CheckResponse {
        let id = DecisionId::next();
        let label = Label { id: &id, generation: None, principal: None };
        build(&Answer::Deny(Refusal::without_rule(reason)), label)
    }

    #[test]
    fn no_denial_has_the_code_that_allows() {
        for &reason in Reason::ALL {
            let response = respond(reason);
            assert_ne!(response.status.unwrap().code, 0, "{reason}");
            assert!(response.ok_response.is_none());
            let decoded =
                CheckResponse::decode(respond(reason).encode_to_vec().as_slice()).unwrap();
            assert_ne!(decoded.status.unwrap().code, 0, "{reason} on the wire");
        }
    }

    #[test]
    fn every_denial_names_its_decision_and_a_status_that_envoy_knows() {
        for &reason in Reason::ALL {
            let denied = respond(reason).denied_response.unwrap();
            let status = denied.status.unwrap().code;
            assert!([400, 401, 403, 413, 431, 500, 503].contains(&status), "{reason}: {status}");
            let names: Vec<_> =
                denied.headers.iter().map(|h| h.header.as_ref().unwrap().key.as_ref()).collect();
            assert!(names.contains(&b"x-symbolon-decision".as_slice()));
            assert_eq!(
                status == 401,
                names.contains(&b"www-authenticate".as_slice()) && status == 401
            );
            assert!(denied.headers.iter().all(|h| h.append_action == OVERWRITE_IF_EXISTS_OR_ADD));
        }
    }

    #[test]
    fn the_body_says_no_more_than_the_status() {
        for &reason in Reason::ALL {
            let body = respond(reason).denied_response.unwrap().body;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["status"], reason.outcome().status(), "{reason}");
        }
    }

    #[test]
    fn a_missing_credential_is_challenged_without_an_error_code() {
        let challenge = challenge(Outcome::Unauthorized, &[], Challenge::default()).unwrap();
        assert!(!challenge.windows(5).any(|w| w == b"error"));
        assert!(challenge.starts_with(b"Bearer realm="));
    }

    #[test]
    fn missing_scopes_are_named_in_the_challenge() {
        let scopes = ["a".into(), "b".into()];
        let asked = Challenge::default();
        let challenge = challenge(Outcome::InsufficientScope, &scopes, asked).unwrap();
        assert_eq!(
            challenge.as_ref(),
            br#"Bearer realm="api", error="insufficient_scope", scope="a b""#
        );
    }

    #[test]
    fn each_situation_has_its_challenge() {
        use Outcome::{
            InsufficientScope, InvalidDpopProof, InvalidRequest, InvalidToken, Unauthorized,
            UseDpopNonce,
        };
        let both = Some(Offer { bearer: true, dpop: true });
        let dpop_only = Some(Offer { bearer: false, dpop: true });
        let bearer_only = Some(Offer { bearer: true, dpop: false });
        let (bearer, dpop) = (Some(Scheme::Bearer), Some(Scheme::Dpop));
        let cases = [
            (Unauthorized, None, bearer_only, r#"Bearer realm="api""#),
            (Unauthorized, None, dpop_only, r#"DPoP realm="api", algs="ES256""#),
            (Unauthorized, None, both, r#"Bearer realm="api", DPoP realm="api", algs="ES256""#),
            (
                InvalidRequest,
                None,
                both,
                r#"Bearer realm="api", error="invalid_request", DPoP realm="api", error="invalid_request", algs="ES256""#,
            ),
            (
                InvalidToken,
                bearer,
                both,
                r#"Bearer realm="api", error="invalid_token", DPoP realm="api", algs="ES256""#,
            ),
            (InvalidToken, bearer, bearer_only, r#"Bearer realm="api", error="invalid_token""#),
            (InvalidToken, dpop, both, r#"DPoP realm="api", error="invalid_token", algs="ES256""#),
            (
                InvalidToken,
                dpop,
                bearer_only,
                r#"DPoP realm="api", error="invalid_token", algs="ES256""#,
            ),
            (
                InvalidDpopProof,
                dpop,
                both,
                r#"DPoP realm="api", error="invalid_dpop_proof", algs="ES256""#,
            ),
            (
                UseDpopNonce,
                dpop,
                dpop_only,
                r#"DPoP realm="api", error="use_dpop_nonce", algs="ES256""#,
            ),
            (
                InsufficientScope,
                dpop,
                both,
                r#"DPoP realm="api", error="insufficient_scope", scope="a", algs="ES256""#,
            ),
        ];
        for (outcome, used, offer, expected) in cases {
            let asked = Challenge { used, offer, algorithms: "ES256", nonce: None };
            let text = challenge(outcome, &["a".into()], asked).unwrap();
            assert_eq!(str::from_utf8(&text).unwrap(), expected, "{outcome:?} {used:?} {offer:?}");
        }
    }

    #[test]
    fn a_nonce_comes_once_and_with_its_challenge_only() {
        for &reason in Reason::ALL {
            let id = DecisionId::next();
            let label = Label { id: &id, generation: None, principal: None };
            let mut refusal = Refusal::without_rule(reason);
            refusal.challenge.nonce = Some("n-1");
            let denied = build(&Answer::Deny(refusal), label).denied_response.unwrap();
            let named = |name: &[u8]| {
                let headers = denied.headers.iter().map(|h| h.header.as_ref().unwrap());
                headers.filter(|h| h.key == name).map(|h| h.value.clone()).collect::<Vec<_>>()
            };
            let expected: &[&[u8]] =
                if reason.outcome() == Outcome::UseDpopNonce { &[b"n-1"] } else { &[] };
            assert_eq!(named(b"dpop-nonce"), expected, "{reason}");
        }
    }
}
