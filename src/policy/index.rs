//! Finding the rules that ask about a request, at a cost flat in their number.
//!
//! Workload, then host, then path, then method: each step is a few hash look-ups, and as many more as
//! patterns overlap at that place.

mod host;
mod path;
mod workload;

use smallvec::SmallVec;

use crate::{
    evidence::{Attempt, Evidence, http::HttpRequest},
    identity::SpiffeId,
    policy::{
        candidates::{Candidate, Candidates},
        document::Effect,
        index::{path::Query, workload::Workloads},
        rule::{Rule, Scope},
        upstream::Ownership,
    },
};

/// All compiled rules of a generation, indexed. The default one holds none, and so denies everything.
#[derive(Debug, Default)]
pub struct PolicySet {
    rules: Box<[Rule]>,
    workloads: Workloads,
    ownership: Ownership,
}

impl PolicySet {
    /// Indexes policies. `owned_headers` are upstream headers that stay symbolon's own though no policy
    /// sets them.
    pub(in crate::policy) fn build(policies: Vec<Scope>, owned_headers: &[String]) -> Self {
        let mut rules = Vec::new();
        let mut workloads = Workloads::default();
        for mut policy in policies {
            let mut routes = Vec::new();
            for (rule, route) in policy.rules.drain(..) {
                routes.push((rules.len(), rule.effect, route));
                rules.push(rule);
            }
            workloads.insert(&policy, &routes);
        }
        let ownership = Ownership::new(&rules, owned_headers);
        Self { rules: rules.into(), workloads, ownership }
    }

    /// Returns the number of rules.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Returns the upstream headers that are symbolon's own: those a policy sets and those the process
    /// keeps, sorted, with `-` for every mark.
    pub fn owned_headers(&self) -> impl Iterator<Item = &str> {
        self.ownership.names()
    }

    pub(in crate::policy) const fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Returns the rules that ask about what `evidence` attempts. Nothing is verified for that.
    #[must_use]
    pub fn candidates<'s>(&'s self, evidence: &Evidence<'_>) -> Candidates<'s> {
        let mut found = Found::new();
        match &evidence.attempt {
            Attempt::Tcp { port } => {
                // Larger ones do not exist; the message has room for them.
                if let Ok(port) = u16::try_from(*port) {
                    self.workloads.visit(evidence.workload, &mut |hosts, only| {
                        hosts.find_tcp(port, only, &mut found);
                    });
                }
                self.collect(found, |_| true)
            }
            Attempt::Http(request) => {
                if !request.path.forms.is_empty() && !self.reads(request, evidence.workload) {
                    // Known before anything is verified: the answer must not depend on who asks. And before
                    // the path's further readings are worked out, which a client could make many.
                    return Candidates::ambiguous();
                }
                let query = Query::new(request);
                self.workloads.visit(evidence.workload, &mut |hosts, only| {
                    hosts.visit(&request.host, &mut |paths, host| {
                        paths.find(&query, host, only, &mut found);
                    });
                });
                self.collect(found, |rule| rule.asks_about(request))
            }
        }
    }

    /// Says whether a policy of this workload and host reads paths of such forms.
    fn reads(&self, request: &HttpRequest<'_>, workload: Option<SpiffeId<'_>>) -> bool {
        let mut reads = false;
        self.workloads.visit(workload, &mut |hosts, _| {
            hosts.visit(&request.host, &mut |paths, _| reads |= paths.reads(request.path.forms));
        });
        reads
    }

    fn collect<'s>(&'s self, mut found: Found<'s>, asks: impl Fn(&Rule) -> bool) -> Candidates<'s> {
        if found.len() > 1 {
            // A rule reached twice is one candidate, at its most specific place.
            found.sort_unstable_by(|a, b| {
                (a.rule.cmp(&b.rule)).then(b.host.cmp(&a.host)).then(b.path.cmp(a.path))
            });
            found.dedup_by_key(|hit| hit.rule);
        }
        Candidates::new(found.iter().filter_map(|hit| {
            let rule = self.rules.get(hit.rule)?;
            asks(rule).then_some(Candidate { rule, host: hit.host, path: hit.path })
        }))
    }
}

impl Rule {
    /// Says whether the rule asks about such a request, host, path and method apart.
    pub(in crate::policy) fn asks_about(&self, request: &HttpRequest<'_>) -> bool {
        let upgrade = match (&self.upgrades, &request.upgrade) {
            (None, None) => true,
            // One check covers all that goes through the tunnel, so that an upgrade must be written out to
            // be allowed; a denial that left it out was not meant to spare it.
            (None, Some(_)) => self.effect == Effect::Deny,
            (Some(named), Some(asked)) => named.iter().any(|named| **named == **asked),
            (Some(_), None) => false,
        };
        upgrade && (!self.preflight || request.preflight)
    }
}

/// Where a rule was found.
#[derive(Clone, Copy, Debug)]
struct Hit<'s> {
    /// The place in [`PolicySet::rules`].
    rule: usize,
    host: HostRank,
    path: &'s [u8],
}

/// More than eight rules for one request are rare; then it spills to the heap.
type Found<'s> = SmallVec<[Hit<'s>; 8]>;

/// How specific the host is by which a rule was found: the length of a wildcard's suffix. Of wildcards
/// that match one host, the longer text has more labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) enum HostRank {
    /// The policy names no host.
    None,
    /// A wildcard.
    Wildcard(usize),
    /// The host itself.
    Exact,
}
