//! What came of a check, as Envoy reads it, and whether that is what was expected.

use std::{collections::BTreeMap, fs, sync::LazyLock};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
        service::auth::v3::{CheckResponse, check_response::HttpResponse},
    },
    google::protobuf::value::Kind,
};

use serde_json::Value;

use crate::data::{Expect, folder};

/// A response taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) rule: Option<String>,
    pub(crate) status: Option<i32>,
    /// Those of the denial, or those set for the upstream.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) removed: Vec<String>,
    pub(crate) body: String,
    allowed: bool,
}

impl Outcome {
    /// Takes a response apart; what would be wrong in any response is an error.
    pub(crate) fn of(response: CheckResponse) -> Result<Self, String> {
        let code = response.status.ok_or("no status")?.code;
        let metadata = response.dynamic_metadata.ok_or("no metadata")?.fields;
        let text = |name: &str| match metadata.get(name).and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        };
        let mut outcome = Self {
            id: text("decision_id").ok_or("metadata has no decision id")?,
            code,
            reason: text("reason").ok_or("metadata has no reason")?,
            rule: text("rule"),
            status: None,
            headers: BTreeMap::new(),
            removed: Vec::new(),
            body: String::new(),
            allowed: false,
        };
        match response.http_response.ok_or("no HTTP response")? {
            HttpResponse::OkResponse(ok) => {
                outcome.allowed = true;
                outcome.headers = headers(ok.headers)?;
                outcome.removed = ok.headers_to_remove;
                outcome.removed.sort();
            }
            HttpResponse::DeniedResponse(denied) => {
                outcome.status = denied.status.map(|status| status.code);
                outcome.headers = headers(denied.headers)?;
                outcome.body = denied.body;
            }
            HttpResponse::ErrorResponse(_) => return Err("an error response".to_owned()),
        }
        if outcome.allowed != (code == 0) {
            return Err(format!("status code {code} beside the wrong HTTP response"));
        }
        Ok(outcome)
    }

    /// The same whatever the decision's id.
    pub(crate) fn without_id(&self) -> String {
        format!("{self:?}").replace(&self.id, "{decision}")
    }

    /// Says what is not as expected.
    pub(crate) fn compare(&self, expect: &Expect) -> Result<(), String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, found: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug| {
            let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
            if found != expected {
                wrong.push(format!("{what} is {found} instead of {expected}"));
            }
        };
        same("reason", &self.reason, &expect.reason);
        same("status", &self.status, &expect.status);
        if let Some(rule) = &expect.rule {
            same("rule", &self.rule.as_deref().unwrap_or("none"), &rule.as_str());
        }
        if let Some(body) = &expect.body {
            same("body", &self.body, body);
        }
        if self.allowed {
            if let Some(set) = &expect.set {
                let set: BTreeMap<String, String> = set
                    .iter()
                    .map(|(name, value)| (name.clone(), value.replace("{decision}", &self.id)))
                    .collect();
                same("set headers", &self.headers, &set);
            }
            for name in &expect.removed {
                same(&format!("removal of {name}"), &self.removed.contains(name), &true);
            }
            for name in &expect.kept {
                same(&format!("removal of {name}"), &self.removed.contains(name), &false);
            }
            let both: Vec<_> =
                self.removed.iter().filter(|name| self.headers.contains_key(*name)).collect();
            same("both set and removed", &both, &Vec::<&String>::new());
        } else {
            same("decision header", &self.headers.get("x-symbolon-decision"), &Some(&self.id));
            let challenge = self.headers.get("www-authenticate");
            match &expect.challenge {
                Some(expected) => same("challenge", &challenge, &Some(expected)),
                // RFC 9110 §15.5.2: a 401 has one.
                None => same("a challenge", &(challenge.is_some()), &(self.status == Some(401))),
            }
            let asks_nonce =
                challenge.is_some_and(|text| text.contains(r#"error="use_dpop_nonce""#));
            same("a nonce", &self.headers.contains_key("dpop-nonce"), &asks_nonce);
            same("what is not ours in the answer", &self.not_ours(), &Vec::<String>::new());
            same("printable body", &self.body.bytes().all(|b| (b' '..=b'~').contains(&b)), &true);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

impl Outcome {
    /// Returns what a denial says that is neither a text of the program's nor one of the policies asked: what a
    /// client sent is in no answer.
    fn not_ours(&self) -> Vec<String> {
        static POLICIES: LazyLock<String> = LazyLock::new(|| {
            let files = fs::read_dir(folder().join("world/policies")).unwrap();
            files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
        });
        let mut strange = Vec::new();
        for (name, value) in &self.headers {
            let is_ours = match name.as_str() {
                "x-symbolon-decision" => *value == self.id,
                "content-type" => value == "application/problem+json",
                "cache-control" => value == "no-store",
                // Its parts are random, and an HMAC.
                "dpop-nonce" => true,
                "www-authenticate" => {
                    // Outside of quotes words of the RFCs, inside of them also what policies say.
                    value.split('"').enumerate().all(|(place, part)| {
                        let words = part.split([' ', ',']).filter(|word| !word.is_empty());
                        words.into_iter().all(|word| {
                            WORDS.contains(&word) || (place % 2 == 1 && POLICIES.contains(word))
                        })
                    })
                }
                _ => false,
            };
            if !is_ours {
                strange.push(format!("{name}: {value}"));
            }
        }
        let problem = serde_json::from_str::<Value>(&self.body);
        let title = problem.as_ref().map_or(self.body.as_str(), |problem| {
            assert_eq!(problem["status"].as_i64(), self.status.map(i64::from), "{problem}");
            problem["title"].as_str().unwrap()
        });
        let status = self.status.and_then(|status| u16::try_from(status).ok());
        let phrase = status.and_then(|status| http::StatusCode::from_u16(status).ok());
        let phrase = match phrase {
            // RFC 9110 §15.5.14 has renamed it.
            Some(http::StatusCode::PAYLOAD_TOO_LARGE) => "Content Too Large",
            Some(status) => status.canonical_reason().unwrap_or_default(),
            None => "",
        };
        if !title.eq_ignore_ascii_case(phrase) {
            strange.push(self.body.clone());
        }
        strange
    }
}

/// What challenges are made of.
const WORDS: [&str; 21] = [
    "Bearer",
    "DPoP",
    "realm=",
    "error=",
    "scope=",
    "algs=",
    "acr_values=",
    "max_age=",
    "resource_metadata=",
    "api",
    "invalid_request",
    "invalid_token",
    "invalid_dpop_proof",
    "use_dpop_nonce",
    "insufficient_scope",
    "insufficient_user_authentication",
    "ES256",
    "EdDSA",
    "PS256",
    // What policies write as `5m` and `15m`.
    "300",
    "900",
];

/// Headers by name; one that does not overwrite or comes twice is an error.
fn headers(options: Vec<HeaderValueOption>) -> Result<BTreeMap<String, String>, String> {
    let mut headers = BTreeMap::new();
    for option in options {
        if option.append_action() != HeaderAppendAction::OverwriteIfExistsOrAdd {
            return Err("a header that does not overwrite".to_owned());
        }
        let header = option.header.ok_or("a header without name")?;
        let value = if header.raw_value.is_empty() {
            header.value
        } else {
            String::from_utf8_lossy(&header.raw_value).into_owned()
        };
        if headers.insert(header.key, value).is_some() {
            return Err("a header twice".to_owned());
        }
    }
    Ok(headers)
}
