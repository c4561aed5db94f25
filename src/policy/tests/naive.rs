//! The meaning of policies, written down a second time: every rule looked at, straight from the documents,
//! without index and without compiled patterns.

use crate::{
    evidence::{Attempt, Evidence, http::HttpRequest, path::PathForms},
    policy::{
        document::{Effect, PolicyDocument, RuleDocument, Text, ToDocument},
        pattern::template::normal,
    },
};

/// Returns the names of the rules that ask about a request, sorted; `None` where its path is ambiguous.
pub(super) fn candidates(
    policies: &[PolicyDocument],
    evidence: &Evidence<'_>,
) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut read = match &evidence.attempt {
        Attempt::Http(request) => request.path.forms.is_empty(),
        Attempt::Tcp { .. } => true,
    };
    for policy in policies {
        let workload = match (&policy.workloads, evidence.workload) {
            (None, _) => Some(true),
            (Some(_), None) => None,
            (Some(patterns), Some(id)) => {
                Some(patterns.iter().any(|pattern| spiffe(&pattern.value, id.as_str())))
            }
        };
        if workload == Some(false) {
            continue;
        }
        for rule in &policy.rules {
            let unknown_fails = workload.is_none() && rule.effect == Effect::Allow;
            let asks = match &evidence.attempt {
                Attempt::Tcp { port } => tcp(policy, rule, *port),
                Attempt::Http(request) => {
                    let http = rule.to.as_ref().is_none_or(|to| to.tcp.is_none());
                    if !http || !host(policy, &request.host) {
                        continue;
                    }
                    let reads = request.path.forms.is_within(forms(policy));
                    read |= reads;
                    asks(policy, rule, request, reads)
                }
            };
            if asks && !unknown_fails {
                found.push(format!("{}/{}", policy.name.value, rule.name.value));
            }
        }
    }
    found.sort();
    read.then_some(found)
}

fn forms(policy: &PolicyDocument) -> PathForms {
    let named = |name: &Text| PathForms::NAMED.into_iter().find(|(known, _)| *known == name.value);
    policy.path_forms.iter().filter_map(named).fold(PathForms::default(), |a, (_, b)| a.union(b))
}

fn spiffe(pattern: &str, id: &str) -> bool {
    let (pattern, id): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), id.split('/').collect());
    match pattern.strip_suffix(&["**"]) {
        Some(prefix) => {
            id.len() > prefix.len() && prefix.iter().zip(&id).all(|(p, s)| *p == "*" || p == s)
        }
        None => {
            id.len() == pattern.len() && pattern.iter().zip(&id).all(|(p, s)| *p == "*" || p == s)
        }
    }
}

fn host(policy: &PolicyDocument, host: &str) -> bool {
    policy.hosts.as_ref().is_none_or(|hosts| {
        hosts.iter().any(|pattern| match pattern.value.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => pattern.value == host,
        })
    })
}

fn tcp(policy: &PolicyDocument, rule: &RuleDocument, port: u32) -> bool {
    let ports = rule.to.as_ref().and_then(|to| to.tcp.as_ref());
    policy.hosts.is_none()
        && ports.is_some_and(|ports| ports.iter().any(|named| u32::from(named.value) == port))
}

fn asks(
    policy: &PolicyDocument,
    rule: &RuleDocument,
    request: &HttpRequest<'_>,
    reads: bool,
) -> bool {
    let nothing = ToDocument {
        methods: None,
        paths: None,
        upgrades: None,
        preflight: false,
        tcp: None,
        at: rule.at.clone(),
    };
    let to = rule.to.as_ref().unwrap_or(&nothing);
    let deny = rule.effect == Effect::Deny;
    let method = match &to.methods {
        Some(methods) => methods.iter().any(|method| method.value == request.method),
        None => deny || request.method != "CONNECT",
    };
    let upgrade = match (&to.upgrades, &request.upgrade) {
        (Some(named), Some(asked)) => named.iter().any(|named| named.value == **asked),
        (Some(_), None) => false,
        (None, Some(_)) => deny,
        (None, None) => true,
    };
    let preflight = !to.preflight || request.preflight;
    let mut readings = vec![request.path.canonical.to_string()];
    if deny {
        readings.extend(request.path.other_readings());
        let normals: Vec<String> = readings.iter().map(|r| normal(r).into_owned()).collect();
        readings.extend(normals);
    }
    let path = match (&to.paths, reads) {
        (_, false) => deny,
        (None, true) => true,
        (Some(templates), true) => templates.iter().any(|template| {
            readings.iter().any(|reading| path(policy, &template.value, reading, deny))
        }),
    };
    method && upgrade && preflight && path
}

fn path(policy: &PolicyDocument, template: &str, reading: &str, deny: bool) -> bool {
    let (mut template, mut reading) = (template.to_owned(), reading.to_owned());
    if policy.case_insensitive {
        // Names of placeholders too, which mean nothing.
        (template, reading) = (template.to_lowercase(), reading.to_lowercase());
    }
    if deny {
        template = template.trim_end_matches('/').to_owned();
        reading = reading.trim_end_matches('/').to_owned();
    } else if reading.is_empty() {
        return false;
    }
    let mut wanted: Vec<&str> = template.split('/').collect();
    let given: Vec<&str> = reading.split('/').collect();
    let rest = wanted.last() == Some(&"{**}");
    if rest {
        wanted.pop();
    }
    let fits = |(wanted, given): (&&str, &&str)| {
        if wanted.starts_with('{') { deny || !given.is_empty() } else { wanted == given }
    };
    (if rest { given.len() >= wanted.len() } else { given.len() == wanted.len() })
        && wanted.iter().zip(&given).all(fits)
}
