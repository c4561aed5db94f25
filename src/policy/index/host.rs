//! From the host asked for to the paths of its policies.

use std::collections::HashMap;

use crate::policy::{
    document::Effect,
    index::{Found, HostRank, path::Paths, workload::Only},
    pattern::{HostPattern, host::without_brackets},
    rule::{Route, Scope},
};

/// Policies by the hosts they name.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: HashMap<Box<str>, Paths>,
    /// By suffix.
    wildcards: HashMap<Box<str>, Paths>,
    /// Policies without `hosts`.
    any: Paths,
}

impl Hosts {
    pub(super) fn insert(&mut self, policy: &Scope, rules: &[(usize, Effect, Route)]) {
        let Some(hosts) = &policy.hosts else {
            return self.any.insert(policy, rules);
        };
        for host in hosts {
            let paths = match host {
                HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
                HostPattern::Suffix(suffix) => self.wildcards.entry(suffix.clone()).or_default(),
            };
            paths.insert(policy, rules);
        }
    }

    /// Visits the paths of every policy that asks about `host`.
    pub(super) fn visit<'s>(&'s self, host: &str, visit: &mut impl FnMut(&'s Paths, HostRank)) {
        visit(&self.any, HostRank::None);
        let host = without_brackets(host);
        if let Some(paths) = self.exact.get(host) {
            visit(paths, HostRank::Exact);
        }
        if self.wildcards.is_empty() {
            return;
        }
        let mut labels = host;
        while let Some((first, suffix)) = labels.split_once('.') {
            // `*` is one or more labels, and a label is not empty.
            if !(first.is_empty() && labels.len() == host.len())
                && let Some(paths) = self.wildcards.get(suffix)
            {
                visit(paths, HostRank::Wildcard(suffix.len()));
            }
            labels = suffix;
        }
    }

    /// Finds the rules that answer TCP checks, which carry no host.
    pub(super) fn find_tcp<'s>(&'s self, port: u16, only: Only, found: &mut Found<'s>) {
        self.any.find_tcp(port, only, found);
    }
}
