//! From documents to rules: names resolved, patterns parsed, contradictions reported.

mod from;
mod opaque;
mod origin;
mod to;
mod token;
mod upstream;
mod user;

use std::{collections::HashSet, sync::Arc};

use crate::{
    diagnostic::{At, Diagnostic, Spanned},
    evidence::path::PathForms,
    policy::{
        decode::text::nearest,
        document::{Documents, Effect, PolicyDocument, RuleDocument, Text},
        index::PolicySet,
        pattern::{HostPattern, PatternError, SpiffePattern},
        rule::{Origins, Route, Rule, Scope},
    },
};

/// Compiles documents. Mistakes are added to `diagnostics`, all of them; where there are any, the result
/// holds no rules and is not to be used.
///
/// `owned_headers` are upstream headers that stay symbolon's own though no policy sets them.
pub fn compile(
    documents: &Documents,
    owned_headers: &[String],
    diagnostics: &mut Vec<Diagnostic>,
) -> PolicySet {
    let before = diagnostics.len();
    let mut compiler = Compiler { documents, diagnostics };
    compiler.check_names();
    compiler.check_opaque_issuers();
    let scopes = documents.policies.iter().map(|policy| compiler.policy(policy)).collect();
    if diagnostics.len() == before {
        PolicySet::build(scopes, owned_headers)
    } else {
        PolicySet::default()
    }
}

/// What is compiled, and what is wrong with it.
struct Compiler<'d> {
    documents: &'d Documents,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl Compiler<'_> {
    fn check_names(&mut self) {
        let mut seen: HashSet<&str> = HashSet::new();
        for policy in &self.documents.policies {
            self.check_name(&policy.name, "policy");
            if !seen.insert(&policy.name.value) {
                let message = format!("there is already a policy `{}`", policy.name.value);
                self.wrong(&policy.name.at, message);
            }
        }
    }

    /// A rule is told in logs and headers as `policy/rule`.
    fn check_name(&mut self, name: &Text, what: &str) {
        let is_name = !name.value.is_empty()
            && name.value.len() <= MAX_NAME_BYTES
            && name
                .value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !is_name {
            self.wrong(
                &name.at,
                format!(
                    "the name of a {what} is 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` and `.`"
                ),
            );
        }
    }

    fn policy(&mut self, policy: &PolicyDocument) -> Scope {
        if policy.workloads.is_none() && policy.hosts.is_none() && !policy.broken {
            self.report(
                Diagnostic::new(&policy.at, "a policy names `workloads`, `hosts` or both")
                    .help("name the service called: `workloads: [\"spiffe://…\"]`"),
            );
        }
        let mut seen: HashSet<&str> = HashSet::new();
        for rule in &policy.rules {
            self.check_name(&rule.name, "rule");
            if !seen.insert(&rule.name.value) {
                let message = format!("this policy has already a rule `{}`", rule.name.value);
                self.wrong(&rule.name.at, message);
            }
        }
        self.audiences(policy);
        let origins = self.origins(policy).map(Arc::new);
        Scope {
            workloads: self.list(policy.workloads.as_deref(), SpiffePattern::parse).inspect(|_| {
                self.check_trust_domains(policy.workloads.as_deref().unwrap_or_default());
            }),
            hosts: self.list(policy.hosts.as_deref(), HostPattern::parse),
            forms: self.forms(&policy.path_forms),
            case_insensitive: policy.case_insensitive,
            rules: policy
                .rules
                .iter()
                .map(|rule| self.rule(policy, rule, origins.as_ref()))
                .collect(),
        }
    }

    fn forms(&mut self, names: &[Text]) -> PathForms {
        self.unique(names);
        let mut forms = PathForms::default();
        for name in names {
            let known = PathForms::NAMED.iter().find(|(known, _)| *known == name.value);
            if let Some((_, form)) = known {
                forms = forms.union(*form);
                continue;
            }
            let known = PathForms::NAMED.map(|(known, _)| known);
            let message = format!("`{}` is not a path form", name.value);
            let help = suggest(&name.value, known.iter().copied())
                .unwrap_or_else(|| format!("the path forms are {}", known.join(", ")));
            self.report(Diagnostic::new(&name.at, message).help(help));
        }
        forms
    }

    fn rule(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        origins: Option<&Arc<Origins>>,
    ) -> (Rule, Route) {
        self.check_public(rule);
        let tcp = rule.to.as_ref().is_some_and(|to| to.tcp.is_some());
        if tcp {
            self.check_tcp(policy, rule);
        }
        let (route, upgrades, preflight) = self.to(policy, rule);
        let compiled = Rule {
            id: format!("{}/{}", policy.name.value, rule.name.value).into(),
            effect: rule.effect,
            from: rule.from.as_ref().map(|from| self.from(policy, rule, from, origins)),
            token: rule.token.as_ref().map(|token| self.token(policy, rule, token, origins)),
            upgrades,
            preflight,
            upstream: self.upstream(rule),
        };
        (compiled, route)
    }

    /// A forgotten part must not open a service.
    fn check_public(&mut self, rule: &RuleDocument) {
        if rule.broken {
            return;
        }
        let asks = rule.from.is_some() || rule.token.is_some();
        match (rule.effect, rule.public, asks) {
            (Effect::Allow, false, false) => self.report(
                Diagnostic::new(&rule.at, "a rule with neither `from` nor `token` allows everyone")
                    .help("add the part that is missing, or say `public: true`"),
            ),
            (Effect::Allow, true, true) => {
                self.wrong(&rule.at, "`public: true` contradicts the rule's `from` or `token`");
            }
            (Effect::Deny, true, _) => {
                self.wrong(&rule.at, "`public: true` has no meaning in a deny rule");
            }
            (Effect::Allow, false, true)
            | (Effect::Allow, true, false)
            | (Effect::Deny, false, _) => {}
        }
    }

    /// Parses each entry; `None` where the list is left out.
    fn list<T>(
        &mut self,
        texts: Option<&[Text]>,
        parse: impl Fn(&str) -> Result<T, PatternError>,
    ) -> Option<Vec<T>> {
        let texts = texts?;
        self.unique(texts);
        Some(texts.iter().filter_map(|text| self.parse(text, &parse)).collect())
    }

    fn parse<T>(
        &mut self,
        text: &Text,
        parse: impl Fn(&str) -> Result<T, PatternError>,
    ) -> Option<T> {
        match parse(&text.value) {
            Ok(value) => Some(value),
            Err(PatternError { message, help }) => {
                self.diagnostics.push(Diagnostic { at: text.at.clone(), message, help });
                None
            }
        }
    }

    fn unique(&mut self, texts: &[Text]) {
        let mut seen: HashSet<&str> = HashSet::new();
        for text in texts {
            if !seen.insert(&text.value) {
                self.wrong(&text.at, format!("`{}` stands twice in this list", text.value));
            }
        }
    }

    fn unique_values<T: PartialEq>(&mut self, values: &[Spanned<T>]) {
        for (place, value) in values.iter().enumerate() {
            if values.iter().take(place).any(|earlier| earlier.value == value.value) {
                self.wrong(&value.at, "this entry stands twice in this list");
            }
        }
    }

    fn wrong(&mut self, at: &At, message: impl Into<String>) {
        self.report(Diagnostic::new(at, message));
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}

/// As long as Kubernetes' names.
const MAX_NAME_BYTES: usize = 253;

/// Returns `did you mean …` for the nearest of `known`, where one is near.
fn suggest<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let known: Vec<&str> = known.collect();
    nearest(text, &known).map(|known| format!("did you mean `{known}`?"))
}

#[cfg(test)]
mod tests;
