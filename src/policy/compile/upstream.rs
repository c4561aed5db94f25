//! `upstream`: what goes on to the service.

use std::collections::HashSet;

use crate::{
    diagnostic::Diagnostic,
    policy::{
        compile::{Compiler, suggest},
        document::{Effect, RuleDocument, Text},
        pattern::{PatternError, name::is_token},
        upstream::{
            Name, OVERRIDES, Upstream,
            template::{Place, ValueTemplate},
        },
    },
};

impl Compiler<'_> {
    pub(super) fn upstream(&mut self, rule: &RuleDocument) -> Upstream {
        let Some(document) = &rule.upstream else { return Upstream::default() };
        if rule.effect == Effect::Deny {
            self.wrong(&rule.at, "`upstream` has no meaning in a deny rule");
            return Upstream::default();
        }
        let names: Vec<&Text> = document.headers.iter().map(|(name, _)| name).collect();
        let mut seen: HashSet<&str> = HashSet::new();
        for name in names.iter().copied().chain(&document.remove) {
            if !seen.insert(&name.value) {
                let message = format!("the header `{}` is set or removed twice", name.value);
                self.wrong(&name.at, message);
            }
        }
        let mut set = Vec::new();
        for (name, text) in &document.headers {
            let parsed = self.parse(name, header_to_set);
            let value = self.parse(text, ValueTemplate::parse);
            if let Some(value) = &value {
                self.check_places(rule, text, value);
            }
            set.extend(parsed.zip(value));
        }
        if let (true, Some(token)) = (document.pass_unverified_token, &rule.token) {
            self.wrong(
                &token.at,
                "`token` beside `unverifiedToken: pass`: what goes on is verified here",
            );
        }
        for name in document.keep.iter().filter(|name| seen.contains(&*name.value)) {
            self.wrong(&name.at, format!("the header `{}` is removed and kept", name.value));
        }
        let remove =
            document.remove.iter().filter_map(|name| self.parse(name, header_to_remove)).collect();
        Upstream {
            set: set.into(),
            remove,
            keep: self.keep(&document.keep),
            pass_unverified_token: document.pass_unverified_token,
        }
    }

    /// A placeholder whose part the rule does not ask for would never have a verified value.
    fn check_places(&mut self, rule: &RuleDocument, text: &Text, value: &ValueTemplate) {
        let mut missing: Vec<&str> = value
            .places()
            .filter_map(Place::needs)
            .filter(|part| match *part {
                "from" => rule.from.is_none(),
                _ => rule.token.is_none(),
            })
            .collect();
        missing.dedup();
        for part in missing {
            let of = if part == "from" { "peer" } else { "token" };
            let message = format!("a placeholder of the {of} needs a `{part}` part in its rule");
            self.wrong(&text.at, message);
        }
    }

    fn keep(&mut self, names: &[Text]) -> Box<[Box<str>]> {
        self.unique(names);
        for name in names.iter().filter(|name| !OVERRIDES.contains(&&*name.value)) {
            let message = format!("`{}` is not a method or path override header", name.value);
            let help = suggest(&name.value, OVERRIDES.into_iter())
                .unwrap_or_else(|| format!("they are {}", OVERRIDES.join(", ")));
            self.report(Diagnostic::new(&name.at, message).help(help));
        }
        names.iter().map(|name| name.value.as_str().into()).collect()
    }
}

fn header_to_set(text: &str) -> Result<Name, PatternError> {
    let name = header(text)?;
    let belongs_to = if starts_with(text, &["content-", "x-forwarded-", "x-envoy-"])
        || ["host", "date", "expect", "forwarded", "via"].contains(&text)
        || HOP_BY_HOP.contains(&text)
    {
        "the proxy"
    } else if ["authorization", "cookie", "dpop"].contains(&text) {
        "the client's credentials"
    } else if starts_with(text, &["x-symbolon-"]) {
        "symbolon"
    } else if OVERRIDES.contains(&text) {
        "what overrides method and path"
    } else {
        return Ok(name);
    };
    Err(PatternError::new(format!("`{text}` belongs to {belongs_to} and cannot be set")))
}

fn header_to_remove(text: &str) -> Result<Name, PatternError> {
    let name = header(text)?;
    if starts_with(text, &["content-"]) || text == "host" || HOP_BY_HOP.contains(&text) {
        return Err(PatternError::new(format!(
            "`{text}` belongs to the proxy and cannot be removed"
        )));
    }
    Ok(name)
}

fn header(text: &str) -> Result<Name, PatternError> {
    if text.starts_with(':') {
        return Err(PatternError::new(format!(
            "`{text}` is a pseudo-header and cannot be changed"
        )));
    }
    if !is_token(text) {
        return Err(PatternError::new(format!("`{}` is not a header name", text.escape_debug())));
    }
    let name = Name::new(text);
    if name.as_str() != text {
        return Err(PatternError::new(
            "a header name is written in lower case, with no mark but `-`",
        )
        .help(format!("write `{}`", name.as_str())));
    }
    Ok(name)
}

fn starts_with(text: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| text.starts_with(prefix))
}

/// Headers of one connection (RFC 9110 §7.6.1 and what HTTP/1.1 proxies treat so).
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
