//! Whom opaque tokens are shown to: for every request one issuer at most, as such a token names none itself.

use crate::{
    diagnostic::Diagnostic,
    policy::{
        compile::Compiler,
        document::{PolicyDocument, Text},
    },
};

impl Compiler<'_> {
    /// Reports policies that can be asked about one request, by their hosts and workloads, and whose rules
    /// name different issuers of opaque tokens.
    pub(super) fn check_opaque_issuers(&mut self) {
        let named: Vec<(&PolicyDocument, Vec<&Text>)> = self
            .documents
            .policies
            .iter()
            .map(|policy| (policy, self.opaque_issuers(policy)))
            .filter(|(_, issuers)| !issuers.is_empty())
            .collect();
        let mut mistakes = Vec::new();
        for (place, (policy, issuers)) in named.iter().enumerate() {
            let earlier = named.iter().take(place);
            let earlier =
                earlier.filter(|(other, _)| can_meet(policy, other)).map(|(_, names)| names);
            let mut known: Vec<&Text> = earlier.flatten().copied().collect();
            for issuer in issuers {
                match known.iter().find(|other| other.value != issuer.value) {
                    Some(other) => mistakes.push(mistake(issuer, other)),
                    None => known.push(issuer),
                }
            }
        }
        for mistake in mistakes {
            self.report(mistake);
        }
    }

    fn opaque_issuers<'p>(&self, policy: &'p PolicyDocument) -> Vec<&'p Text> {
        let tokens = policy.rules.iter().filter_map(|rule| rule.token.as_ref());
        let is_asked = |name: &&Text| {
            self.issuer(&name.value).is_some_and(|issuer| issuer.introspection.is_some())
        };
        tokens.flat_map(|token| &token.issuers).filter(is_asked).collect()
    }
}

fn mistake(issuer: &Text, other: &Text) -> Diagnostic {
    let message = format!(
        "an opaque token names no issuer, and rules for the same services ask `{}` already, here `{}` as well",
        other.value, issuer.value
    );
    Diagnostic::new(&issuer.at, message).help(
        "name one issuer with `introspection` for each service, so that no issuer is shown the tokens of another",
    )
}

/// Says whether a request may be asked about by both policies. Where that is hard to tell, it may.
fn can_meet(one: &PolicyDocument, other: &PolicyDocument) -> bool {
    let any =
        |one: &Option<Vec<Text>>, other: &Option<Vec<Text>>, meets: fn(&str, &str) -> bool| {
            let (Some(one), Some(other)) = (one, other) else { return true };
            one.iter().any(|one| other.iter().any(|other| meets(&one.value, &other.value)))
        };
    any(&one.hosts, &other.hosts, hosts_meet)
        && any(&one.workloads, &other.workloads, workloads_meet)
}

fn hosts_meet(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let covers = |pattern: &str, host: &str| {
        pattern
            .strip_prefix('*')
            .is_some_and(|suffix| host.trim_start_matches('*').ends_with(suffix))
    };
    one == other || covers(&one, &other) || covers(&other, &one)
}

fn workloads_meet(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("**"), _) | (_, Some("**")) | (None, None) => return true,
            (Some(own), Some(theirs)) if own == theirs || own == "*" || theirs == "*" => {}
            (_, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_meet_where_one_request_can_be_for_both() {
        for (one, other, meet) in [
            ("a.example", "A.example", true),
            ("a.example", "b.example", false),
            ("*.example", "a.b.example", true),
            ("*.example", "example", false),
            ("*.a.example", "*.example", true),
            ("*.a.example", "*.b.example", false),
        ] {
            assert_eq!(hosts_meet(one, other), meet, "{one} {other}");
            assert_eq!(hosts_meet(other, one), meet, "{other} {one}");
        }
    }

    #[test]
    fn workloads_meet_where_one_service_can_be_both() {
        for (one, other, meet) in [
            ("spiffe://d/ns/a/sa/x", "spiffe://d/ns/a/sa/x", true),
            ("spiffe://d/ns/a/sa/x", "spiffe://d/ns/a/sa/*", true),
            ("spiffe://d/ns/*/sa/x", "spiffe://d/ns/a/sa/*", true),
            ("spiffe://d/**", "spiffe://d/ns/a/sa/x", true),
            ("spiffe://e/**", "spiffe://d/ns/a/sa/x", false),
            ("spiffe://d/ns/a/sa/x", "spiffe://d/ns/b/sa/x", false),
            ("spiffe://d/ns/a", "spiffe://d/ns/a/sa/x", false),
        ] {
            assert_eq!(workloads_meet(one, other), meet, "{one} {other}");
            assert_eq!(workloads_meet(other, one), meet, "{other} {one}");
        }
    }
}
