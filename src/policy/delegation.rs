//! What a rule asks of who acts for a token's subject (RFC 8693 §4.1).

use crate::{credential::claims::AccessToken, reason::Reason};

/// `token.actor`.
#[derive(Debug)]
pub(in crate::policy) enum ActorPart {
    /// `none`: nobody acts for the subject.
    Forbidden,
    /// `any`, or a map of what the actor must be.
    Required {
        /// Who may be the current actor; `None` is anybody.
        subjects: Option<Box<[ActorName]>>,
        /// The most actors in the chain, the current one included.
        max_depth: Option<usize>,
    },
}

/// A current actor that a rule names. Exact: who has a name is for the issuer to say.
#[derive(Debug)]
pub(in crate::policy) struct ActorName {
    pub(in crate::policy) subject: Box<str>,
    /// Whose name it is; `None`: that of the issuer of the token.
    pub(in crate::policy) issuer: Option<Box<str>>,
}

impl ActorPart {
    /// Says whether an allow rule accepts the token's actors. Who acted before the current one is history
    /// and no matter (RFC 8693 §4.1); only how many did is.
    pub(in crate::policy) fn accepts(&self, token: &AccessToken) -> Result<(), Reason> {
        match self {
            Self::Forbidden if token.actors.is_empty() => Ok(()),
            Self::Forbidden => Err(Reason::ActorForbidden),
            Self::Required { .. } if token.actors.is_empty() => Err(Reason::ActorRequired),
            Self::Required { subjects, max_depth } => {
                if !subjects.as_deref().is_none_or(|subjects| are_named(token, subjects)) {
                    return Err(Reason::ActorNotAllowed);
                }
                if max_depth.is_some_and(|max_depth| token.actors.len() > max_depth) {
                    return Err(Reason::DelegationTooDeep);
                }
                Ok(())
            }
        }
    }

    /// Says whether a deny rule, which has no depth, matches the token's actors.
    pub(in crate::policy) fn matches(&self, token: &AccessToken) -> bool {
        self.accepts(token).is_ok()
    }
}

/// Says whether the current actor is one of `names`.
fn are_named(token: &AccessToken, names: &[ActorName]) -> bool {
    let Some(actor) = token.actors.first() else { return false };
    names.iter().any(|name| {
        let issuer = name.issuer.as_deref().or_else(|| token.issuer_identifier());
        *name.subject == *actor.subject && issuer == Some(actor.issuer.as_str())
    })
}
