//! What came of a check, as Envoy reads it, and whether that is what was expected.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
        service::auth::v3::{CheckResponse, check_response::HttpResponse},
    },
    google::protobuf::value::Kind,
};

use crate::data::Expect;

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
            same("printable body", &self.body.bytes().all(|b| (b' '..=b'~').contains(&b)), &true);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

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
