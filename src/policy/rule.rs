//! A compiled rule: names resolved, patterns parsed.

use std::sync::Arc;

use crate::{
    credential::dpop::Origin,
    evidence::path::PathForms,
    identity::{SpiffeId, Thumbprint},
    policy::{
        StepUp,
        delegation::ActorPart,
        document::{Effect, NonceMode},
        pattern::{HostPattern, SpiffePattern, Template},
        scope::ScopeGrammar,
        upstream::Upstream,
    },
};

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// `policy/rule`.
    pub id: Box<str>,
    pub(in crate::policy) effect: Effect,
    pub(in crate::policy) from: Option<FromPart>,
    pub(in crate::policy) token: Option<TokenPart>,
    /// The upgrades it names, if any.
    pub(in crate::policy) upgrades: Option<Box<[Box<str>]>>,
    /// Whether it matches CORS preflights alone.
    pub(in crate::policy) preflight: bool,
    pub(in crate::policy) upstream: Upstream,
}

/// `from`: different fields must all hold, entries of one are alternatives.
#[derive(Debug, Default)]
pub(in crate::policy) struct FromPart {
    pub(in crate::policy) spiffe: Option<Box<[SpiffePattern]>>,
    pub(in crate::policy) dns: Option<Box<[Box<str>]>>,
    pub(in crate::policy) thumbprints: Option<Box<[Thumbprint]>>,
    pub(in crate::policy) wimse: Option<WorkloadPart>,
}

/// `from.wimse`: which workloads, by what they prove of themselves.
#[derive(Debug)]
pub(in crate::policy) struct WorkloadPart {
    pub(in crate::policy) spiffe: Box<[SpiffePattern]>,
    /// What clients call the service; none in a deny rule of a policy that does not say.
    pub(in crate::policy) origins: Option<Arc<Origins>>,
}

/// `token`.
#[derive(Debug)]
pub(in crate::policy) struct TokenPart {
    pub(in crate::policy) issuers: Box<[NamedIssuer]>,
    /// All required in an allow rule, any in a deny rule; `None` asks nothing.
    pub(in crate::policy) scopes: Option<Box<[Box<str>]>>,
    /// `None` where left out.
    pub(in crate::policy) binding: Option<Bindings>,
    /// What clients call the service, where the policy says so.
    pub(in crate::policy) origins: Option<Arc<Origins>>,
    /// Whose tokens; `None` where left out.
    pub(in crate::policy) subjects: Option<Box<[SubjectName]>>,
    /// Where the service's metadata is, for challenges.
    pub(in crate::policy) resource_metadata: Option<Arc<str>>,
    pub(in crate::policy) replay: Replay,
    pub(in crate::policy) nonce: NonceMode,
    pub(in crate::policy) actor: Option<ActorPart>,
    /// Never in a deny rule.
    pub(in crate::policy) step_up: Option<StepUp>,
}

/// Whose token a rule names.
#[derive(Debug)]
pub(in crate::policy) enum SubjectName {
    /// `sub`, byte by byte.
    Exact(Box<str>),
    /// `sub`, where it is a SPIFFE ID.
    Spiffe(SpiffePattern),
}

impl SubjectName {
    pub(in crate::policy) fn names(&self, subject: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *subject,
            Self::Spiffe(pattern) => SpiffeId::parse(subject).is_ok_and(|id| pattern.matches(id)),
        }
    }
}

/// What becomes of a proof that a rule accepted.
#[derive(Debug, Default)]
pub(in crate::policy) enum Replay {
    /// It is used up.
    #[default]
    Consume,
    /// It is not.
    Observe,
    /// It is not in checks that one of these asks.
    ObserveFor(Box<[SpiffePattern]>),
}

impl Replay {
    /// Says whether a check that `caller` asks uses a proof up: whoever has not proven its name is not named.
    pub(in crate::policy) fn consumes(&self, caller: Option<SpiffeId<'_>>) -> bool {
        match self {
            Self::Consume => true,
            Self::Observe => false,
            Self::ObserveFor(callers) => {
                !caller.is_some_and(|caller| callers.iter().any(|pattern| pattern.matches(caller)))
            }
        }
    }
}

/// The origins that proofs for a policy's services name.
#[derive(Debug)]
pub(in crate::policy) enum Origins {
    /// The same whatever the host.
    One(Origin),
    /// By host.
    ByHost(Vec<(HostPattern, Origin)>),
}

impl Origins {
    /// Returns the origin of `host`.
    ///
    /// The host is the client's word, and no more than a choice among what is configured here.
    pub(in crate::policy) fn of(&self, host: &str) -> Option<&Origin> {
        match self {
            Self::One(origin) => Some(origin),
            Self::ByHost(hosts) => {
                hosts.iter().find(|(own, _)| own.matches(host)).map(|(_, origin)| origin)
            }
        }
    }
}

/// An issuer that a rule names, with the audiences its tokens may have here.
#[derive(Debug)]
pub(in crate::policy) struct NamedIssuer {
    pub(in crate::policy) name: Box<str>,
    /// Whether it is asked about tokens that are no JWTs.
    pub(in crate::policy) opaque: bool,
    pub(in crate::policy) grammar: ScopeGrammar,
    /// INVARIANT (a token is for one service): the policy's audiences that this very issuer lists too, so
    /// that neither a new Issuer nor a new policy widens what is accepted here.
    pub(in crate::policy) audiences: Box<[Box<str>]>,
}

/// The bindings that a rule lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Bindings {
    pub(in crate::policy) certificate: bool,
    pub(in crate::policy) dpop: bool,
    pub(in crate::policy) none: bool,
}

/// Which requests a rule asks about, within its policy's scope.
#[derive(Debug, Default)]
pub(in crate::policy) struct Route {
    pub(in crate::policy) methods: Option<Vec<Box<str>>>,
    pub(in crate::policy) paths: Option<Vec<Template>>,
    /// Ports of a rule that answers TCP checks, and those only.
    pub(in crate::policy) tcp: Option<Vec<u16>>,
}

/// A policy, ready to be indexed.
#[derive(Debug)]
pub(in crate::policy) struct Scope {
    pub(in crate::policy) workloads: Option<Vec<SpiffePattern>>,
    pub(in crate::policy) hosts: Option<Vec<HostPattern>>,
    pub(in crate::policy) forms: PathForms,
    pub(in crate::policy) case_insensitive: bool,
    pub(in crate::policy) rules: Vec<(Rule, Route)>,
}
