//! A compiled rule: names resolved, patterns parsed.

use crate::{
    evidence::path::PathForms,
    identity::Thumbprint,
    policy::{
        document::Effect,
        pattern::{HostPattern, SpiffePattern, Template},
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
}

/// `token`.
#[derive(Debug)]
pub(in crate::policy) struct TokenPart {
    pub(in crate::policy) issuers: Box<[NamedIssuer]>,
    /// All required in an allow rule, any in a deny rule; `None` asks nothing.
    pub(in crate::policy) scopes: Option<Box<[Box<str>]>>,
    /// `None` where left out.
    pub(in crate::policy) binding: Option<Bindings>,
}

/// An issuer that a rule names, with the audiences its tokens may have here.
#[derive(Debug)]
pub(in crate::policy) struct NamedIssuer {
    pub(in crate::policy) name: Box<str>,
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
