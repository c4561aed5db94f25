//! Which rules ask about a request.

use crate::{
    diagnostic::Spanned,
    evidence::{Attempt, path::PathForms},
    policy::{
        Needs,
        document::PolicyDocument,
        tests::{asked, compiled, decide, deny, get, http, nobody, open, policy, text, texts},
    },
    reason::Reason::{self, Allowed, AmbiguousPath, ExplicitDeny, NoMatchingRule},
};

const WEB: &str = "spiffe://td/ns/shop/sa/web";

fn one(rule: crate::policy::document::RuleDocument) -> crate::policy::PolicySet {
    compiled(vec![policy("p", vec![rule])])
}

#[test]
fn a_check_that_nothing_matches_is_denied() {
    let set = one(open("r").paths(&["/a"]));
    assert_eq!(decide(&set, &get("/b"), &nobody()), (NoMatchingRule, String::new()));
    assert_eq!(asked(&set, &http("GET", "other.example", "/a")), NoMatchingRule);
    assert_eq!(asked(&crate::policy::PolicySet::default(), &get("/a")), NoMatchingRule);
}

#[test]
fn a_part_left_out_asks_nothing() {
    assert_eq!(asked(&one(open("r")), &http("BREW", "pay.example", "/any/where/")), Allowed);
}

#[test]
fn get_does_not_stand_for_head() {
    let set = one(open("r").methods(&["GET"]));
    assert_eq!(asked(&set, &http("GET", "pay.example", "/")), Allowed);
    assert_eq!(asked(&set, &http("HEAD", "pay.example", "/")), NoMatchingRule);
    assert_eq!(asked(&set, &http("get", "pay.example", "/")), NoMatchingRule);
}

#[test]
fn a_trailing_slash_counts_in_allow_rules() {
    let set = one(open("r").paths(&["/a", "/b/", "/c/{**}", "/d/{x}"]));
    for (path, reason) in [
        ("/a", Allowed),
        ("/a/", NoMatchingRule),
        ("/b", NoMatchingRule),
        ("/b/", Allowed),
        ("/c", Allowed),
        ("/c/", Allowed),
        ("/c/x", Allowed),
        ("/c/x/", Allowed),
        ("/cx", NoMatchingRule),
        ("/d/", NoMatchingRule),
        ("/d/1", Allowed),
        ("/d/1/", NoMatchingRule),
        ("/", NoMatchingRule),
        ("", NoMatchingRule),
    ] {
        assert_eq!(asked(&set, &get(path)), reason, "{path}");
    }
}

#[test]
fn a_trailing_slash_is_ignored_in_deny_rules() {
    let set = compiled(vec![policy(
        "p",
        vec![open("all"), deny("r").paths(&["/a", "/b/", "/c/{**}", "/d/{x}"])],
    )]);
    for (path, reason) in [
        ("/a", ExplicitDeny),
        ("/a/", ExplicitDeny),
        ("/b", ExplicitDeny),
        ("/b/", ExplicitDeny),
        ("/c", ExplicitDeny),
        ("/c/x/", ExplicitDeny),
        ("/d/1/", ExplicitDeny),
        ("/d/", Allowed),
        ("/ab", Allowed),
    ] {
        assert_eq!(asked(&set, &get(path)), reason, "{path}");
    }
}

#[test]
fn a_deny_rule_sees_through_escapes_that_servers_decode() {
    let set = compiled(vec![policy("p", vec![open("all"), deny("r").paths(&["/a:export"])])]);
    assert_eq!(asked(&set, &get("/a:export")), ExplicitDeny);
    assert_eq!(asked(&set, &get("/a%3Aexport")), ExplicitDeny);
    assert_eq!(asked(&one(open("r").paths(&["/a:b"])), &get("/a%3Ab")), NoMatchingRule);
}

#[test]
fn upgrades_must_be_written_out_but_in_deny_rules() {
    let websocket = || get("/a").with(|request| request.upgrade = Some("websocket".into()));
    assert_eq!(asked(&one(open("r")), &websocket()), NoMatchingRule);
    let named = one(open("r").to(|to| to.upgrades = texts(&["websocket"])));
    assert_eq!(asked(&named, &websocket()), Allowed);
    assert_eq!(asked(&named, &get("/a")), NoMatchingRule);
    let other = get("/a").with(|request| request.upgrade = Some("h2c".into()));
    assert_eq!(asked(&named, &other), NoMatchingRule);
    assert_eq!(asked(&one(deny("r")), &websocket()), ExplicitDeny);
    let named = one(deny("r").to(|to| to.upgrades = texts(&["websocket"])));
    assert_eq!(asked(&named, &websocket()), ExplicitDeny);
    assert_eq!(asked(&named, &get("/a")), NoMatchingRule);
}

#[test]
fn connect_must_be_named() {
    let connect = http("CONNECT", "pay.example", "");
    assert_eq!(asked(&one(open("r")), &connect), NoMatchingRule);
    assert_eq!(asked(&one(open("r").methods(&["CONNECT"])), &connect), Allowed);
    assert_eq!(asked(&one(deny("r")), &connect), ExplicitDeny);
    assert_eq!(asked(&one(deny("r").paths(&["/{**}"])), &connect), ExplicitDeny);
}

#[test]
fn preflight_matches_exactly_a_cors_preflight() {
    let set = one(open("r").to(|to| to.preflight = true));
    let preflight = http("OPTIONS", "pay.example", "/a").with(|request| request.preflight = true);
    assert_eq!(asked(&set, &preflight), Allowed);
    assert_eq!(asked(&set, &http("OPTIONS", "pay.example", "/a")), NoMatchingRule);
}

#[test]
fn http_rules_never_answer_a_tcp_check() {
    let tcp =
        |port| crate::evidence::Evidence { attempt: Attempt::Tcp { port }, ..get("/").of(WEB) };
    let set = compiled(vec![
        policy("http", vec![open("r")]),
        PolicyDocument {
            workloads: texts(&[WEB]),
            hosts: None,
            ..policy(
                "tcp",
                vec![
                    open("r")
                        .to(|to| to.tcp = Some(vec![Spanned { value: 5432, at: text("").at }])),
                ],
            )
        },
    ]);
    assert_eq!(decide(&set, &tcp(5432), &nobody()), (Allowed, "tcp/r".to_owned()));
    assert_eq!(asked(&set, &tcp(5433)), NoMatchingRule);
    assert_eq!(asked(&set, &tcp(70_968)), NoMatchingRule);
    assert_eq!(decide(&set, &get("/").of(WEB), &nobody()).1, "http/r");
}

#[test]
fn workloads_hold_besides_hosts() {
    let set = compiled(vec![PolicyDocument {
        workloads: texts(&["spiffe://td/ns/shop/sa/*"]),
        ..policy("p", vec![open("r")])
    }]);
    assert_eq!(asked(&set, &get("/").of(WEB)), Allowed);
    assert_eq!(asked(&set, &http("GET", "x.example", "/").of(WEB)), NoMatchingRule);
    assert_eq!(asked(&set, &get("/").of("spiffe://td/ns/bank/sa/web")), NoMatchingRule);
    assert_eq!(asked(&set, &get("/").of("spiffe://other/ns/shop/sa/web")), NoMatchingRule);
}

#[test]
fn a_workload_that_nothing_names_fails_allow_rules_and_matches_deny_rules() {
    let named =
        |rules| PolicyDocument { workloads: texts(&["spiffe://td/**"]), ..policy("named", rules) };
    let set = compiled(vec![named(vec![open("r")])]);
    assert_eq!(asked(&set, &get("/")), NoMatchingRule);
    let set =
        compiled(vec![policy("open", vec![open("r")]), named(vec![deny("no").paths(&["/a"])])]);
    assert_eq!(decide(&set, &get("/a"), &nobody()), (ExplicitDeny, "named/no".to_owned()));
    assert_eq!(asked(&set, &get("/b")), Allowed);
    assert_eq!(asked(&set, &http("GET", "x.example", "/a")), NoMatchingRule);
    assert_eq!(asked(&set, &get("/a").of("spiffe://other/a")), Allowed);
}

#[test]
fn an_ambiguous_path_is_denied_before_anything_is_verified() {
    let set = one(open("r"));
    let evidence = get("/a").ambiguous(PathForms::EMPTY_SEGMENTS, None);
    assert_eq!(set.candidates(&evidence).needs(&super::nobody()), Needs::default());
    assert_eq!(decide(&set, &evidence, &nobody()), (AmbiguousPath, String::new()));
    assert_eq!(asked(&one(deny("r")), &evidence), AmbiguousPath);
}

fn with_form(
    name: &str,
    form: &str,
    rules: Vec<crate::policy::document::RuleDocument>,
) -> PolicyDocument {
    PolicyDocument { path_forms: vec![text(form)], ..policy(name, rules) }
}

#[test]
fn a_policy_reads_the_forms_it_names_and_no_others() {
    let set = compiled(vec![with_form("p", "parameters", vec![open("r").paths(&["/a"])])]);
    let path = |forms| get("/a").ambiguous(forms, None);
    assert_eq!(asked(&set, &path(PathForms::PARAMETERS)), Allowed);
    assert_eq!(asked(&set, &path(PathForms::BACKSLASH)), AmbiguousPath);
    assert_eq!(
        asked(&set, &path(PathForms::PARAMETERS.union(PathForms::BACKSLASH))),
        AmbiguousPath
    );
    assert_eq!(asked(&set, &path(PathForms::NEVER)), AmbiguousPath);
}

#[test]
fn opting_in_holds_for_that_policy_alone() {
    let path = || get("/a").ambiguous(PathForms::PARAMETERS, None);
    let reads = |rule| with_form("reads", "parameters", vec![rule]);
    let set = compiled(vec![reads(open("r").paths(&["/b"])), policy("not", vec![open("r")])]);
    assert_eq!(asked(&set, &path()), NoMatchingRule);
    let not = policy("not", vec![deny("r").paths(&["/x"]).methods(&["GET"])]);
    let set = compiled(vec![reads(open("r")), not.clone()]);
    assert_eq!(decide(&set, &path(), &nobody()), (ExplicitDeny, "not/r".to_owned()));
    assert_eq!(asked(&set, &get("/a")), Allowed);
    let post = http("POST", "pay.example", "/a").ambiguous(PathForms::PARAMETERS, None);
    assert_eq!(asked(&set, &post), Allowed);
    // Another host's policies have no part in it.
    let elsewhere = PolicyDocument { hosts: texts(&["x.example"]), ..not };
    assert_eq!(asked(&compiled(vec![reads(open("r")), elsewhere]), &path()), Allowed);
}

#[test]
fn a_deny_rule_matches_any_reading_and_an_allow_rule_the_canonical_one() {
    let path = || get("/a/b").ambiguous(PathForms::ENCODED_DELIMITERS, Some("/x/b"));
    let set = |rule| compiled(vec![with_form("p", "encoded-delimiters", vec![rule, open("z")])]);
    assert_eq!(asked(&set(deny("r").paths(&["/x/{y}"])), &path()), ExplicitDeny);
    assert_eq!(asked(&set(deny("r").paths(&["/a/b"])), &path()), ExplicitDeny);
    assert_eq!(asked(&set(deny("r").paths(&["/q"])), &path()), Allowed);
    let only = |template: &str| {
        compiled(vec![with_form("p", "encoded-delimiters", vec![open("r").paths(&[template])])])
    };
    assert_eq!(asked(&only("/a/b"), &path()), Allowed);
    assert_eq!(asked(&only("/x/b"), &path()), NoMatchingRule);
}

#[test]
fn case_is_ignored_in_policies_that_say_so_only() {
    let rules = || vec![open("r").paths(&["/Admin/{x}"])];
    let set = compiled(vec![PolicyDocument { case_insensitive: true, ..policy("p", rules()) }]);
    assert_eq!(asked(&set, &get("/aDMIN/X")), Allowed);
    assert_eq!(asked(&compiled(vec![policy("p", rules())]), &get("/admin/x")), NoMatchingRule);
}

#[test]
fn a_rule_reached_twice_is_one_candidate_at_its_best_place() {
    let set = compiled(vec![PolicyDocument {
        workloads: texts(&[WEB, "spiffe://td/**", "spiffe://td/ns/*/sa/*"]),
        hosts: texts(&["pay.example", "*.example"]),
        ..policy("p", vec![open("r").paths(&["/a", "/{x}", "/{**}"])])
    }]);
    let evidence = get("/a").of(WEB);
    assert_eq!(set.candidates(&evidence).count(), 1);
    assert_eq!(asked(&set, &evidence), Allowed);
}

#[test]
fn the_most_specific_host_then_path_then_token_then_name_decides() {
    let hosts = |name: &str, hosts: &[&str], rules| PolicyDocument {
        hosts: texts(hosts),
        ..policy(name, rules)
    };
    let any = PolicyDocument {
        workloads: texts(&["spiffe://td/**"]),
        hosts: None,
        ..policy("any", vec![open("r").paths(&["/v/a"])])
    };
    let policies = vec![
        any,
        hosts("short", &["*.example"], vec![open("r").paths(&["/v/a"])]),
        hosts("long", &["*.pay.example"], vec![open("r").paths(&["/v/a"])]),
        hosts(
            "exact",
            &["a.pay.example"],
            vec![
                open("z-rest").paths(&["/{**}"]),
                open("y-name").paths(&["/{x}/a"]),
                open("x-left").paths(&["/v/{y}"]),
                open("a-none"),
            ],
        ),
    ];
    let mut left = policies;
    for expected in [
        "exact/x-left",
        "exact/y-name",
        "exact/z-rest",
        "exact/a-none",
        "long/r",
        "short/r",
        "any/r",
    ] {
        let set = compiled(left.clone());
        let evidence = http("GET", "a.pay.example", "/v/a").of(WEB);
        let (reason, rule) = decide(&set, &evidence, &nobody());
        assert_eq!((reason, &*rule), (Reason::Allowed, expected));
        for policy in &mut left {
            let name = policy.name.value.clone();
            policy.rules.retain(|rule| format!("{name}/{}", rule.name.value) != expected);
        }
    }
}

#[test]
fn one_of_ten_thousand_rules_is_found_alone() {
    let policies = (0..100).map(|service| PolicyDocument {
        workloads: texts(&[&format!("spiffe://td/ns/shop/sa/s{service}")]),
        hosts: texts(&[&format!("s{service}.example")]),
        ..policy(
            &format!("s{service}"),
            (0..100)
                .map(|rule| open(&format!("r{rule}")).paths(&[&format!("/v1/r{rule}/{{id}}")]))
                .collect(),
        )
    });
    let set = compiled(policies.collect());
    assert_eq!(set.rule_count(), 10_000);
    let evidence = http("GET", "s42.example", "/v1/r7/x").of("spiffe://td/ns/shop/sa/s42");
    assert_eq!(set.candidates(&evidence).count(), 1);
    assert_eq!(decide(&set, &evidence, &nobody()), (Allowed, "s42/r7".to_owned()));
}
