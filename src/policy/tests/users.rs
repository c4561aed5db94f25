//! What rules make of who acts for a token's subject, of scopes that imply one another, and of how the user
//! authenticated.

use std::{sync::Arc, time::Duration};

use crate::{
    credential::{Principal, Proof, actor::Actor, claims::AccessToken},
    diagnostic::Spanned,
    policy::{
        Decision, PolicySet, StepUp,
        compile::compile,
        document::{ActorDocument, ActorNameDocument, RuleDocument, TokenDocument},
        scope::ScopeGrammar,
        tests::{
            UNBOUND, at, compiled, decide, deny, documents, get, nobody, open, policy, text, texts,
            token,
        },
    },
    reason::Reason::{self, Allowed, ExplicitDeny},
};

const CORP: &str = "https://corp.example";

fn allow(change: impl FnOnce(&mut TokenDocument)) -> RuleDocument {
    let mut rule = open("r").token(&["corp"], &[]);
    change(rule.token.as_mut().unwrap());
    rule
}

fn forbid(change: impl FnOnce(&mut TokenDocument)) -> RuleDocument {
    let mut rule = deny("no").token(&["corp"], &[]);
    change(rule.token.as_mut().unwrap());
    rule
}

#[expect(clippy::unnecessary_wraps, reason = "the part is optional")]
fn actor(value: ActorDocument) -> Option<Spanned<ActorDocument>> {
    Some(Spanned { value, at: at("actor") })
}

fn named(subject: &str, issuer: Option<&str>) -> ActorNameDocument {
    ActorNameDocument { subject: text(subject), issuer: issuer.map(text) }
}

fn map(
    subjects: Option<Vec<ActorNameDocument>>,
    max_depth: Option<usize>,
) -> Option<Spanned<ActorDocument>> {
    let max_depth = max_depth.map(|value| Spanned { value, at: at("maxDepth") });
    actor(ActorDocument::Map { subjects, max_depth })
}

/// A caller with this token, changed.
fn with(
    scopes: &[&str],
    change: impl FnOnce(&mut AccessToken, &mut Option<Duration>),
) -> Principal<'static> {
    let Proof::Proven(mut bound) = token("corp", scopes, UNBOUND) else { panic!() };
    let access = Arc::get_mut(&mut bound.token).unwrap();
    access.claims.insert("iss".to_owned(), CORP.into());
    change(access, &mut bound.authentication_age);
    Principal { token: Proof::Proven(bound), ..nobody() }
}

/// A caller whose token has these actors, the current one first.
fn through(actors: &[(&str, &str)]) -> Principal<'static> {
    with(&[], |token, _| {
        let actor = |(subject, issuer): &(&str, &str)| Actor {
            issuer: (*issuer).to_owned(),
            subject: (*subject).to_owned(),
        };
        token.actors = actors.iter().map(actor).collect();
    })
}

fn reason(rule: RuleDocument, principal: &Principal<'_>) -> Reason {
    decide(&compiled(vec![policy("p", vec![rule])]), &get("/"), principal).0
}

fn denied(rule: RuleDocument, principal: &Principal<'_>) -> Reason {
    decide(&compiled(vec![policy("p", vec![open("open"), rule])]), &get("/"), principal).0
}

#[test]
fn a_rule_without_actor_asks_nothing() {
    let rule = || allow(|_| ());
    for chain in [&[][..], &[("web", CORP)], &[("web", CORP), ("app", CORP)]] {
        assert_eq!(reason(rule(), &through(chain)), Allowed);
    }
}

#[test]
fn an_actor_can_be_required_and_forbidden() {
    let any = || allow(|token| token.actor = actor(ActorDocument::Any));
    let none = || allow(|token| token.actor = actor(ActorDocument::None));
    assert_eq!(reason(any(), &through(&[])), Reason::ActorRequired);
    assert_eq!(reason(any(), &through(&[("web", CORP)])), Allowed);
    assert_eq!(reason(none(), &through(&[])), Allowed);
    assert_eq!(reason(none(), &through(&[("web", CORP)])), Reason::ActorForbidden);
}

#[test]
fn only_the_current_actor_is_compared_and_with_its_issuer() {
    const OTHER: &str = "https://other.example";
    let rule = || {
        let names = vec![named("web", None), named("app", Some(OTHER))];
        allow(|token| token.actor = map(Some(names), None))
    };
    assert_eq!(reason(rule(), &through(&[])), Reason::ActorRequired);
    for actor in [("web", CORP), ("app", OTHER)] {
        assert_eq!(reason(rule(), &through(&[actor, ("evil", OTHER)])), Allowed);
    }
    for actor in [("web", OTHER), ("app", CORP), ("WEB", CORP), ("web2", CORP), ("evil", CORP)] {
        let chain = through(&[actor, ("web", CORP), ("app", OTHER)]);
        assert_eq!(reason(rule(), &chain), Reason::ActorNotAllowed, "{actor:?}");
    }
}

#[test]
fn a_rule_limits_the_depth_of_delegation() {
    let rule = || allow(|token| token.actor = map(None, Some(2)));
    let web = ("web", CORP);
    assert_eq!(reason(rule(), &through(&[])), Reason::ActorRequired);
    assert_eq!(reason(rule(), &through(&[web])), Allowed);
    assert_eq!(reason(rule(), &through(&[web; 2])), Allowed);
    assert_eq!(reason(rule(), &through(&[web; 3])), Reason::DelegationTooDeep);
}

#[test]
fn a_deny_rules_actor_matches_what_it_names() {
    let (none, web, app) = (through(&[]), through(&[("web", CORP)]), through(&[("app", CORP)]));
    let rule = |part| forbid(|token| token.actor = part);
    let outcomes = |part: fn() -> Option<Spanned<ActorDocument>>| {
        [&none, &web, &app].map(|principal| denied(rule(part()), principal))
    };
    assert_eq!(outcomes(|| actor(ActorDocument::Any)), [Allowed, ExplicitDeny, ExplicitDeny]);
    assert_eq!(outcomes(|| actor(ActorDocument::None)), [ExplicitDeny, Allowed, Allowed]);
    let named = || map(Some(vec![named("web", None)]), None);
    assert_eq!(outcomes(named), [Allowed, ExplicitDeny, Allowed]);
    let not_peer = Principal { token: Proof::Unproven(Reason::ActorNotPeer), ..nobody() };
    assert_eq!(denied(rule(named()), &not_peer), Reason::ActorNotPeer);
}

fn user(acr: Option<&'static str>, age: Option<u64>, scopes: &[&str]) -> Principal<'static> {
    with(scopes, |token, authentication_age| {
        if let Some(acr) = acr {
            token.claims.insert("acr".to_owned(), acr.into());
        }
        *authentication_age = age.map(Duration::from_secs);
    })
}

fn strong() -> RuleDocument {
    allow(|token| {
        token.scopes = texts(&["pay"]);
        token.acr = texts(&["gold", "silver"]);
        token.max_age = Some(Spanned { value: Duration::from_secs(900), at: at("maxAge") });
        token.actor = actor(ActorDocument::None);
    })
}

#[test]
fn the_user_must_have_authenticated_well_and_lately_once_all_else_holds() {
    let pay = &["pay"];
    assert_eq!(reason(strong(), &user(Some("silver"), Some(900), pay)), Allowed);
    let weak = user(Some("bronze"), Some(0), pay);
    assert_eq!(reason(strong(), &weak), Reason::AuthenticationTooWeak);
    assert_eq!(reason(strong(), &user(None, Some(0), pay)), Reason::AuthenticationTooWeak);
    let old = user(Some("gold"), Some(901), pay);
    assert_eq!(reason(strong(), &old), Reason::AuthenticationTooOld);
    assert_eq!(reason(strong(), &user(Some("gold"), None, pay)), Reason::AuthenticationTooOld);
    assert_eq!(reason(strong(), &user(None, None, &[])), Reason::ScopeMissing);
    assert_eq!(reason(strong(), &through(&[("web", CORP)])), Reason::ActorForbidden);
}

#[test]
fn a_challenge_says_all_that_the_rule_asks_and_only_where_nothing_else_is_missing() {
    let set = compiled(vec![policy("p", vec![strong()])]);
    let told = |principal: &Principal<'_>| {
        let evidence = get("/");
        match set.decide(&set.candidates(&evidence), &evidence, principal, &mut ()) {
            Decision::Deny(denial) => (denial.step_up().cloned(), denial.scopes().len()),
            Decision::Allow(_) => panic!("allowed"),
        }
    };
    let asked = StepUp {
        acr: Some(["gold".into(), "silver".into()].into()),
        max_age: Some(Duration::from_secs(900)),
    };
    assert_eq!(told(&user(None, None, &["pay"])), (Some(asked.clone()), 0));
    assert_eq!(told(&user(Some("gold"), None, &["pay"])), (Some(asked), 0));
    assert_eq!(told(&user(None, None, &[])), (None, 1));
    assert_eq!(told(&nobody()), (None, 0));
}

#[test]
fn a_rule_that_came_as_far_as_the_authentication_gives_the_reason() {
    let scoped = allow(|token| token.scopes = texts(&["admin"]));
    let scoped = RuleDocument { name: text("a"), ..scoped };
    let set = compiled(vec![policy("p", vec![scoped, strong()])]);
    let found = decide(&set, &get("/"), &user(None, None, &["pay"]));
    assert_eq!(found, (Reason::AuthenticationTooWeak, "p/r".to_owned()));
}

/// `corp` speaks SMART, `ext` does not.
fn smart(rules: Vec<RuleDocument>) -> PolicySet {
    let mut documents = documents(vec![policy("p", rules)]);
    documents.issuers[0].scope_grammar = ScopeGrammar::SmartOnFhir;
    let mut mistakes = Vec::new();
    let set = compile(&documents, &[], &mut mistakes);
    assert_eq!(mistakes, []);
    set
}

#[test]
fn scopes_imply_one_another_in_the_grammar_of_the_tokens_own_issuer() {
    let wanted = &["system/Observation.rs"];
    let set = smart(vec![open("r").token(&["corp", "ext"], wanted)]);
    let holds = |issuer, scopes: &[&str]| {
        let principal = Principal { token: token(issuer, scopes, UNBOUND), ..nobody() };
        decide(&set, &get("/"), &principal).0
    };
    assert_eq!(holds("corp", &["system/*.cruds"]), Allowed);
    assert_eq!(holds("corp", &["system/*.cruds?a=1"]), Reason::ScopeMissing);
    assert_eq!(holds("ext", &["system/*.cruds"]), Reason::ScopeMissing);
    assert_eq!(holds("ext", wanted), Allowed);
}

#[test]
fn a_deny_rule_sees_every_scope_that_overlaps() {
    let named = &["system/Observation.cud"];
    let set = smart(vec![open("open"), deny("no").token(&["corp"], named)]);
    let holds = |scope| {
        let principal = Principal { token: token("corp", &[scope], UNBOUND), ..nobody() };
        decide(&set, &get("/"), &principal).0
    };
    for scope in ["system/*.d", "system/Observation.u?a=1", "system/Observation.dc"] {
        assert_eq!(holds(scope), ExplicitDeny, "{scope}");
    }
    for scope in ["system/*.rs", "system/Condition.cud", "user/*.cruds"] {
        assert_eq!(holds(scope), Allowed, "{scope}");
    }
    assert_eq!(decide(&set, &get("/"), &nobody()).0, Allowed);
}
