//! `acr`, `maxAge` and `actor` of `token`: how the user authenticated, and who acts for the subject.

use crate::{
    diagnostic::{Diagnostic, Spanned},
    identity::SpiffeId,
    policy::{
        StepUp,
        compile::Compiler,
        delegation::{ActorName, ActorPart},
        document::{ActorDocument, ActorNameDocument, Effect, RuleDocument, TokenDocument},
        pattern::name,
    },
};

impl Compiler<'_> {
    pub(super) fn step_up(&mut self, rule: &RuleDocument, token: &TokenDocument) -> Option<StepUp> {
        let acr = token.acr.as_deref();
        let places = [
            ("acr", acr.and_then(|acr| acr.first()).map(|acr| &acr.at)),
            ("maxAge", token.max_age.as_ref().map(|max_age| &max_age.at)),
        ];
        for (field, at) in places {
            if let (Effect::Deny, Some(at)) = (rule.effect, at) {
                // Whether a strong authentication or a weak one is to be denied is anybody's guess.
                self.report(
                    Diagnostic::new(at, format!("`{field}` has no meaning in a deny rule"))
                        .help("ask for it in the allow rules"),
                );
            }
        }
        // They are told to clients with spaces between them (RFC 9470 §3), as scopes are.
        let acr = self.list(acr, name::acr).map(Into::into);
        let max_age = token.max_age.as_ref().map(|max_age| max_age.value);
        (acr.is_some() || max_age.is_some()).then_some(StepUp { acr, max_age })
    }

    pub(super) fn actor(
        &mut self,
        rule: &RuleDocument,
        actor: &Spanned<ActorDocument>,
    ) -> ActorPart {
        let (subjects, max_depth) = match &actor.value {
            ActorDocument::None => return ActorPart::Forbidden,
            ActorDocument::Any => (None, &None),
            ActorDocument::Map { subjects, max_depth } => (subjects.as_deref(), max_depth),
        };
        if let (Effect::Deny, Some(max_depth)) = (rule.effect, max_depth) {
            self.wrong(&max_depth.at, "`maxDepth` has no meaning in a deny rule");
        }
        ActorPart::Required {
            subjects: subjects.map(|names| self.actor_names(names)),
            max_depth: max_depth.as_ref().map(|max_depth| max_depth.value),
        }
    }

    fn actor_names(&mut self, names: &[ActorNameDocument]) -> Box<[ActorName]> {
        let pair = |name: &ActorNameDocument| {
            (name.subject.value.clone(), name.issuer.as_ref().map(|issuer| issuer.value.clone()))
        };
        for (place, name) in names.iter().enumerate() {
            if names.iter().take(place).any(|earlier| pair(earlier) == pair(name)) {
                self.wrong(&name.subject.at, "this entry stands twice in this list");
            }
            self.actor_name(name);
        }
        let compiled = names.iter().map(|name| ActorName {
            subject: name.subject.value.as_str().into(),
            issuer: name.issuer.as_ref().map(|issuer| issuer.value.as_str().into()),
        });
        compiled.collect()
    }

    /// Reports a name that no actor could have.
    fn actor_name(&mut self, name: &ActorNameDocument) {
        let (subject, at) = (&name.subject.value, &name.subject.at);
        if subject.contains('*') {
            self.report(Diagnostic::new(at, "an actor is named in full, without `*`").help(
                "to match workloads by a pattern use `from`: an actor with a SPIFFE ID is the peer",
            ));
        } else if subject.starts_with("spiffe:") {
            if let Err(error) = SpiffeId::parse(subject) {
                self.wrong(at, error.to_string());
            }
            self.needs_peer_trust(at, "an actor with a SPIFFE ID, which must be the peer,");
        }
    }
}
