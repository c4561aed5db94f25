//! From a decision to a `CheckResponse`: the only place that builds one.
//!
//! Envoy reads nothing but `status.code`: 0, also by default, allows. So there is one constructor, an
//! allow needs the [`Permit`] that only the policy makes, and everything else has a code that is not 0.

mod challenge;
mod encode;

use bytes::BytesMut;

pub use self::challenge::Challenge;
use crate::{
    policy::{Permit, upstream::HeaderChanges},
    reason::{Outcome, Reason},
    response::encode::{Header, Message},
    snapshot::Generation,
    telemetry::decision_id::DecisionId,
};

/// What a check is answered with.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack: a box would be an allocation for every allowed check"
)]
pub enum Answer<'a> {
    /// The policy allowed, and these headers go on or come off.
    Allow(Permit<'a>, HeaderChanges<'a>),
    /// Everything else.
    Deny(Refusal<'a>),
}

/// A denial as the client gets it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why. [`Reason::Allowed`] cannot allow here: it is answered as a denial, too.
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

impl Refusal<'_> {
    /// Returns a denial that no rule took part in.
    #[must_use]
    pub const fn without_rule(reason: Reason) -> Self {
        let challenge = Challenge {
            used: None,
            offer: None,
            algorithms: "",
            nonce: None,
            step_up: None,
            resource_metadata: None,
        };
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

/// An encoded `envoy.service.auth.v3.CheckResponse`. Only [`build`] makes one: an empty message, which
/// allows, is none.
#[derive(Debug)]
pub struct CheckResponse(BytesMut);

impl CheckResponse {
    /// Returns the message behind `prefix` zeroed bytes, which the caller fills.
    #[must_use]
    pub fn into_bytes(self) -> BytesMut {
        self.0
    }
}

/// Builds the response: the one constructor. The message is preceded by `prefix` zeroed bytes, so that it
/// can be framed where it lies.
#[must_use]
pub fn build(answer: &Answer<'_>, label: Label<'_>, prefix: usize) -> CheckResponse {
    let mut message = Message::new(prefix);
    match answer {
        Answer::Allow(_permit, changes) => {
            message.status(CODE_OK);
            let answer = with_nonce(changes.nonce.as_deref());
            message.ok(&changes.set, &changes.remove, &changes.remove_parameters, answer);
        }
        Answer::Deny(refusal) => {
            message.status(code(refusal.reason.outcome()));
            deny(&mut message, refusal, label.id);
        }
    }
    describe(&mut message, answer, label);
    CheckResponse(message.into_bytes())
}

/// Returns the `google.rpc.Code` of a denial; never 0.
const fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::BadRequest
        | Outcome::InvalidRequest
        | Outcome::TooLarge
        | Outcome::HeadersTooLarge => CODE_INVALID_ARGUMENT,
        Outcome::Unauthorized
        | Outcome::InvalidToken
        | Outcome::InvalidDpopProof
        | Outcome::InsufficientAuthentication
        | Outcome::UseDpopNonce => CODE_UNAUTHENTICATED,
        Outcome::InsufficientScope | Outcome::Forbidden => CODE_PERMISSION_DENIED,
        Outcome::Internal => CODE_INTERNAL,
        Outcome::Unavailable => CODE_UNAVAILABLE,
    }
}

fn deny(message: &mut Message, refusal: &Refusal<'_>, id: &DecisionId) {
    let outcome = refusal.reason.outcome();
    let challenge = refusal.challenge.text(outcome, refusal.scopes);
    // RFC 9449 §8: exactly one, with this challenge and no other.
    let nonce = refusal.challenge.nonce.filter(|_| outcome == Outcome::UseDpopNonce);
    let (plain, problem) = body(outcome);
    let id = Header { name: b"x-symbolon-decision", value: id.as_str().as_bytes() };
    let challenge = challenge
        .as_deref()
        .map(|value| Header { name: b"www-authenticate", value: value.as_bytes() });
    let content_type = Header { name: b"content-type", value: b"application/problem+json" };
    let content_type = (!refusal.grpc).then_some(content_type);
    let headers = std::iter::once(id).chain(challenge).chain(content_type).chain(with_nonce(nonce));
    let body = if refusal.grpc { plain } else { problem };
    message.denied(outcome.status(), headers, body.as_bytes());
}

/// Returns the headers that give a client a nonce: one of a kind, and nothing for caches to keep
/// (RFC 9449 §8.2).
fn with_nonce(nonce: Option<&str>) -> impl Iterator<Item = Header<'_>> + Clone {
    nonce.into_iter().flat_map(|nonce| {
        [
            Header { name: b"dpop-nonce", value: nonce.as_bytes() },
            Header { name: b"cache-control", value: b"no-store" },
        ]
    })
}

/// Returns the plain and the `application/problem+json` (RFC 9457) body: the same for every reason of a
/// status, so that it says nothing of the policy.
const fn body(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::BadRequest | Outcome::InvalidRequest => {
            ("bad request", r#"{"type":"about:blank","title":"Bad Request","status":400}"#)
        }
        Outcome::Unauthorized
        | Outcome::InvalidToken
        | Outcome::InvalidDpopProof
        | Outcome::InsufficientAuthentication
        | Outcome::UseDpopNonce => {
            ("unauthorized", r#"{"type":"about:blank","title":"Unauthorized","status":401}"#)
        }
        Outcome::InsufficientScope | Outcome::Forbidden => {
            ("forbidden", r#"{"type":"about:blank","title":"Forbidden","status":403}"#)
        }
        Outcome::TooLarge => (
            "content too large",
            r#"{"type":"about:blank","title":"Content Too Large","status":413}"#,
        ),
        Outcome::HeadersTooLarge => (
            "request header fields too large",
            r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431}"#,
        ),
        Outcome::Internal => (
            "internal server error",
            r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#,
        ),
        Outcome::Unavailable => (
            "service unavailable",
            r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#,
        ),
    }
}

fn describe(message: &mut Message, answer: &Answer<'_>, label: Label<'_>) {
    let reason = answer.reason().as_str();
    let texts = [
        ("decision_id", Some(label.id.as_str())),
        ("reason", Some(reason)),
        ("rule", answer.rule()),
        ("principal", label.principal),
    ];
    let generation =
        label.generation.map(|generation| ("generation", as_number(generation.number)));
    message.metadata(&texts, generation);
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a process does not load 2^53 generations"
)]
const fn as_number(generation: u64) -> f64 {
    generation as f64
}

const CODE_OK: u8 = 0;
const CODE_INVALID_ARGUMENT: u8 = 3;
const CODE_PERMISSION_DENIED: u8 = 7;
const CODE_INTERNAL: u8 = 13;
const CODE_UNAVAILABLE: u8 = 14;
const CODE_UNAUTHENTICATED: u8 = 16;

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::auth::v3::{
        CheckResponse, DeniedHttpResponse, check_response::HttpResponse,
    };
    use prost::Message as _;

    use super::*;

    fn respond(refusal: Refusal<'_>) -> CheckResponse {
        let id = DecisionId::next();
        let label = Label { id: &id, generation: None, principal: None };
        let message = build(&Answer::Deny(refusal), label, 0).into_bytes();
        CheckResponse::decode(message).unwrap()
    }

    fn denied(reason: Reason) -> DeniedHttpResponse {
        match respond(Refusal::without_rule(reason)).http_response.unwrap() {
            HttpResponse::DeniedResponse(denied) => denied,
            HttpResponse::OkResponse(_) | HttpResponse::ErrorResponse(_) => panic!("{reason}"),
        }
    }

    #[test]
    fn no_denial_has_the_code_that_allows() {
        for &reason in Reason::ALL {
            let response = respond(Refusal::without_rule(reason));
            assert_ne!(response.status.unwrap().code, 0, "{reason}");
        }
    }

    #[test]
    fn every_denial_names_its_decision_and_a_status_that_envoy_knows() {
        for &reason in Reason::ALL {
            let denied = denied(reason);
            let status = denied.status.unwrap().code;
            assert_eq!(status, i32::from(reason.outcome().status()), "{reason}");
            assert!([400, 401, 403, 413, 431, 500, 503].contains(&status), "{reason}: {status}");
            let headers: Vec<_> =
                denied.headers.iter().map(|h| h.header.clone().unwrap()).collect();
            let named = |name: &str| headers.iter().any(|h| h.key == name && !h.value.is_empty());
            assert!(named("x-symbolon-decision"), "{reason}");
            assert!(status != 401 || named("www-authenticate"), "{reason}");
            // OVERWRITE_IF_EXISTS_OR_ADD
            assert!(denied.headers.iter().all(|h| h.append_action == 2), "{reason}");
        }
    }

    #[test]
    fn the_body_says_no_more_than_the_status() {
        for &reason in Reason::ALL {
            let body: serde_json::Value = serde_json::from_str(&denied(reason).body).unwrap();
            assert_eq!(body["status"], reason.outcome().status(), "{reason}");
        }
    }

    #[test]
    fn a_grpc_caller_gets_a_short_text() {
        let refusal = Refusal { grpc: true, ..Refusal::without_rule(Reason::NoMatchingRule) };
        let Some(HttpResponse::DeniedResponse(denied)) = respond(refusal).http_response else {
            panic!("no denial");
        };
        assert_eq!(denied.body, "forbidden");
    }

    #[test]
    fn metadata_names_decision_reason_rule_and_generation() {
        let id = DecisionId::next();
        let generation = Generation {
            number: 7,
            hash: "h".into(),
            commit: None,
            loaded: crate::clock::UnixTime::from_secs(0),
        };
        let label =
            Label { id: &id, generation: Some(&generation), principal: Some("spiffe://a/b") };
        let refusal =
            Refusal { rule: Some("p/r"), ..Refusal::without_rule(Reason::PeerNotAllowed) };
        let message = build(&Answer::Deny(refusal), label, 5).into_bytes();
        assert_eq!(message[..5], [0; 5]);
        let response = CheckResponse::decode(&message[5..]).unwrap();
        let fields = response.dynamic_metadata.unwrap().fields;
        let shown = |name: &str| format!("{:?}", fields[name].kind.as_ref().unwrap());
        assert_eq!(fields.len(), 5);
        assert_eq!(shown("decision_id"), format!("StringValue({:?})", id.as_str()));
        assert_eq!(shown("reason"), r#"StringValue("peer_not_allowed")"#);
        assert_eq!(shown("rule"), r#"StringValue("p/r")"#);
        assert_eq!(shown("principal"), r#"StringValue("spiffe://a/b")"#);
        assert_eq!(shown("generation"), "NumberValue(7.0)");
    }

    #[test]
    fn a_nonce_comes_once_and_with_its_challenge_only() {
        for &reason in Reason::ALL {
            let mut refusal = Refusal::without_rule(reason);
            refusal.challenge.nonce = Some("n-1");
            let Some(HttpResponse::DeniedResponse(denied)) = respond(refusal).http_response else {
                panic!("no denial");
            };
            let headers = denied.headers.iter().map(|option| option.header.as_ref().unwrap());
            let nonces: Vec<_> =
                headers.filter(|h| h.key == "dpop-nonce").map(|h| h.value.as_str()).collect();
            let is_asked_for = reason.outcome() == Outcome::UseDpopNonce;
            assert_eq!(nonces, if is_asked_for { &["n-1"][..] } else { &[] }, "{reason}");
        }
    }
}
