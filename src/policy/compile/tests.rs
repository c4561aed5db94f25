//! Every mistake is reported, where it is.

use std::time::Duration;

use super::suggest;
use crate::{
    diagnostic::Spanned,
    evidence::PeerSources,
    policy::{
        document::{
            ActorDocument, ActorNameDocument, BindingName, Documents, NonceMode, OriginDocument,
            PolicyDocument, ReplayDocument, RuleDocument, TokenDocument,
        },
        scope::ScopeGrammar,
        tests::{
            at, compiled, deny, documents, issuer, mistakes, open, policy, text, texts,
            trust_domain,
        },
    },
};

const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// The fields and messages of what is wrong with one policy.
fn wrong_policy(policy: PolicyDocument) -> Vec<(String, String)> {
    wrong(&documents(vec![policy]))
}

fn wrong_rule(rule: RuleDocument) -> Vec<(String, String)> {
    wrong_policy(policy("p", vec![rule]))
}

fn wrong(documents: &Documents) -> Vec<(String, String)> {
    mistakes(documents).into_iter().map(|d| (d.at.field.to_string(), d.message)).collect()
}

fn is(found: &[(String, String)], expected: &[(&str, &str)]) {
    let found: Vec<(&str, &str)> = found.iter().map(|(at, message)| (&**at, &**message)).collect();
    assert_eq!(found, expected);
}

fn help(documents: &Documents) -> String {
    mistakes(documents).remove(0).help.unwrap_or_default()
}

#[test]
fn a_sound_policy_compiles() {
    let rule = open("r").spiffe(&[WEB]).token(&["corp"], &["a"]).upstream(&[
        ("x-caller", "{peer.spiffe}"),
        ("x-sub", "{token.sub}"),
        ("x-id", "{decision.id}"),
    ]);
    assert_eq!(compiled(vec![policy("p", vec![rule, deny("no")])]).rule_count(), 2);
}

#[test]
fn all_mistakes_come_out_of_one_run() {
    let mut one = policy("p", vec![open("a").paths(&["x", "/y?z"]), open("b").methods(&["get"])]);
    one.hosts = texts(&["Pay.example"]);
    let two = policy("q", vec![open("r").token(&["crop"], &[])]);
    is(
        &wrong(&documents(vec![one, two])),
        &[
            ("Pay.example", "a host is written in lower case"),
            ("x", "a path starts with `/`"),
            ("/y?z", "paths are matched without query and fragment"),
            ("get", "a method is written in upper case"),
            ("crop", "no Issuer `crop` is declared"),
        ],
    );
}

#[test]
fn a_dangling_issuer_gets_a_suggestion_and_a_broken_one_none() {
    let mut documents = documents(vec![policy("p", vec![open("r").token(&["crop"], &[])])]);
    assert_eq!(help(&documents), "did you mean `corp`?");
    documents.broken_issuers = vec!["crop".to_owned()];
    is(&wrong(&documents), &[]);
}

#[test]
fn a_policy_names_workloads_or_hosts() {
    let policy = PolicyDocument { hosts: None, ..policy("p", vec![open("r")]) };
    is(&wrong_policy(policy), &[("p", "a policy names `workloads`, `hosts` or both")]);
}

#[test]
fn an_open_rule_must_say_so() {
    let shut = RuleDocument { public: false, ..open("r") };
    is(&wrong_rule(shut), &[("r", "a rule with neither `from` nor `token` allows everyone")]);
    let both = RuleDocument { public: true, ..open("r").spiffe(&[WEB]) };
    is(&wrong_rule(both), &[("r", "`public: true` contradicts the rule's `from` or `token`")]);
    let deny = RuleDocument { public: true, ..deny("r") };
    is(&wrong_rule(deny), &[("r", "`public: true` has no meaning in a deny rule")]);
}

#[test]
fn names_are_unique_and_plain() {
    is(
        &wrong(&documents(vec![policy("p", vec![open("r"), open("r")]), policy("p", vec![])])),
        &[("p", "there is already a policy `p`"), ("r", "this policy has already a rule `r`")],
    );
    is(
        &wrong_rule(open("a/b")),
        &[("a/b", "the name of a rule is 1 to 253 letters, digits, `-`, `_` and `.`")],
    );
}

#[test]
fn audiences_are_required_with_a_token_and_have_no_meaning_without() {
    let mut none = policy("p", vec![open("r").token(&["corp"], &[])]);
    none.audiences = None;
    is(&wrong_policy(none), &[("token", "a policy with a `token` part needs `audiences`")]);
    let mut idle = policy("p", vec![open("r")]);
    idle.audiences = texts(&["https://pay.example"]);
    is(
        &wrong_policy(idle),
        &[("https://pay.example", "`audiences` has no meaning where no rule has a `token` part")],
    );
}

#[test]
fn each_audience_is_listed_by_a_named_issuer() {
    let mut typo = policy("p", vec![open("r").token(&["corp"], &[])]);
    typo.audiences = texts(&["https://pay.example", "https://pay.exampel"]);
    let documents = documents(vec![typo]);
    is(
        &wrong(&documents),
        &[(
            "https://pay.exampel",
            "no issuer that this policy names lists the audience `https://pay.exampel`",
        )],
    );
    assert_eq!(help(&documents), "did you mean `https://pay.example`?");
}

#[test]
fn each_named_issuer_shares_an_audience() {
    let mut documents = documents(vec![policy("p", vec![open("r").token(&["corp", "far"], &[])])]);
    documents.issuers.push(issuer("far", &["https://far.example"]));
    is(
        &wrong(&documents),
        &[(
            "far",
            "the issuer `far` lists none of this policy's audiences, so that no token of its fits",
        )],
    );
}

#[test]
fn rules_that_ask_for_a_peer_or_a_certificate_need_peer_trust() {
    let needs = |rule: RuleDocument| {
        let mut documents = documents(vec![policy("p", vec![rule])]);
        documents.peer_trust = None;
        documents
    };
    let from = needs(open("r").spiffe(&[WEB]));
    is(&wrong(&from), &[("from", "`from` needs a PeerTrust document, and there is none")]);
    assert!(help(&from).contains("{evidence: [principal, xfcc]}"));
    assert!(help(&from).contains("{evidence: [principal, certificate]}"));
    let token = || open("r").token(&["corp"], &[]);
    is(
        &wrong(&needs(token().binding(&[BindingName::Certificate]))),
        &[("binding", "`certificate` needs a PeerTrust document, and there is none")],
    );
    is(
        &wrong(&needs(token().binding(&[]))),
        &[(
            "token",
            "a bound token, which `token` asks for, needs a PeerTrust document, and there is none",
        )],
    );
    is(&wrong(&needs(token())), &[]);
    is(&wrong(&needs(deny("r").token(&["corp"], &[]).binding(&[]))), &[]);
}

#[test]
fn a_principal_alone_has_no_certificate() {
    let rule = open("r").token(&["corp"], &[]).binding(&[BindingName::Certificate]);
    let mut documents = documents(vec![policy("p", vec![rule])]);
    documents.peer_trust.as_mut().unwrap().evidence.value.certificate = false;
    is(
        &wrong(&documents),
        &[(
            "binding",
            "`certificate` needs the peer's certificate, and PeerTrust lists `principal` alone",
        )],
    );
}

#[test]
fn patterns_of_undeclared_trust_domains_dangle() {
    let mut policy = policy("p", vec![open("r").spiffe(&["spiffe://tb/a", "spiffe://td/b"])]);
    policy.workloads = texts(&["spiffe://far.example/**"]);
    let mut documents = documents(vec![policy]);
    is(&wrong(&documents), &[]);
    documents.trust_domains = vec![trust_domain("td")];
    is(
        &wrong(&documents),
        &[
            ("spiffe://far.example/**", "no TrustDomain `far.example` is declared"),
            ("spiffe://tb/a", "no TrustDomain `tb` is declared"),
        ],
    );
}

#[test]
fn dpop_written_out_needs_an_origin() {
    let rule =
        || open("r").token(&["corp"], &[]).binding(&[BindingName::Certificate, BindingName::Dpop]);
    let needs = "`dpop` needs an `origin`: proofs name the URI that the client calls";
    is(&wrong_rule(rule()), &[("binding", needs)]);
    let with = |origin| PolicyDocument { origin: Some(origin), ..policy("p", vec![rule()]) };
    let by_host =
        |host: &str, origin: &str| with(OriginDocument::ByHost(vec![(text(host), text(origin))]));
    is(&wrong_policy(with(OriginDocument::One(text("https://pay.example")))), &[]);
    is(&wrong_policy(by_host("pay.example", "https://public.example")), &[]);
    is(
        &wrong_policy(by_host("x.example", "https://x.example")),
        &[
            ("x.example", "`x.example` is no host of this policy"),
            ("binding", "`dpop` needs an `origin` for `pay.example`"),
        ],
    );
    is(
        &wrong_policy(by_host("*.example", "https://x.example/")),
        &[
            ("*.example", "an origin is for one host, written out"),
            (
                "https://x.example/",
                "`https://x.example/` is no origin: an origin has no path, query or fragment: \
                 the path is that of the request",
            ),
            ("binding", "`dpop` needs an `origin` for `pay.example`"),
        ],
    );
}

#[test]
fn replay_and_nonce_are_terms_of_allow_rules_with_an_origin() {
    let with = |rule: RuleDocument| {
        let mut rule = rule.token(&["corp"], &[]);
        let token = rule.token.as_mut().unwrap();
        token.replay = Some(Spanned { value: ReplayDocument::Observe, at: at("replay") });
        token.nonce = Some(Spanned { value: NonceMode::Required, at: at("nonce") });
        rule
    };
    let origin = || Some(OriginDocument::One(text("https://pay.example")));
    let scoped = |rule| PolicyDocument { origin: origin(), ..policy("p", vec![rule]) };
    is(&wrong_policy(scoped(with(open("r")))), &[]);
    is(
        &wrong_policy(scoped(with(deny("r")))),
        &[
            ("replay", "`replay` has no meaning in a deny rule"),
            ("nonce", "`nonce` has no meaning in a deny rule"),
        ],
    );
    is(
        &wrong_rule(with(open("r"))),
        &[
            ("replay", "`replay` needs an `origin`: proofs name the URI that the client calls"),
            ("nonce", "`nonce` needs an `origin`: proofs name the URI that the client calls"),
        ],
    );
}

#[test]
fn entries_stand_once_in_a_list() {
    let rule = open("r")
        .methods(&["GET", "GET"])
        .token(&["corp", "corp"], &["a", "a"])
        .binding(&[BindingName::None, BindingName::None]);
    is(
        &wrong_rule(rule),
        &[
            ("GET", "`GET` stands twice in this list"),
            ("corp", "`corp` stands twice in this list"),
            ("a", "`a` stands twice in this list"),
            ("binding", "this entry stands twice in this list"),
        ],
    );
}

#[test]
fn tcp_rules_ask_for_workload_and_peer_only() {
    let tcp = |rule: RuleDocument| {
        rule.to(|to| to.tcp = Some(vec![Spanned { value: 443, at: at("port") }]))
    };
    let scoped =
        |rule| PolicyDocument { workloads: texts(&[WEB]), hosts: None, ..policy("p", vec![rule]) };
    is(&wrong_policy(scoped(tcp(open("r").spiffe(&[WEB])))), &[]);
    is(
        &wrong_rule(tcp(open("r"))),
        &[("to", "a TCP check carries no host, so that this rule never answers one")],
    );
    let rule = open("r").token(&["corp"], &[]).upstream(&[("x-a", "a")]).to(|to| {
        to.methods = texts(&["GET"]);
        to.paths = texts(&["/"]);
        to.upgrades = texts(&["websocket"]);
        to.preflight = true;
    });
    is(
        &wrong_policy(scoped(tcp(rule))),
        &[
            ("to", "`methods` beside `tcp`: a TCP check carries no HTTP"),
            ("to", "`paths` beside `tcp`: a TCP check carries no HTTP"),
            ("to", "`upgrades` beside `tcp`: a TCP check carries no HTTP"),
            ("to", "`preflight` beside `tcp`: a TCP check carries no HTTP"),
            ("token", "`token` in a rule with `tcp`: a TCP check carries no token"),
            ("r", "`upstream` in a rule with `tcp`: a TCP check carries no headers"),
            ("to", "a preflight is an `OPTIONS` request, which `methods` does not list"),
        ],
    );
}

#[test]
fn tcp_rules_name_the_peer_by_what_a_tcp_check_carries() {
    let listed = |principal, certificate, xfcc| PeerSources { principal, certificate, xfcc };
    let wrong_for = |rule: RuleDocument, sources| {
        let rule = rule.to(|to| to.tcp = Some(vec![Spanned { value: 443, at: at("port") }]));
        let scoped =
            PolicyDocument { workloads: texts(&[WEB]), hosts: None, ..policy("p", vec![rule]) };
        let mut documents = documents(vec![scoped]);
        documents.peer_trust.as_mut().unwrap().evidence.value = sources;
        wrong(&documents)
    };
    let by_spiffe = |rule: RuleDocument| rule.spiffe(&[WEB]);
    let by_dns = |rule: RuleDocument| {
        let mut rule = rule.spiffe(&[WEB]);
        rule.from.as_mut().unwrap().dns = texts(&["web.example"]);
        rule
    };
    for rule in [open("r"), deny("r")] {
        is(
            &wrong_for(by_spiffe(rule.clone()), listed(false, false, true)),
            &[(
                "from",
                "`from` in a rule with `tcp`: a TCP check carries no XFCC, and PeerTrust lists `xfcc` alone",
            )],
        );
        is(
            &wrong_for(by_dns(rule.clone()), listed(true, false, true)),
            &[(
                "web.example",
                "`dns` in a rule with `tcp`: a TCP check carries no XFCC, and PeerTrust does not list \
                 `certificate`",
            )],
        );
        is(&wrong_for(by_spiffe(rule.clone()), listed(true, false, true)), &[]);
        is(&wrong_for(by_dns(rule), listed(true, true, true)), &[]);
    }
}

#[test]
fn a_path_that_its_policy_does_not_read_is_refused_in_allow_rules() {
    let message = "such a path is ambiguous and denied, so that this one never matches";
    let paths = ["/a%2Fb/{x}", "/a/{**}", "/a!"];
    is(&wrong_rule(open("r").paths(&paths)), &[("/a%2Fb/{x}", message), ("/a!", message)]);
    is(&wrong_rule(deny("r").paths(&paths)), &[]);
    let mut opted = policy("p", vec![open("r").paths(&paths)]);
    opted.path_forms = texts(&["encoded-delimiters", "non-ascii"]).unwrap();
    is(&wrong_policy(opted), &[]);
}

#[test]
fn path_forms_have_names() {
    let mut policy = policy("p", vec![open("r")]);
    policy.path_forms = vec![text("dot-segment"), text("x")];
    let documents = documents(vec![policy]);
    is(
        &wrong(&documents),
        &[("dot-segment", "`dot-segment` is not a path form"), ("x", "`x` is not a path form")],
    );
    assert_eq!(help(&documents), "did you mean `dot-segments`?");
}

#[test]
fn case_is_ignored_for_ascii_letters_only() {
    let mut policy = policy("p", vec![open("r").paths(&["/%C3%A9"])]);
    policy.case_insensitive = true;
    is(&wrong_policy(policy), &[("/%C3%A9", "`caseInsensitive` compares ASCII letters only")]);
}

#[test]
fn headers_of_others_cannot_be_set() {
    for (name, message) in [
        (":path", "`:path` is a pseudo-header and cannot be changed"),
        ("X-Caller", "a header name is written in lower case, with no mark but `-`"),
        ("x_caller", "a header name is written in lower case, with no mark but `-`"),
        ("x caller", "`x caller` is not a header name"),
        ("host", "`host` belongs to the proxy and cannot be set"),
        ("connection", "`connection` belongs to the proxy and cannot be set"),
        ("content-length", "`content-length` belongs to the proxy and cannot be set"),
        (
            "x-forwarded-client-cert",
            "`x-forwarded-client-cert` belongs to the proxy and cannot be set",
        ),
        ("x-envoy-a", "`x-envoy-a` belongs to the proxy and cannot be set"),
        ("authorization", "`authorization` belongs to the client's credentials and cannot be set"),
        ("cookie", "`cookie` belongs to the client's credentials and cannot be set"),
        ("dpop", "`dpop` belongs to the client's credentials and cannot be set"),
        ("x-symbolon-decision", "`x-symbolon-decision` belongs to symbolon and cannot be set"),
        (
            "x-original-url",
            "`x-original-url` belongs to what overrides method and path and cannot be set",
        ),
    ] {
        is(&wrong_rule(open("r").upstream(&[(name, "v")])), &[(name, message)]);
    }
}

#[test]
fn placeholders_need_their_part() {
    let rule = open("r").upstream(&[("x-a", "{peer.spiffe}"), ("x-b", "{token.claims.a}")]);
    is(
        &wrong_rule(rule),
        &[
            ("{peer.spiffe}", "a placeholder of the peer needs a `from` part in its rule"),
            ("{token.claims.a}", "a placeholder of the token needs a `token` part in its rule"),
        ],
    );
}

#[test]
fn a_header_is_set_or_removed_once_and_overrides_alone_are_kept() {
    let mut rule = open("r").upstream(&[("x-a", "a")]);
    let upstream = rule.upstream.as_mut().unwrap();
    upstream.remove = vec![text("x-a"), text("host"), text("authorization")];
    upstream.keep = vec![text("x-original-uri"), text("x-original-ur")];
    is(
        &wrong_rule(rule),
        &[
            ("x-a", "the header `x-a` is set or removed twice"),
            ("host", "`host` belongs to the proxy and cannot be removed"),
            ("x-original-ur", "`x-original-ur` is not a method or path override header"),
        ],
    );
}

#[test]
fn what_contradicts_itself_in_upstream_is_refused() {
    let mut rule = open("r").token(&["corp"], &[]).upstream(&[("x-a", "a")]);
    let upstream = rule.upstream.as_mut().unwrap();
    upstream.pass_unverified_token = true;
    upstream.remove = vec![text("x-original-uri")];
    upstream.keep = vec![text("x-original-uri")];
    is(
        &wrong_rule(rule),
        &[
            ("token", "`token` beside `unverifiedToken: pass`: what goes on is verified here"),
            ("x-original-uri", "the header `x-original-uri` is removed and kept"),
        ],
    );
}

#[test]
fn upstream_has_no_meaning_in_a_deny_rule() {
    let rule = deny("r").upstream(&[("x-a", "a")]);
    is(&wrong_rule(rule), &[("r", "`upstream` has no meaning in a deny rule")]);
}

#[test]
fn near_misses_are_told() {
    assert_eq!(suggest("corp", ["xyz", "crop"].into_iter()).unwrap(), "did you mean `crop`?");
    assert_eq!(suggest("corp", ["xyz"].into_iter()), None);
}

#[test]
fn what_is_asked_of_users_and_actors_could_hold() {
    let asking = |rule: RuleDocument, change: &dyn Fn(&mut TokenDocument)| {
        let mut rule = rule.token(&["corp"], &[]);
        change(rule.token.as_mut().unwrap());
        rule
    };
    let named = |subjects: &[&str]| {
        let name = |subject: &&str| ActorNameDocument { subject: text(subject), issuer: None };
        let subjects = Some(subjects.iter().map(name).collect());
        let value = ActorDocument::Map { subjects, max_depth: None };
        Some(Spanned { value, at: at("actor") })
    };
    let step_up = |token: &mut TokenDocument| {
        token.acr = texts(&["gold"]);
        token.max_age = Some(Spanned { value: Duration::from_secs(60), at: at("maxAge") });
    };
    is(&wrong_rule(asking(open("r"), &step_up)), &[]);
    is(
        &wrong_rule(asking(deny("r"), &step_up)),
        &[
            ("gold", "`acr` has no meaning in a deny rule"),
            ("maxAge", "`maxAge` has no meaning in a deny rule"),
        ],
    );
    let depth = |token: &mut TokenDocument| {
        let max_depth = Some(Spanned { value: 1, at: at("maxDepth") });
        let value = ActorDocument::Map { subjects: None, max_depth };
        token.actor = Some(Spanned { value, at: at("actor") });
    };
    is(&wrong_rule(asking(open("r"), &depth)), &[]);
    is(
        &wrong_rule(asking(deny("r"), &depth)),
        &[("maxDepth", "`maxDepth` has no meaning in a deny rule")],
    );
    let actors = |token: &mut TokenDocument| {
        token.actor = named(&["web", WEB, "spiffe://td/ns/*/sa/web", "spiffe://td/a/", "web"]);
    };
    let rule = asking(open("r"), &actors);
    let mistakes: &[(&str, &str)] = &[
        ("spiffe://td/ns/*/sa/web", "an actor is named in full, without `*`"),
        (
            "spiffe://td/a/",
            "each path segment is one or more of a-z, A-Z, 0-9, `.`, `_` and `-`, and not `.` or `..`",
        ),
        ("web", "this entry stands twice in this list"),
    ];
    is(&wrong_rule(rule), mistakes);
    let rule = asking(open("r"), &|token| token.actor = named(&[WEB]));
    let mut documents = documents(vec![policy("p", vec![rule])]);
    documents.peer_trust = None;
    is(
        &wrong(&documents),
        &[(
            WEB,
            "an actor with a SPIFFE ID, which must be the peer, needs a PeerTrust document, and there is none",
        )],
    );
}

#[test]
fn scopes_are_well_formed_in_the_grammar_of_any_issuer_named() {
    let scopes = &["system/Observation.sr", "openid", "system/*.rs"];
    let mut documents =
        documents(vec![policy("p", vec![open("r").token(&["ext", "corp"], scopes)])]);
    is(&wrong(&documents), &[]);
    documents.issuers[0].scope_grammar = ScopeGrammar::SmartOnFhir;
    let message = "`system/Observation.sr` is no SMART on FHIR scope";
    is(&wrong(&documents), &[("system/Observation.sr", message)]);
}
