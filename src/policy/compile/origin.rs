//! `origin`: what clients call the service, which a DPoP proof must name (RFC 9449 §4.3, step 9).

use std::collections::HashSet;

use crate::{
    credential::dpop::Origin,
    diagnostic::{At, Diagnostic},
    policy::{
        compile::Compiler,
        document::{Effect, OriginDocument, PolicyDocument, RuleDocument, Text, TokenDocument},
        pattern::HostPattern,
        rule::Origins,
    },
};

impl Compiler<'_> {
    pub(super) fn origins(&mut self, policy: &PolicyDocument) -> Option<Origins> {
        match policy.origin.as_ref()? {
            OriginDocument::One(origin) => self.origin(origin).map(Origins::One),
            OriginDocument::ByHost(entries) => {
                let mut seen: HashSet<&str> = HashSet::new();
                let mut hosts = Vec::with_capacity(entries.len());
                for (host, origin) in entries {
                    if !seen.insert(&host.value) {
                        self.wrong(&host.at, format!("`{}` stands twice in this map", host.value));
                    }
                    let host = self.host_of_policy(policy, host);
                    if let (Some(host), Some(origin)) = (host, self.origin(origin)) {
                        hosts.push((host, origin));
                    }
                }
                Some(Origins::ByHost(hosts))
            }
        }
    }

    fn origin(&mut self, origin: &Text) -> Option<Origin> {
        match Origin::parse(&origin.value) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.report(
                    Diagnostic::new(
                        &origin.at,
                        format!("`{}` is no origin: {error}", origin.value),
                    )
                    .help("write what clients call, such as `https://payments.example`"),
                );
                None
            }
        }
    }

    /// A host that no request of this policy has would be a mistake nobody sees.
    fn host_of_policy(&mut self, policy: &PolicyDocument, host: &Text) -> Option<HostPattern> {
        let pattern = self.parse(host, HostPattern::parse)?;
        let HostPattern::Exact(name) = &pattern else {
            self.wrong(&host.at, "an origin is for one host, written out");
            return None;
        };
        let own = policy.hosts.as_deref().is_none_or(|hosts| {
            hosts.iter().any(|own| match HostPattern::parse(&own.value) {
                Ok(own) => own.matches(name),
                // Reported where it stands.
                Err(_) => true,
            })
        });
        if !own {
            self.wrong(&host.at, format!("`{}` is no host of this policy", host.value));
        }
        Some(pattern)
    }

    /// Reports `what` where a host of the policy has no origin.
    pub(super) fn needs_origin(&mut self, policy: &PolicyDocument, at: &At, what: &str) {
        let help = "write into the policy's `spec` what clients call: `origin: https://payments.example`, \
                    or a map from each of its `hosts` to one";
        let message = match &policy.origin {
            None => format!("{what} needs an `origin`: proofs name the URI that the client calls"),
            Some(OriginDocument::One(_)) => return,
            Some(OriginDocument::ByHost(known)) => {
                let hosts = policy.hosts.as_deref().unwrap_or_default();
                // Which hosts a wildcard stands for is not known.
                let missing = hosts.iter().find(|host| {
                    !host.value.starts_with('*')
                        && !known.iter().any(|(known, _)| known.value == host.value)
                });
                match missing {
                    Some(host) => format!("{what} needs an `origin` for `{}`", host.value),
                    None => return,
                }
            }
        };
        self.report(Diagnostic::new(at, message).help(help));
    }

    /// `replay` and `nonce` say what becomes of proofs that are accepted.
    pub(super) fn proof_terms(
        &mut self,
        policy: &PolicyDocument,
        rule: &RuleDocument,
        token: &TokenDocument,
    ) {
        let replay = token.replay.as_ref().map(|replay| (&replay.at, "`replay`"));
        let nonce = token.nonce.as_ref().map(|nonce| (&nonce.at, "`nonce`"));
        for (at, what) in [replay, nonce].into_iter().flatten() {
            if rule.effect == Effect::Deny {
                self.wrong(at, format!("{what} has no meaning in a deny rule"));
            } else {
                self.needs_origin(policy, at, what);
            }
        }
    }
}
