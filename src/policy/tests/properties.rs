//! What holds of all policies and requests.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*, sample::select, sample::subsequence};

use crate::{
    credential::{Principal, Proof, actor::Actor},
    diagnostic::Spanned,
    evidence::{Attempt, Evidence, path::PathForms},
    policy::{
        PolicySet,
        document::{ActorDocument, BindingName, Effect, PolicyDocument, RuleDocument, Text},
        tests::{
            BY_CERTIFICATE, UNBOUND, at, compiled, decide, deny, http, naive, open, peer, policy,
            text, texts, token,
        },
    },
    reason::Reason,
};

const TEMPLATES: &[&str] = &[
    "/",
    "/{**}",
    "/a",
    "/a/",
    "/a/b",
    "/a/{x}",
    "/a/{x}/b",
    "/{x}",
    "/{x}/b",
    "/{x}/{y}",
    "/a/{**}",
    "/a/b/{**}",
    "/A",
    "/ab",
    "/a:b",
    "/{x}/{**}",
    "/{x}/",
];
const PATHS: &[&str] = &[
    "", "/", "/a", "/a/", "/a/b", "/a/b/", "/b", "/b/b", "/A/B", "/ab", "/a/b/c/d", "/a%3Ab",
    "/a//b",
];
const HOSTS: &[&str] =
    &["pay.example", "*.example", "*.pay.example", "x.pay.example", "*.b.example"];
const HOST_NAMES: &[&str] =
    &["pay.example", "x.pay.example", "y.x.pay.example", "example", "b.example", "spay.example"];
const WORKLOADS: &[&str] = &[
    "spiffe://td/ns/a/sa/b",
    "spiffe://td/ns/*/sa/b",
    "spiffe://td/ns/a/**",
    "spiffe://td/**",
    "spiffe://e/*",
];
const IDS: &[&str] = &[
    "spiffe://td/ns/a/sa/b",
    "spiffe://td/ns/a/sa/c",
    "spiffe://td/ns/ab/sa/b",
    "spiffe://td/ns",
    "spiffe://e/x",
];
const METHODS: &[&str] = &["GET", "HEAD", "POST", "CONNECT", "OPTIONS"];
const FORMS: &[&str] = &["parameters", "backslash"];

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<Text>>> {
    option::of(subsequence(all, 1..=2).prop_map(|values| texts(&values).unwrap()))
}

fn rules() -> impl Strategy<Value = RuleDocument> {
    let to = (
        some_of(METHODS),
        some_of(TEMPLATES),
        option::weighted(0.2, Just(texts(&["websocket"]).unwrap())),
        prop::bool::weighted(0.1),
    );
    let from = option::weighted(0.3, select(WORKLOADS));
    let token = option::weighted(
        0.3,
        (select(vec!["corp", "ext"]), any::<bool>(), select(vec![0_u8, 1, 2]), 0_u8..4),
    );
    (prop::bool::weighted(0.3), to, from, token).prop_map(
        |(is_deny, (methods, paths, upgrades, preflight), from, token)| {
            let rule = if is_deny { deny("r") } else { open("r") };
            let mut rule = rule.to(|to| {
                to.methods = if preflight { None } else { methods };
                to.paths = paths;
                to.upgrades = upgrades;
                to.preflight = preflight;
            });
            if let Some(pattern) = from {
                rule = rule.spiffe(&[pattern]);
            }
            if let Some((issuer, scoped, binding, actor)) = token {
                rule = rule.token(&[issuer], if scoped { &["s"] } else { &[] }).binding(
                    match binding {
                        0 => &[],
                        1 => &[BindingName::Certificate],
                        _ => &[BindingName::None],
                    },
                );
                let value = match actor {
                    0 => Some(ActorDocument::Any),
                    1 => Some(ActorDocument::None),
                    _ => None,
                };
                let part = rule.token.as_mut().unwrap();
                part.actor = value.map(|value| Spanned { value, at: at("actor") });
            }
            rule
        },
    )
}

fn policies() -> impl Strategy<Value = Vec<PolicyDocument>> {
    let one = (
        some_of(WORKLOADS),
        some_of(HOSTS),
        vec(rules(), 1..4),
        subsequence(FORMS, 0..=2),
        any::<bool>(),
        option::weighted(0.3, (select(vec![1_u16, 2]), any::<bool>())),
    );
    vec(one, 0..5).prop_map(|policies| {
        let mut all = Vec::new();
        for (place, (workloads, hosts, mut rules, forms, case_insensitive, tcp)) in
            policies.into_iter().enumerate()
        {
            let hosts =
                hosts.or_else(|| workloads.is_none().then(|| texts(&["pay.example"]).unwrap()));
            if let (Some((port, is_deny)), None) = (tcp, &hosts) {
                let rule = if is_deny { deny("t") } else { open("t") };
                rules.push(rule.to(|to| to.tcp = Some(vec![Spanned { value: port, at: at("") }])));
            }
            for (place, rule) in rules.iter_mut().enumerate() {
                rule.name = text(&format!("r{place}"));
            }
            // Each issuer listed here has the one audience, so that the policy's is always listed.
            let mut document = policy(&format!("p{place}"), rules);
            document.workloads = workloads;
            document.hosts = hosts;
            document.path_forms = forms.iter().map(|form| text(form)).collect();
            document.case_insensitive = case_insensitive;
            all.push(document);
        }
        all
    })
}

fn requests() -> impl Strategy<Value = Evidence<'static>> {
    let forms = select(vec![
        PathForms::default(),
        PathForms::default(),
        PathForms::PARAMETERS,
        PathForms::BACKSLASH,
        PathForms::PARAMETERS.union(PathForms::BACKSLASH),
        PathForms::NEVER,
    ]);
    let shape = (select(METHODS), select(HOST_NAMES), select(PATHS), forms, select(PATHS));
    (
        shape,
        any::<bool>(),
        prop::bool::weighted(0.2),
        option::of(select(IDS)),
        option::weighted(0.1, 1_u32..3),
    )
        .prop_map(
            |((method, host, path, forms, reading), upgrade, preflight, workload, port)| {
                let mut evidence = http(method, host, path).with(|request| {
                    request.upgrade = (upgrade && preflight).then(|| "websocket".into());
                    request.preflight = preflight && !upgrade;
                });
                if !forms.is_empty() {
                    evidence = evidence.ambiguous(forms, Some(reading));
                }
                if let Some(workload) = workload {
                    evidence = evidence.of(workload);
                }
                if let Some(port) = port {
                    evidence.attempt = Attempt::Tcp { port };
                }
                evidence
            },
        )
}

fn principals() -> impl Strategy<Value = Principal<'static>> {
    let peers = (0_u8..3, select(IDS)).prop_map(|(kind, id)| match kind {
        0 => Proof::Absent,
        1 => Proof::Unproven(Reason::PeerCertificateExpired),
        _ => peer(id),
    });
    let tokens =
        (0_u8..4, select(vec!["corp", "ext"]), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(kind, issuer, scoped, bound, delegated)| match kind {
                0 => Proof::Absent,
                1 => Proof::Unproven(Reason::TokenExpired),
                _ => {
                    let binding = if bound { BY_CERTIFICATE } else { UNBOUND };
                    let mut token = token(issuer, if scoped { &["s"] } else { &[] }, binding);
                    if let (Proof::Proven(bound), true) = (&mut token, delegated) {
                        let actor = Actor { issuer: String::new(), subject: "web".to_owned() };
                        Arc::get_mut(&mut bound.token).unwrap().actors.push(actor);
                    }
                    token
                }
            });
    (peers, tokens).prop_map(|(peer, token)| Principal {
        peer,
        workload: Proof::Absent,
        token,
        refused_token: None,
    })
}

fn found(set: &PolicySet, evidence: &Evidence<'_>) -> Option<Vec<String>> {
    let candidates = set.candidates(evidence);
    let mut names: Vec<String> = candidates.iter().map(|c| c.rule.id.to_string()).collect();
    names.sort();
    (!candidates.is_ambiguous()).then_some(names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_index_finds_what_looking_at_every_rule_finds(
        policies in policies(),
        requests in vec(requests(), 8),
    ) {
        let set = compiled(policies.clone());
        for evidence in requests {
            prop_assert_eq!(
                found(&set, &evidence), naive::candidates(&policies, &evidence), "{:?}", evidence
            );
        }
    }

    #[test]
    fn the_order_of_policies_and_rules_never_matters(
        policies in policies(),
        requests in vec(requests(), 8),
        principal in principals(),
    ) {
        let mut turned = policies.clone();
        turned.reverse();
        for policy in &mut turned {
            policy.rules.reverse();
        }
        let (one, other) = (compiled(policies), compiled(turned));
        for evidence in requests {
            prop_assert_eq!(
                decide(&one, &evidence, &principal), decide(&other, &evidence, &principal)
            );
        }
    }

    #[test]
    fn adding_a_deny_rule_never_opens_anything(
        policies in policies(),
        mut added in rules(),
        place in any::<prop::sample::Index>(),
        requests in vec(requests(), 8),
        principal in principals(),
    ) {
        prop_assume!(!policies.is_empty());
        let before = compiled(policies.clone());
        added.effect = Effect::Deny;
        added.public = false;
        added.name = text("added");
        let mut more = policies;
        let into = place.index(more.len());
        if added.token.is_some() {
            more[into].audiences = texts(&[super::SELF]);
        }
        more[into].rules.push(added);
        let after = compiled(more);
        for evidence in requests {
            if decide(&before, &evidence, &principal).0 != Reason::Allowed {
                prop_assert_ne!(decide(&after, &evidence, &principal).0, Reason::Allowed);
            }
        }
    }
}
