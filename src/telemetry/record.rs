//! The decision record: one JSON line per check, as `proto/symbolon/v1/decision_record.proto` says.
//!
//! Numbers are written as numbers; the proto3 JSON mapping reads 64-bit ones from either form.

mod json;

use time::OffsetDateTime;

use self::json::Object;
use crate::{
    clock::UnixTime, credential::actor::Actor, identity::Thumbprint, reason::Reason,
    telemetry::decision_id::DecisionId,
};

/// The longest text of a record. Longer ones are cut: what a client sends must not size our log.
pub const MAX_TEXT_BYTES: usize = 1024;

/// The most scopes of a record: what an authorization server grants, many times over.
pub const MAX_SCOPES: usize = 128;

/// What is written down of one check. Borrowed from it, for as long as it takes to append it.
///
/// It has no place for a token, a proof, a signature or a query string.
#[derive(Clone, Debug)]
pub struct DecisionRecord<'a> {
    time: UnixTime,
    decision_id: DecisionId,
    decision: &'static str,
    reason: &'static str,
    status: u16,
    /// The deciding rule as `policy/rule`.
    pub rule: Option<&'a str>,
    /// Envoy's id of the request's stream.
    pub request_id: Option<&'a str>,
    /// The method.
    pub method: Option<&'a str>,
    /// Canonical host.
    pub host: Option<&'a str>,
    /// Canonical path without the query.
    pub path: Option<&'a str>,
    /// SPIFFE ID of the service called.
    pub workload: Option<&'a str>,
    /// SPIFFE ID of the Envoy that asked, where it authenticated itself.
    pub caller: Option<&'a str>,
    /// The peer, as far as it was established.
    pub peer: Option<PeerRecord<'a>>,
    /// SPIFFE ID that the caller's workload identity token told, and proved.
    pub workload_identity: Option<&'a str>,
    /// Claims of a token whose signature was verified.
    pub token: Option<TokenRecord<'a>>,
    /// The policy set that decided; `None` where none was loaded.
    pub policy: Option<PolicyRecord<'a>>,
    /// Microseconds from the check's arrival to its answer.
    pub duration_us: u64,
}

impl DecisionRecord<'_> {
    /// Creates the record of a decision, with nothing known about the request.
    #[must_use]
    pub fn new(time: UnixTime, decision_id: DecisionId, reason: Reason) -> Self {
        let allowed = reason == Reason::Allowed;
        Self {
            time,
            decision_id,
            decision: if allowed { "allow" } else { "deny" },
            reason: reason.as_str(),
            status: if allowed { 0 } else { reason.outcome().status() },
            rule: None,
            request_id: None,
            method: None,
            host: None,
            path: None,
            workload: None,
            caller: None,
            peer: None,
            workload_identity: None,
            token: None,
            policy: None,
            duration_us: 0,
        }
    }

    /// Appends the record and a line feed to `line`.
    ///
    /// All but printable ASCII is escaped: a terminal or viewer that shows the line is not steered by
    /// what a client sent.
    pub fn append_to(&self, line: &mut Vec<u8>) {
        let mut record = Object::start(line);
        record.plain("time", &timestamp(self.time));
        record.plain("decision_id", self.decision_id.as_str().as_bytes());
        record.plain("decision", self.decision.as_bytes());
        record.plain("reason", self.reason.as_bytes());
        if self.status != 0 {
            record.number("status", self.status.into());
        }
        record.text("rule", self.rule);
        record.text("request_id", self.request_id.map(cut));
        record.text("method", self.method.map(cut));
        record.text("host", self.host.map(cut));
        record.text("path", self.path.map(cut));
        record.text("workload", self.workload.map(cut));
        record.text("caller", self.caller.map(cut));
        if let Some(peer) = &self.peer {
            peer.append_to(&mut record);
        }
        record.text("workload_identity", self.workload_identity.map(cut));
        if let Some(token) = &self.token {
            token.append_to(&mut record);
        }
        if let Some(policy) = &self.policy {
            policy.append_to(&mut record);
        }
        record.number("duration_us", self.duration_us);
        record.end();
        line.push(b'\n');
    }
}

impl PeerRecord<'_> {
    fn append_to(&self, record: &mut Object<'_>) {
        let mut peer = record.object("peer");
        peer.text("spiffe", self.spiffe.map(cut));
        if let Some(thumbprint) = self.thumbprint {
            peer.plain("thumbprint", &thumbprint.base64url());
        }
        peer.text("verified_by", self.verified_by);
        peer.end();
    }
}

impl TokenRecord<'_> {
    fn append_to(&self, record: &mut Object<'_>) {
        let mut token = record.object("token");
        token.text("issuer", Some(self.issuer));
        token.text("sub", self.sub.map(cut));
        token.text("client_id", self.client_id.map(cut));
        token.texts("scopes", self.scopes.iter().take(MAX_SCOPES).map(|scope| cut(scope)));
        token.text("jti", self.jti.map(cut));
        token.texts("binding", self.binding.iter().copied());
        if self.introspected {
            token.yes("introspected");
        }
        token.objects("actors", self.actors, |actor, object| {
            object.text("sub", Some(cut(&actor.subject)));
            object.text("iss", Some(cut(&actor.issuer)));
        });
        token.end();
    }
}

impl PolicyRecord<'_> {
    fn append_to(&self, record: &mut Object<'_>) {
        let mut policy = record.object("policy");
        policy.number("generation", self.generation);
        policy.plain("hash", self.hash.as_bytes());
        policy.text("commit", self.commit);
        policy.end();
    }
}

/// The peer of a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerRecord<'a> {
    /// Its SPIFFE ID.
    pub spiffe: Option<&'a str>,
    /// SHA-256 of its certificate; written as base64url without padding.
    pub thumbprint: Option<Thumbprint>,
    /// Who verified the certificate's chain: `envoy`.
    pub verified_by: Option<&'a str>,
}

/// The token of a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenRecord<'a> {
    /// Name of the Issuer document.
    pub issuer: &'a str,
    /// `sub`.
    pub sub: Option<&'a str>,
    /// `client_id`.
    pub client_id: Option<&'a str>,
    /// The scopes held; the first [`MAX_SCOPES`].
    pub scopes: &'a [String],
    /// `jti`.
    pub jti: Option<&'a str>,
    /// What binds it, and held: `certificate`, `dpop`, `none`.
    pub binding: &'a [&'static str],
    /// Whether the issuer was asked about it.
    pub introspected: bool,
    /// Who acts for the subject: the current actor first. A token has few.
    pub actors: &'a [Actor],
}

/// The policy set of a record.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRecord<'a> {
    /// The load's number.
    pub generation: u64,
    /// The content's hash.
    pub hash: &'a str,
    /// The Git commit.
    pub commit: Option<&'a str>,
}

fn cut(text: &str) -> &str {
    let mut end = MAX_TEXT_BYTES;
    while end < text.len() && !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or(text)
}

/// Returns RFC 3339 in UTC with microseconds, without a formatter's machinery: it is on every check.
fn timestamp(time: UnixTime) -> [u8; 27] {
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let since = time.since_epoch();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    // A time after the year 9999 has no such form; it is written as the epoch, and breaks nothing.
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    for (place, value) in [
        (0..4, u32::try_from(at.year()).unwrap_or_default()),
        (5..7, u32::from(u8::from(at.month()))),
        (8..10, u32::from(at.day())),
        (11..13, u32::from(at.hour())),
        (14..16, u32::from(at.minute())),
        (17..19, u32::from(at.second())),
        (20..26, since.subsec_micros()),
    ] {
        let mut rest = value;
        for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
            let value = u8::try_from(rest % 10).unwrap_or_default();
            *digit = b'0' | value;
            rest /= 10;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{ProptestConfig, any, proptest};
    use prost_reflect::{
        DescriptorPool, DeserializeOptions, DynamicMessage, ReflectMessage, Value,
    };

    use super::{
        Actor, DecisionRecord, MAX_SCOPES, MAX_TEXT_BYTES, PeerRecord, PolicyRecord, TokenRecord,
    };
    use crate::{
        clock::UnixTime, identity::Thumbprint, reason::Reason, telemetry::decision_id::DecisionId,
    };

    const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

    /// Reads a line as a user of the schema would: unknown fields and wrong types are errors.
    fn read_back(line: &[u8]) -> DynamicMessage {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let schema = pool.get_message_by_name("symbolon.v1.DecisionRecord").unwrap();
        let mut json = serde_json::Deserializer::from_slice(line);
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        DynamicMessage::deserialize_with_options(schema, &mut json, &options).unwrap()
    }

    fn field(message: &DynamicMessage, path: &str) -> Value {
        let mut value = Value::Message(message.clone());
        for name in path.split('.') {
            value = value.as_message().unwrap().get_field_by_name(name).unwrap().into_owned();
        }
        value
    }

    fn line(record: &DecisionRecord<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        record.append_to(&mut line);
        line
    }

    fn full<'r>(scopes: &'r [String], actors: &'r [Actor]) -> DecisionRecord<'r> {
        let now = UnixTime::new(Duration::from_micros(1_763_724_499_000_042));
        DecisionRecord {
            rule: Some("payments/read"),
            request_id: Some("request"),
            method: Some("GET"),
            host: Some("payments.example"),
            path: Some("/v1/payments/42"),
            workload: Some("spiffe://prod.example/ns/payments/sa/api"),
            caller: Some("spiffe://prod.example/ns/payments/sa/envoy"),
            workload_identity: Some("spiffe://prod.example/ns/checkout/sa/job"),
            peer: Some(PeerRecord {
                spiffe: Some("spiffe://prod.example/ns/checkout/sa/web"),
                thumbprint: Some(Thumbprint::of(b"abc")),
                verified_by: Some("envoy"),
            }),
            token: Some(TokenRecord {
                issuer: "corp",
                sub: Some("alice"),
                client_id: Some("web"),
                scopes,
                jti: Some("1"),
                binding: &["certificate"],
                introspected: true,
                actors,
            }),
            policy: Some(PolicyRecord { generation: 7, hash: "abc", commit: Some("def") }),
            duration_us: 12,
            ..DecisionRecord::new(now, DecisionId::next(), Reason::Allowed)
        }
    }

    fn actors() -> [Actor; 2] {
        let actor = |subject: &str, issuer: &str| Actor {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        };
        [actor("web", "https://login.example/"), actor("app", "https://other.example")]
    }

    #[test]
    fn a_record_reads_back_through_the_schema_with_every_field() {
        let scopes = ["payments:read".to_owned(), "x".to_owned()];
        let actors = actors();
        let record = full(&scopes, &actors);
        let line = line(&record);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let message = read_back(&line);
        let text = |path: &str| field(&message, path).as_str().unwrap().to_owned();
        assert_eq!(text("time"), "2025-11-21T11:28:19.000042Z");
        assert_eq!(text("decision_id"), record.decision_id.as_str());
        assert_eq!((text("decision"), text("reason")), ("allow".into(), "allowed".into()));
        assert_eq!(field(&message, "status").as_u32(), Some(0));
        assert_eq!(text("rule"), "payments/read");
        assert_eq!(text("request_id"), "request");
        assert_eq!(text("method"), "GET");
        assert_eq!(text("host"), "payments.example");
        assert_eq!(text("path"), "/v1/payments/42");
        assert_eq!(text("workload"), "spiffe://prod.example/ns/payments/sa/api");
        assert_eq!(text("caller"), "spiffe://prod.example/ns/payments/sa/envoy");
        assert_eq!(text("workload_identity"), "spiffe://prod.example/ns/checkout/sa/job");
        assert_eq!(text("peer.spiffe"), "spiffe://prod.example/ns/checkout/sa/web");
        assert_eq!(text("peer.verified_by"), "envoy");
        assert_eq!(text("peer.thumbprint"), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
        assert_eq!(text("token.issuer"), "corp");
        assert_eq!(text("token.sub"), "alice");
        assert_eq!(text("token.client_id"), "web");
        assert_eq!(text("token.jti"), "1");
        assert_eq!(field(&message, "token.scopes").as_list().unwrap().len(), 2);
        assert_eq!(field(&message, "token.binding").as_list().unwrap().len(), 1);
        let chain = field(&message, "token.actors");
        let chain: Vec<_> = chain
            .as_list()
            .unwrap()
            .iter()
            .map(|actor| actor.as_message().unwrap())
            .map(|actor| (field(actor, "sub"), field(actor, "iss")))
            .map(|(sub, iss)| format!("{} {}", sub.as_str().unwrap(), iss.as_str().unwrap()))
            .collect();
        assert_eq!(chain, ["web https://login.example/", "app https://other.example"]);
        assert_eq!(field(&message, "policy.generation").as_u64(), Some(7));
        assert_eq!(text("policy.hash"), "abc");
        assert_eq!(text("policy.commit"), "def");
        assert_eq!(field(&message, "duration_us").as_u64(), Some(12));
        // No field of the schema is forgotten: all but `status` were written.
        let unset: Vec<_> = message
            .descriptor()
            .fields()
            .filter(|field| !message.has_field(field))
            .map(|field| field.name().to_owned())
            .collect();
        assert_eq!(unset, ["status"]);
    }

    #[test]
    fn a_record_of_nothing_holds_only_what_is_always_there() {
        for reason in Reason::ALL {
            let id = DecisionId::next();
            let line = line(&DecisionRecord::new(UnixTime::from_secs(0), id, *reason));
            let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let allowed = *reason == Reason::Allowed;
            assert_eq!(json["decision"], if allowed { "allow" } else { "deny" });
            assert_eq!(json["reason"], reason.as_str());
            assert_eq!(json["time"], "1970-01-01T00:00:00.000000Z");
            assert_eq!(json.get("status").is_some(), !allowed);
            assert_eq!(json.as_object().unwrap().len(), if allowed { 5 } else { 6 });
            read_back(&line);
        }
    }

    #[test]
    fn long_texts_and_many_scopes_are_cut() {
        let scopes = vec!["é".repeat(MAX_TEXT_BYTES); MAX_SCOPES + 1];
        let path = format!("/{}", "é".repeat(MAX_TEXT_BYTES));
        let actors = actors();
        let mut record = full(&scopes, &actors);
        record.path = Some(&path);
        let message = read_back(&line(&record));
        // One byte, then whole characters of two: one byte stays free.
        assert_eq!(field(&message, "path").as_str().unwrap().len(), MAX_TEXT_BYTES - 1);
        let cut = field(&message, "token.scopes");
        let cut = cut.as_list().unwrap();
        assert_eq!(cut.len(), MAX_SCOPES);
        assert_eq!(cut[0].as_str().unwrap().len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn the_last_microsecond_of_a_leap_day_and_the_end_of_time_are_written() {
        let time = |micros| {
            let time = UnixTime::new(Duration::from_micros(micros));
            let record = DecisionRecord::new(time, DecisionId::next(), Reason::Allowed);
            serde_json::from_slice::<serde_json::Value>(&line(&record)).unwrap()["time"].clone()
        };
        assert_eq!(time(951_868_799_999_999), "2000-02-29T23:59:59.999999Z");
        assert_eq!(time(u64::MAX), "1970-01-01T00:00:00.551615Z");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_one_printable_line_that_reads_back(text in any::<String>()) {
            let scopes = [text.clone()];
            let actors = actors();
        let mut record = full(&scopes, &actors);
            record.path = Some(&text);
            let line = line(&record);
            let (end, line) = line.split_last().unwrap();
            assert_eq!(*end, b'\n');
            assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
            assert_eq!(field(&read_back(line), "path").as_str(), Some(super::cut(&text)));
        }
    }
}
