//! What is decided: [`Decision`], with a [`Permit`] that only this module can make.

use crate::{policy::compile::Rule, reason::Reason};

/// The decision of one check.
#[derive(Debug)]
pub enum Decision<'s> {
    /// A rule allows.
    Allow(Permit<'s>),
    /// Nothing allows, or something denies.
    Deny(Denial<'s>),
}

/// The evidence that a rule allowed: without one no allowing response can be built.
#[derive(Debug)]
pub struct Permit<'s> {
    rule: &'s Rule,
    verified_token: bool,
    _sealed: (),
}

impl<'s> Permit<'s> {
    /// Returns the deciding rule.
    #[must_use]
    pub const fn rule(&self) -> &'s Rule {
        self.rule
    }

    /// Returns whether the deciding rule verified a token.
    #[must_use]
    pub const fn verified_token(&self) -> bool {
        self.verified_token
    }
}

/// A denial.
#[derive(Clone, Copy, Debug)]
pub struct Denial<'s> {
    /// Why.
    pub reason: Reason,
    /// The rule that denied, or came closest to allowing.
    pub rule: Option<&'s Rule>,
}
