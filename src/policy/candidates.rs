//! The rules that ask about one request.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::{
    credential::Principal,
    policy::{Needs, index::HostRank, rule::Rule},
};

/// The rules that ask about one request, and what they need to have verified.
#[derive(Debug, Default)]
pub struct Candidates<'s> {
    rules: SmallVec<[Candidate<'s>; 8]>,
    ambiguous: bool,
    token: bool,
    workload: bool,
}

/// A rule that asks about a request, and how specifically it names it.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct Candidate<'s> {
    pub(in crate::policy) rule: &'s Rule,
    pub(in crate::policy) host: HostRank,
    /// As [`crate::policy::pattern::template::Template::rank`] gives it.
    pub(in crate::policy) path: &'s [u8],
}

impl<'s> Candidates<'s> {
    pub(in crate::policy) fn new(rules: impl Iterator<Item = Candidate<'s>>) -> Self {
        let mut candidates = Self::default();
        for candidate in rules {
            candidates.token |= candidate.rule.token.is_some();
            candidates.workload |= candidate.rule.asks_workload();
            candidates.rules.push(candidate);
        }
        candidates
    }

    pub(in crate::policy) fn ambiguous() -> Self {
        Self { ambiguous: true, ..Self::default() }
    }

    /// Returns whether a rule asks for a workload identity token.
    #[must_use]
    pub const fn asks_workload(&self) -> bool {
        self.workload
    }

    /// Returns what must be verified before [`crate::policy::PolicySet::decide`] is asked, of a call by
    /// `principal`, whose token is not looked at. Nobody is asked about an opaque token on behalf of a rule
    /// whose `from` part fails.
    #[must_use]
    pub fn needs(&self, principal: &Principal<'_>) -> Needs<'s> {
        let mut asked =
            self.rules.iter().flat_map(|candidate| candidate.rule.opaque_issuers(principal));
        // Loading refuses rules that name different ones; a token is shown to none that it may not be from.
        let opaque = asked.next().filter(|first| asked.all(|other| other == *first));
        Needs { token: self.token, opaque }
    }

    /// Returns how many rules ask about the request.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// Returns whether the path has two readings and no policy of this host opts in to them.
    pub(in crate::policy) const fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &Candidate<'s>> {
        self.rules.iter()
    }
}

impl Candidate<'_> {
    /// Compares how specific two candidates of one request are: by host, then path, then whether a token
    /// was verified, then the smallest name in byte order. The greater one decides.
    pub(in crate::policy) fn rank(
        &self,
        verified: bool,
        other: &Self,
        other_verified: bool,
    ) -> Ordering {
        (self.host.cmp(&other.host))
            .then_with(|| self.path.cmp(other.path))
            .then_with(|| verified.cmp(&other_verified))
            .then_with(|| other.rule.id.cmp(&self.rule.id))
    }
}
