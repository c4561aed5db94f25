//! From the workload called to the hosts of its policies.

use std::collections::HashMap;

use crate::{
    identity::SpiffeId,
    policy::{
        document::Effect,
        index::host::Hosts,
        pattern::{SpiffePattern, spiffe::Segment},
        rule::{Route, Scope},
    },
};

/// Policies by the workloads they name.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    /// Named without a wildcard.
    exact: HashMap<Box<str>, Hosts>,
    /// Named by patterns, by trust domain.
    patterns: HashMap<Box<str>, Node>,
    /// Policies without `workloads`.
    any: Hosts,
    /// All policies with `workloads`, for checks in which nothing names the workload called: which of
    /// them are meant is unproven then, so that they allow nothing and deny what they deny.
    named: Hosts,
}

/// Patterns by their segments.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    one: Option<Box<Node>>,
    /// Patterns that end here.
    here: Option<Box<Hosts>>,
    /// Patterns that go on with `**`.
    rest: Option<Box<Hosts>>,
}

/// Which rules of what is visited count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Only {
    /// All.
    All,
    /// Deny rules.
    Denies,
}

impl Workloads {
    pub(super) fn insert(&mut self, policy: &Scope, rules: &[(usize, Effect, Route)]) {
        let Some(workloads) = &policy.workloads else {
            return self.any.insert(policy, rules);
        };
        self.named.insert(policy, rules);
        for pattern in workloads {
            self.at(pattern).insert(policy, rules);
        }
    }

    fn at(&mut self, pattern: &SpiffePattern) -> &mut Hosts {
        if let Some(id) = pattern.exact() {
            return self.exact.entry(id.into()).or_default();
        }
        let mut node = self.patterns.entry(pattern.trust_domain().into()).or_default();
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => return node.rest.get_or_insert_default(),
            };
        }
        node.here.get_or_insert_default()
    }

    /// Visits the hosts of every policy that asks about `workload`.
    pub(super) fn visit<'s>(
        &'s self,
        workload: Option<SpiffeId<'_>>,
        visit: &mut impl FnMut(&'s Hosts, Only),
    ) {
        visit(&self.any, Only::All);
        let Some(workload) = workload else {
            return visit(&self.named, Only::Denies);
        };
        if let Some(hosts) = self.exact.get(workload.as_str()) {
            visit(hosts, Only::All);
        }
        if let Some(node) = self.patterns.get(workload.trust_domain()) {
            node.visit(workload.path().strip_prefix('/'), visit);
        }
    }
}

impl Node {
    /// Walks `rest`, the segments that are left. The depth is bounded by that of the patterns.
    fn visit<'s>(&'s self, rest: Option<&str>, visit: &mut impl FnMut(&'s Hosts, Only)) {
        let Some(rest) = rest else {
            if let Some(hosts) = &self.here {
                visit(hosts, Only::All);
            }
            return;
        };
        if let Some(hosts) = &self.rest {
            visit(hosts, Only::All);
        }
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        if let Some(node) = self.literals.get(segment) {
            node.visit(rest, visit);
        }
        if let Some(node) = &self.one {
            node.visit(rest, visit);
        }
    }
}
