//! `to`: what is asked for.

use crate::{
    diagnostic::Diagnostic,
    evidence::path::{Path, PathForms},
    policy::{
        compile::Compiler,
        document::{Effect, FromDocument, PolicyDocument, RuleDocument, ToDocument},
        pattern::{Template, name},
        rule::Route,
    },
};

impl Compiler<'_> {
    /// Returns the route, the upgrades and whether the rule matches preflights alone.
    pub(super) fn to(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
    ) -> (Route, Option<Box<[Box<str>]>>, bool) {
        let Some(to) = &rule.to else { return (Route::default(), None, false) };
        let methods = self.list(to.methods.as_deref(), name::method);
        if let (true, Some(methods)) = (to.preflight, &to.methods)
            && !methods.iter().any(|method| method.value == "OPTIONS")
        {
            self.wrong(
                &to.at,
                "a preflight is an `OPTIONS` request, which `methods` does not list",
            );
        }
        let paths = self.list(to.paths.as_deref(), Template::parse);
        if policy.case_insensitive {
            self.check_case(to);
        }
        if rule.effect == Effect::Allow && !rule.broken && !policy.broken {
            self.check_forms(policy, to);
        }
        let tcp = to.tcp.as_ref().map(|ports| {
            self.unique_values(ports);
            for port in ports.iter().filter(|port| port.value == 0) {
                self.wrong(&port.at, "a port is 1 to 65535");
            }
            ports.iter().map(|port| port.value).collect()
        });
        let upgrades = self.list(to.upgrades.as_deref(), name::upgrade);
        (Route { methods, paths, tcp }, upgrades.map(Into::into), to.preflight)
    }

    /// A path that policies read only where they opt in never matches where this one does not. In a deny
    /// rule it may: such a path matches every one.
    fn check_forms(&mut self, policy: &PolicyDocument, to: &ToDocument) {
        let opted = |form: &str| policy.path_forms.iter().any(|opted| opted.value == form);
        for text in to.paths.iter().flatten() {
            if Template::parse(&text.value).is_err() {
                continue;
            }
            // Placeholders have no forms.
            let forms = Path::read(&text.value, "GET").forms;
            for (name, form) in PathForms::NAMED {
                if forms.intersects(form) && !opted(name) {
                    self.report(
                        Diagnostic::new(
                            &text.at,
                            "such a path is ambiguous and denied, so that this one never matches",
                        )
                        .help(format!(
                            "say `pathForms: [{name}]` in the policy's `spec` to read it"
                        )),
                    );
                }
            }
        }
    }

    /// Which letters beyond ASCII are the same but for case differs among servers.
    fn check_case(&mut self, to: &ToDocument) {
        for text in to.paths.iter().flatten() {
            if Template::parse(&text.value).is_ok_and(|template| template.has_non_ascii()) {
                self.report(
                    Diagnostic::new(&text.at, "`caseInsensitive` compares ASCII letters only")
                        .help("write `{name}` for the segment"),
                );
            }
        }
    }

    /// A TCP check carries addresses and a peer, and nothing else.
    pub(super) fn check_tcp(&mut self, policy: &PolicyDocument, rule: &RuleDocument) {
        let Some(to) = &rule.to else { return };
        if (policy.workloads.is_none() && !policy.broken) || policy.hosts.is_some() {
            self.report(
                Diagnostic::new(
                    &to.at,
                    "a TCP check carries no host, so that this rule never answers one",
                )
                .help("put the rule into a policy with `workloads` and without `hosts`"),
            );
        }
        for (name, is_there) in [
            ("methods", to.methods.is_some()),
            ("paths", to.paths.is_some()),
            ("upgrades", to.upgrades.is_some()),
            ("preflight", to.preflight),
        ] {
            if is_there {
                self.wrong(&to.at, format!("`{name}` beside `tcp`: a TCP check carries no HTTP"));
            }
        }
        if let Some(from) = &rule.from {
            self.check_tcp_peer(from);
        }
        if let Some(token) = &rule.token {
            self.wrong(&token.at, "`token` in a rule with `tcp`: a TCP check carries no token");
        }
        if rule.upstream.is_some() && rule.effect == Effect::Allow {
            self.wrong(&rule.at, "`upstream` in a rule with `tcp`: a TCP check carries no headers");
        }
    }

    /// XFCC is HTTP's: what it alone would tell is never known of a connection, so that an allow rule could
    /// not hold and a deny rule not match.
    fn check_tcp_peer(&mut self, from: &FromDocument) {
        let Some(peer_trust) = &self.documents.peer_trust else { return };
        let sources = peer_trust.evidence.value;
        if !sources.principal && !sources.certificate {
            self.report(
                Diagnostic::new(
                    &from.at,
                    "`from` in a rule with `tcp`: a TCP check carries no XFCC, and PeerTrust lists `xfcc` alone",
                )
                .help("list `principal` or `certificate` in its `evidence` too"),
            );
        } else if !sources.certificate && sources.xfcc {
            for (name, texts) in [("dns", &from.dns), ("thumbprints", &from.thumbprints)] {
                if let Some(text) = texts.iter().flatten().next() {
                    let message = format!(
                        "`{name}` in a rule with `tcp`: a TCP check carries no XFCC, and PeerTrust does not \
                         list `certificate`"
                    );
                    self.report(Diagnostic::new(&text.at, message).help(
                        "name the peer by `spiffe`, or list `certificate` in `evidence` too",
                    ));
                }
            }
        }
    }
}
