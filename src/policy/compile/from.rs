//! `from`: who calls; and which documents of trust a rule rests on.

use std::sync::Arc;

use crate::{
    diagnostic::{At, Diagnostic},
    policy::{
        compile::{Compiler, suggest},
        document::{Effect, FromDocument, PolicyDocument, RuleDocument, Text},
        pattern::{SpiffePattern, name},
        rule::{FromPart, Origins, WorkloadPart},
    },
};

impl Compiler<'_> {
    pub(super) fn from(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        from: &FromDocument,
        origins: Option<&Arc<Origins>>,
    ) -> FromPart {
        let asks_peer = from.spiffe.is_some() || from.dns.is_some() || from.thumbprints.is_some();
        if asks_peer || from.wimse.is_none() {
            self.needs_peer_trust(&from.at, "`from`");
        }
        if !asks_peer && from.wimse.is_none() {
            self.wrong(&from.at, "`from` names no one");
        }
        let spiffe = self.list(from.spiffe.as_deref(), SpiffePattern::parse);
        self.check_trust_domains(from.spiffe.as_deref().unwrap_or_default());
        let dns = self.list(from.dns.as_deref(), name::dns);
        let thumbprints = self.list(from.thumbprints.as_deref(), name::thumbprint);
        for (name, texts) in [("dns", &from.dns), ("thumbprints", &from.thumbprints)] {
            if let Some(text) = texts.iter().flatten().next() {
                self.needs_certificate(&text.at, name);
            }
        }
        FromPart {
            spiffe: spiffe.map(Into::into),
            dns: dns.map(Into::into),
            thumbprints: thumbprints.map(Into::into),
            wimse: self.wimse(policy, rule, from, origins),
        }
    }

    fn wimse(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        from: &FromDocument,
        origins: Option<&Arc<Origins>>,
    ) -> Option<WorkloadPart> {
        let named = from.wimse.as_deref()?;
        let spiffe = self.list(Some(named), SpiffePattern::parse).unwrap_or_default();
        for text in named {
            self.needs_bundle(text);
        }
        if rule.effect == Effect::Allow {
            self.needs_origin(policy, &from.at, "`wimse`");
        }
        if rule.to.as_ref().is_some_and(|to| to.tcp.is_some()) {
            self.wrong(&from.at, "`wimse` in a rule with `tcp`: a TCP check carries no headers");
        }
        Some(WorkloadPart { spiffe: spiffe.into(), origins: origins.map(Arc::clone) })
    }

    /// What is told by a workload identity token is verified by the bundle of its trust domain.
    fn needs_bundle(&mut self, text: &Text) {
        let Ok(pattern) = SpiffePattern::parse(&text.value) else { return };
        let named = pattern.trust_domain();
        let declared = self.documents.trust_domains.iter().find(|d| d.name.value == named);
        let is_there = declared.is_some_and(|domain| domain.bundle.is_some() || domain.broken);
        if is_there || self.documents.unnamed.trust_domains {
            return;
        }
        let message = format!("no TrustDomain `{named}` with a `spiffeBundle` is declared");
        self.report(
            Diagnostic::new(&text.at, message).help(
                "the bundle has the keys of its workload identity tokens, as `use: wit-svid`",
            ),
        );
    }

    /// IDs of undeclared trust domains are not believed once one is declared, so that a pattern which
    /// names one could never match.
    pub(super) fn check_trust_domains(&mut self, patterns: &[Text]) {
        let declared: Vec<&str> =
            self.documents.trust_domains.iter().map(|domain| &*domain.name.value).collect();
        if declared.is_empty() || self.documents.unnamed.trust_domains {
            return;
        }
        for text in patterns {
            // What is no pattern is reported as such.
            let Ok(pattern) = SpiffePattern::parse(&text.value) else { continue };
            let named = pattern.trust_domain();
            if !declared.contains(&named) {
                let message = format!("no TrustDomain `{named}` is declared");
                let help = suggest(named, declared.iter().copied()).unwrap_or_else(|| {
                    format!("add a document of kind TrustDomain with `metadata: {{name: {named}}}`")
                });
                self.report(Diagnostic::new(&text.at, message).help(help));
            }
        }
    }

    /// Nothing in a check shows what Envoy was told to forward, so that there is no default.
    pub(super) fn needs_peer_trust(&mut self, at: &At, what: &str) {
        if self.documents.peer_trust.is_none() && !self.documents.unnamed.peer_trust {
            let message = format!("{what} needs a PeerTrust document, and there is none");
            self.report(Diagnostic::new(at, message).help(PEER_TRUST_LINES));
        }
    }

    /// `source.principal` is one name, without the certificate.
    pub(super) fn needs_certificate(&mut self, at: &At, what: &str) {
        let Some(peer_trust) = &self.documents.peer_trust else { return };
        let sources = peer_trust.evidence.value;
        if !sources.certificate && !sources.xfcc {
            let message = format!(
                "`{what}` needs the peer's certificate, and PeerTrust lists `principal` alone"
            );
            self.report(
                Diagnostic::new(at, message)
                    .help("list `xfcc` or `certificate` in its `evidence` too"),
            );
        }
    }
}

/// What to add where rules ask for a peer.
const PEER_TRUST_LINES: &str = "\
    add a file with `{apiVersion: symbolon/v1, kind: PeerTrust, metadata: {name: mesh}, \
    spec: {evidence: [principal, xfcc]}}` in an Istio mesh; \
    behind plain Envoy with `include_peer_certificate: true`, `spec: {evidence: [principal, certificate]}`";
