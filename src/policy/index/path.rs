//! From path and method to rules: tries of path templates with the methods at their leaves.

use std::{borrow::Cow, collections::HashMap};

use smallvec::{SmallVec, smallvec};

use crate::{
    evidence::{http::HttpRequest, path::PathForms},
    policy::{
        document::Effect,
        index::{Found, Hit, HostRank, workload::Only},
        pattern::template::{End, NO_PATHS, Segment, Template, normal},
        rule::{Route, Scope},
    },
};

/// The rules of the policies of one host.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The sets of forms that policies with HTTP rules here opt in to, each once.
    forms: Vec<PathForms>,
    allow: Rules,
    deny: Rules,
    /// Every deny rule, for paths that its policy does not read.
    unread: Leaf,
    tcp: HashMap<u16, Vec<(usize, Effect)>>,
}

/// Rules of one effect.
#[derive(Debug, Default)]
struct Rules {
    /// Templates compared as written.
    sensitive: Option<Box<Node>>,
    /// Templates in lower case.
    insensitive: Option<Box<Node>>,
    /// Rules without paths.
    pathless: Leaf,
}

/// A place in a trie of templates.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    one: Option<Box<Node>>,
    /// Templates that end with this segment.
    here: Leaf,
    /// Templates that end with a slash after it.
    slash: Leaf,
    /// Templates that go on with `{**}`.
    rest: Leaf,
}

/// Rules by method.
#[derive(Debug, Default)]
struct Leaf {
    /// Rules without methods.
    any: Vec<Entry>,
    methods: HashMap<Box<str>, Vec<Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    rule: usize,
    rank: Box<[u8]>,
    /// What the rule's policy opts in to.
    forms: PathForms,
}

/// A request, in the readings that rules are compared with.
#[derive(Debug)]
pub(super) struct Query<'q> {
    method: &'q str,
    forms: PathForms,
    canonical: &'q str,
    /// What a deny rule matches any of; without trailing slashes.
    denied: SmallVec<[Cow<'q, str>; 2]>,
}

impl Entry {
    fn hit(&self, host: HostRank) -> Hit<'_> {
        Hit { rule: self.rule, host, path: &self.rank }
    }
}

impl<'q> Query<'q> {
    pub(super) fn new(request: &'q HttpRequest<'_>) -> Self {
        let canonical: &str = &request.path.canonical;
        let mut denied: SmallVec<[Cow<'q, str>; 2]> = smallvec![Cow::Borrowed(canonical)];
        if let Cow::Owned(path) = normal(canonical) {
            denied.push(Cow::Owned(path));
        }
        for reading in request.path.other_readings() {
            if let Cow::Owned(path) = normal(&reading) {
                denied.push(Cow::Owned(path));
            }
            denied.push(Cow::Owned(reading));
        }
        Self { method: request.method, forms: request.path.forms, canonical, denied }
    }
}

impl Paths {
    pub(super) fn insert(&mut self, policy: &Scope, rules: &[(usize, Effect, Route)]) {
        for (rule, effect, route) in rules {
            if let Some(ports) = &route.tcp {
                for port in ports {
                    self.tcp.entry(*port).or_default().push((*rule, *effect));
                }
                continue;
            }
            if !self.forms.contains(&policy.forms) {
                self.forms.push(policy.forms);
            }
            let methods = route.methods.as_deref();
            let entry = |rank: &[u8]| Entry { rule: *rule, rank: rank.into(), forms: policy.forms };
            if *effect == Effect::Deny {
                self.unread.insert(methods, &entry(NO_PATHS));
            }
            let into = match effect {
                Effect::Allow => &mut self.allow,
                Effect::Deny => &mut self.deny,
            };
            let Some(templates) = &route.paths else {
                into.pathless.insert(methods, &entry(NO_PATHS));
                continue;
            };
            for template in templates {
                let entry = entry(&template.rank());
                let leaf = if policy.case_insensitive {
                    into.insensitive
                        .get_or_insert_default()
                        .leaf(&template.to_lower_case(), *effect)
                } else {
                    into.sensitive.get_or_insert_default().leaf(template, *effect)
                };
                leaf.insert(methods, &entry);
            }
        }
    }

    /// Says whether a policy here reads paths of such forms.
    pub(super) fn reads(&self, forms: PathForms) -> bool {
        self.forms.iter().any(|opted| forms.is_within(*opted))
    }

    /// Finds the rules that ask about such a request.
    pub(super) fn find<'s>(
        &'s self,
        query: &Query<'_>,
        host: HostRank,
        only: Only,
        found: &mut Found<'s>,
    ) {
        let mut read = |entry: &'s Entry| {
            if query.forms.is_within(entry.forms) {
                found.push(entry.hit(host));
            }
        };
        let method = query.method;
        if only == Only::All {
            let mut visit = |leaf: &'s Leaf| leaf.visit(method, Effect::Allow, &mut read);
            self.allow.visit(query.canonical, Effect::Allow, &mut visit);
            visit(&self.allow.pathless);
        }
        let mut visit = |leaf: &'s Leaf| leaf.visit(method, Effect::Deny, &mut read);
        for path in &query.denied {
            self.deny.visit(path, Effect::Deny, &mut visit);
        }
        visit(&self.deny.pathless);
        if !query.forms.is_empty() {
            // Such a path matches every deny rule of a policy that does not read it.
            self.unread.visit(method, Effect::Deny, &mut |entry| {
                if !query.forms.is_within(entry.forms) {
                    found.push(entry.hit(host));
                }
            });
        }
    }

    pub(super) fn find_tcp<'s>(&'s self, port: u16, only: Only, found: &mut Found<'s>) {
        for (rule, effect) in self.tcp.get(&port).into_iter().flatten() {
            if only == Only::All || *effect == Effect::Deny {
                found.push(Hit { rule: *rule, host: HostRank::None, path: NO_PATHS });
            }
        }
    }
}

impl Rules {
    /// Visits the leaves of all templates that match `path`.
    fn visit<'s>(&'s self, path: &str, effect: Effect, visit: &mut impl FnMut(&'s Leaf)) {
        if let Some(node) = &self.sensitive {
            node.start(path, effect, visit);
        }
        if let Some(node) = &self.insensitive {
            if path.bytes().any(|b| b.is_ascii_uppercase()) {
                node.start(&path.to_ascii_lowercase(), effect, visit);
            } else {
                node.start(path, effect, visit);
            }
        }
    }
}

impl Node {
    /// Returns the leaf of `template`. Deny rules ignore a trailing slash.
    fn leaf(&mut self, template: &Template, effect: Effect) -> &mut Leaf {
        let mut node = self;
        for segment in &template.segments {
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
            };
        }
        match (template.end, effect) {
            (End::Rest, _) => &mut node.rest,
            (End::Slash, Effect::Allow) => &mut node.slash,
            (End::Slash, Effect::Deny) | (End::Segment, _) => &mut node.here,
        }
    }

    fn start<'s>(&'s self, path: &str, effect: Effect, visit: &mut impl FnMut(&'s Leaf)) {
        match effect {
            // A path without a slash is CONNECT's empty one: no template names that.
            Effect::Allow => {
                if let Some(rest) = path.strip_prefix('/') {
                    self.visit(Some(rest), effect, visit);
                }
            }
            Effect::Deny => {
                self.visit(path.trim_end_matches('/').strip_prefix('/'), effect, visit);
            }
        }
    }

    /// Walks `rest`, what is left after a slash; `None` where the path ended without one. The depth is
    /// bounded by that of the templates.
    fn visit<'s>(&'s self, rest: Option<&str>, effect: Effect, visit: &mut impl FnMut(&'s Leaf)) {
        visit(&self.rest);
        let (segment, rest) = match rest {
            None => return visit(&self.here),
            Some("") => return visit(&self.slash),
            Some(rest) => match rest.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (rest, None),
            },
        };
        if let Some(node) = self.literals.get(segment) {
            node.visit(rest, effect, visit);
        }
        // An empty segment is in readings that deny rules see only; a server may well take it for a name.
        if let Some(node) = &self.one
            && (effect == Effect::Deny || !segment.is_empty())
        {
            node.visit(rest, effect, visit);
        }
    }
}

impl Leaf {
    fn insert(&mut self, methods: Option<&[Box<str>]>, entry: &Entry) {
        let Some(methods) = methods else { return self.any.push(entry.clone()) };
        for method in methods {
            self.methods.entry(method.clone()).or_default().push(entry.clone());
        }
    }

    fn visit<'s>(&'s self, method: &str, effect: Effect, visit: &mut impl FnMut(&'s Entry)) {
        // CONNECT opens a tunnel that no later check sees into, so that an allow rule must name it.
        if effect == Effect::Deny || method != "CONNECT" {
            self.any.iter().for_each(&mut *visit);
        }
        if let Some(entries) = self.methods.get(method) {
            entries.iter().for_each(visit);
        }
    }
}
