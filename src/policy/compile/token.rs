//! `token` and `audiences`: with which token.

use std::sync::Arc;

use crate::{
    diagnostic::Diagnostic,
    policy::{
        compile::{Compiler, suggest},
        document::{
            BindingName, Effect, IssuerDocument, PolicyDocument, ReplayDocument, RuleDocument,
            Text, TokenDocument,
        },
        pattern::{SpiffePattern, name},
        rule::{Bindings, NamedIssuer, Origins, Replay, SubjectName, TokenPart},
        scope::{self, ScopeGrammar},
    },
};

impl Compiler<'_> {
    /// Checks a policy's `audiences` as a whole.
    pub(super) fn audiences(&mut self, policy: &PolicyDocument) {
        let tokens: Vec<&TokenDocument> =
            policy.rules.iter().filter_map(|rule| rule.token.as_ref()).collect();
        let Some(audiences) = &policy.audiences else {
            if let (Some(token), false) = (tokens.first(), policy.broken) {
                self.report(
                    Diagnostic::new(&token.at, "a policy with a `token` part needs `audiences`").help(
                        "write into the policy's `spec` which audience this service is, such as \
                         `audiences: [\"https://payments.example\"]`",
                    ),
                );
            }
            return;
        };
        self.unique(audiences);
        if tokens.is_empty() {
            let is_whole = !policy.broken && policy.rules.iter().all(|rule| !rule.broken);
            if let (Some(audience), true) = (audiences.first(), is_whole) {
                self.wrong(
                    &audience.at,
                    "`audiences` has no meaning where no rule has a `token` part",
                );
            }
            return;
        }
        let names = || tokens.iter().flat_map(|token| &token.issuers);
        // What an issuer lists that could not be read is not known; its own mistakes are reported.
        if names().any(|name| self.issuer(&name.value).is_none()) {
            return;
        }
        for audience in audiences {
            let listed = names()
                .filter_map(|name| self.issuer(&name.value))
                .any(|issuer| lists(issuer, &audience.value));
            if !listed {
                let known: Vec<&str> = names()
                    .filter_map(|name| self.issuer(&name.value))
                    .flat_map(|issuer| issuer.audiences.iter().map(|known| &*known.value))
                    .collect();
                let message = format!(
                    "no issuer that this policy names lists the audience `{}`",
                    audience.value
                );
                let diagnostic = Diagnostic::new(&audience.at, message);
                let help = suggest(&audience.value, known.into_iter());
                self.report(Diagnostic { help, ..diagnostic });
            }
        }
    }

    pub(super) fn token(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        token: &TokenDocument,
        origins: Option<&Arc<Origins>>,
    ) -> TokenPart {
        self.proof_terms(policy, rule, token);
        let metadata = policy.resource_metadata.as_ref();
        TokenPart {
            issuers: self.issuers(policy, token),
            scopes: self.scopes(token),
            binding: self.binding(policy, rule, token),
            origins: origins.map(Arc::clone),
            subjects: self.subjects(token),
            resource_metadata: metadata.map(|metadata| metadata.value.as_str().into()),
            replay: self.replay(token),
            nonce: token.nonce.as_ref().map(|nonce| nonce.value).unwrap_or_default(),
            actor: token.actor.as_ref().map(|actor| self.actor(rule, actor)),
            step_up: self.step_up(rule, token),
        }
    }

    fn scopes(&mut self, token: &TokenDocument) -> Option<Box<[Box<str>]>> {
        let scopes = self.list(token.scopes.as_deref(), name::scope)?;
        let is_smart = token
            .issuers
            .iter()
            .filter_map(|name| self.issuer(&name.value))
            .any(|issuer| issuer.scope_grammar == ScopeGrammar::SmartOnFhir);
        for scope in token.scopes.iter().flatten() {
            if is_smart && scope::is_malformed_smart(&scope.value) {
                let message = format!("`{}` is no SMART on FHIR scope", scope.value);
                self.report(Diagnostic::new(&scope.at, message).help(
                    "write it as `system/Observation.rs`: a type or `*`, and some of `cruds` in this order",
                ));
            }
        }
        Some(scopes.into())
    }

    fn subjects(&mut self, token: &TokenDocument) -> Option<Box<[SubjectName]>> {
        let names = token.subjects.as_deref()?;
        self.unique(names);
        let is_spiffe = |name: &&Text| name.value.starts_with("spiffe://");
        let spiffe: Vec<Text> = names.iter().filter(is_spiffe).cloned().collect();
        self.check_trust_domains(&spiffe);
        let parsed = names.iter().filter_map(|name| {
            if is_spiffe(&name) {
                return self.parse(name, SpiffePattern::parse).map(SubjectName::Spiffe);
            }
            if name.value.contains('*') {
                self.report(
                    Diagnostic::new(&name.at, "`*` stands for something in SPIFFE IDs alone").help(
                        "write the `sub` out; claims such as `repository_owner` are for `requireClaims` of the Issuer",
                    ),
                );
            }
            Some(SubjectName::Exact(name.value.as_str().into()))
        });
        Some(parsed.collect())
    }

    fn replay(&mut self, token: &TokenDocument) -> Replay {
        match token.replay.as_ref().map(|replay| &replay.value) {
            None | Some(ReplayDocument::Consume) => Replay::Consume,
            Some(ReplayDocument::Observe) => Replay::Observe,
            Some(ReplayDocument::ObserveFor(callers)) => {
                self.unique(callers);
                self.check_trust_domains(callers);
                let callers = self.list(Some(callers), SpiffePattern::parse);
                Replay::ObserveFor(callers.unwrap_or_default().into())
            }
        }
    }

    fn issuers(&mut self, policy: &PolicyDocument, token: &TokenDocument) -> Box<[NamedIssuer]> {
        self.unique(&token.issuers);
        if token.issuers.is_empty() {
            self.wrong(&token.at, "a `token` part names its `issuers`");
        }
        let mut named = Vec::new();
        for name in &token.issuers {
            let Some(issuer) = self.issuer(&name.value) else {
                let is_broken = self.documents.broken_issuers.contains(&name.value);
                if !is_broken && !self.documents.unnamed.issuers {
                    let message = format!("no Issuer `{}` is declared", name.value);
                    let known = self.documents.issuers.iter().map(|issuer| &*issuer.name.value);
                    let help = suggest(&name.value, known);
                    self.report(Diagnostic { help, ..Diagnostic::new(&name.at, message) });
                }
                continue;
            };
            let (grammar, opaque) = (issuer.scope_grammar, issuer.introspection.is_some());
            let Some(own) = &policy.audiences else { continue };
            let audiences: Box<[Box<str>]> = own
                .iter()
                .filter(|audience| lists(issuer, &audience.value))
                .map(|audience| audience.value.as_str().into())
                .collect();
            if audiences.is_empty() {
                let message = format!(
                    "the issuer `{}` lists none of this policy's audiences, so that no token of its fits",
                    name.value
                );
                self.wrong(&name.at, message);
            }
            let name = name.value.as_str().into();
            named.push(NamedIssuer { name, opaque, grammar, audiences });
        }
        named.into()
    }

    fn binding(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        token: &TokenDocument,
    ) -> Option<Bindings> {
        let Some(listed) = &token.binding else {
            if rule.effect == Effect::Allow {
                self.needs_peer_trust(&token.at, "a bound token, which `token` asks for,");
                self.needs_certificate(&token.at, "token");
            }
            return None;
        };
        self.unique_values(listed);
        if listed.is_empty() {
            self.wrong(&token.at, "`binding` lists what satisfies it");
        }
        let mut bindings = Bindings::default();
        for binding in listed {
            match binding.value {
                BindingName::Certificate => {
                    bindings.certificate = true;
                    self.needs_peer_trust(&binding.at, "`certificate`");
                    self.needs_certificate(&binding.at, "certificate");
                }
                BindingName::Dpop => {
                    bindings.dpop = true;
                    self.needs_origin(policy, &binding.at, "`dpop`");
                }
                BindingName::None => bindings.none = true,
            }
        }
        Some(bindings)
    }

    pub(super) fn issuer(&self, name: &str) -> Option<&IssuerDocument> {
        self.documents.issuers.iter().find(|issuer| issuer.name.value == name)
    }
}

fn lists(issuer: &IssuerDocument, audience: &str) -> bool {
    issuer.audiences.iter().any(|listed| listed.value == audience)
}
