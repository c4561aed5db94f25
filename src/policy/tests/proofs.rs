//! What rules make of DPoP proofs: their origin, their time, their nonce, and what becomes of them.

use crate::{
    clock::UnixTime,
    credential::{
        BoundToken, Principal, Proof,
        dpop::{PresentedNonce, VerifiedProof},
    },
    diagnostic::Spanned,
    identity::SpiffeId,
    policy::{
        Decision, Offer,
        document::{
            BindingName, NonceMode, OriginDocument, PolicyDocument, ReplayDocument, RuleDocument,
        },
        tests::{
            BY_CERTIFICATE, BY_DPOP, ORIGIN, UNBOUND, at, compiled, decide, deny, get, http,
            nobody, open, policy, proof, text, texts, token, with_origin,
        },
    },
    reason::Reason::{self, Allowed},
};

fn rule() -> RuleDocument {
    open("r").token(&["corp"], &[]).binding(&[BindingName::Dpop])
}

fn by(proof: VerifiedProof) -> Principal<'static> {
    let Proof::Proven(bound) = token("corp", &["read"], BY_DPOP) else { panic!() };
    let bound = BoundToken { proof: Some(Box::new(proof)), ..bound };
    Principal { token: Proof::Proven(bound), ..nobody() }
}

fn reason(policy: PolicyDocument, proof: VerifiedProof) -> Reason {
    decide(&compiled(vec![policy]), &get("/"), &by(proof)).0
}

fn terms(mode: NonceMode, replay: ReplayDocument) -> RuleDocument {
    let mut rule = rule();
    let token = rule.token.as_mut().unwrap();
    token.nonce = Some(Spanned { value: mode, at: at("nonce") });
    token.replay = Some(Spanned { value: replay, at: at("replay") });
    rule
}

#[test]
fn a_proof_is_for_the_origin_of_the_rules_own_policy() {
    assert_eq!(reason(with_origin(rule()), proof(ORIGIN)), Allowed);
    for other in ["http://pay.example", "https://pay.example:8443", "https://other.example"] {
        assert_eq!(reason(with_origin(rule()), proof(other)), Reason::DpopProofUri, "{other}");
    }
    // Another policy's origin opens nothing in this one.
    let elsewhere = PolicyDocument {
        origin: Some(OriginDocument::One(text("https://other.example"))),
        ..policy("q", vec![rule()])
    };
    let closed = open("r").token(&["corp"], &["write"]).binding(&[BindingName::Dpop]);
    let set = compiled(vec![with_origin(closed), elsewhere]);
    let (reason, rule) = decide(&set, &get("/"), &by(proof("https://other.example")));
    assert_eq!((reason, &*rule), (Allowed, "q/r"));
    let (reason, _) = decide(&set, &get("/"), &by(proof(ORIGIN)));
    assert_eq!(reason, Reason::ScopeMissing);
}

#[test]
fn an_origin_may_be_chosen_by_host_and_unknown_hosts_have_none() {
    let by_host = || {
        let origins = [("a.example", "https://a.example"), ("b.example", "http://b.example:8080")];
        PolicyDocument {
            hosts: texts(&["a.example", "b.example", "*.c.example"]),
            origin: Some(OriginDocument::ByHost(
                origins.map(|(host, origin)| (text(host), text(origin))).to_vec(),
            )),
            ..policy("p", vec![rule()])
        }
    };
    let set = compiled(vec![by_host()]);
    let ask = |host, origin| decide(&set, &http("GET", host, "/"), &by(proof(origin))).0;
    assert_eq!(ask("a.example", "https://a.example"), Allowed);
    assert_eq!(ask("b.example", "http://b.example:8080"), Allowed);
    assert_eq!(ask("b.example", "https://a.example"), Reason::DpopProofUri);
    assert_eq!(ask("x.c.example", "https://x.c.example"), Reason::DpopOriginUnknown);
}

#[test]
fn a_token_bound_to_a_key_is_denied_where_no_origin_is_known_whatever_the_binding() {
    let bindings = [&[][..], &[BindingName::Certificate, BindingName::None], &[BindingName::None]];
    for binding in bindings {
        let rule = open("r").token(&["corp"], &[]).binding(binding);
        let found = reason(policy("p", vec![rule]), proof(ORIGIN));
        assert_eq!(found, Reason::DpopOriginUnknown, "{binding:?}");
    }
    let certificate = open("r").token(&["corp"], &[]).binding(&[BindingName::Certificate]);
    assert_eq!(reason(with_origin(certificate), proof(ORIGIN)), Reason::BindingNotAllowed);
}

#[test]
fn iat_tells_the_time_unless_a_nonce_of_ours_does() {
    let now = UnixTime::from_secs(0);
    let with = |is_recent, nonce| VerifiedProof { is_recent, nonce, ..proof(ORIGIN) };
    let ask = |mode, is_recent, nonce| {
        reason(with_origin(terms(mode, ReplayDocument::Consume)), with(is_recent, nonce))
    };
    let (absent, valid) = (PresentedNonce::Absent, PresentedNonce::Valid(now));
    let invalid = PresentedNonce::Invalid;
    for (mode, is_recent, nonce, expected) in [
        (NonceMode::Off, true, absent, Allowed),
        (NonceMode::Off, false, absent, Reason::DpopProofTime),
        (NonceMode::Off, true, invalid, Allowed),
        (NonceMode::Off, false, valid, Reason::DpopProofTime),
        (NonceMode::On, true, absent, Allowed),
        (NonceMode::On, false, absent, Reason::DpopProofTime),
        (NonceMode::On, true, invalid, Reason::DpopNonceInvalid),
        (NonceMode::On, false, valid, Allowed),
        (NonceMode::Required, true, absent, Reason::DpopNonceRequired),
        (NonceMode::Required, true, invalid, Reason::DpopNonceInvalid),
        (NonceMode::Required, false, valid, Allowed),
    ] {
        assert_eq!(ask(mode, is_recent, nonce), expected, "{mode:?} {is_recent} {nonce:?}");
    }
}

#[test]
fn a_proof_is_observed_for_the_callers_that_a_rule_names_and_used_up_for_all_others() {
    const GATEWAY: &str = "spiffe://td/ns/ingress/sa/gateway";
    let replay = || ReplayDocument::ObserveFor(vec![text(GATEWAY)]);
    let set = compiled(vec![with_origin(terms(NonceMode::Off, replay()))]);
    let principal = by(proof(ORIGIN));
    let consumes = |caller: Option<&str>| {
        let caller = caller.map(|id| SpiffeId::parse(id).unwrap());
        match set.decide(&set.candidates(&get("/")), &get("/"), &principal, &mut ()) {
            Decision::Allow(permit) => {
                permit.obligation(&principal, caller).unwrap().consume.is_some()
            }
            Decision::Deny(denial) => panic!("{:?}", denial.reason),
        }
    };
    assert!(!consumes(Some(GATEWAY)));
    assert!(consumes(Some("spiffe://td/ns/ingress/sa/gateway2")));
    assert!(consumes(Some("spiffe://td/ns/payments/sa/payments")));
    assert!(consumes(None), "who has not proven its name is nobody's gateway");
}

#[test]
fn an_allow_owes_what_its_rule_says_of_the_proof() {
    let owes = |policy: PolicyDocument, principal: &Principal<'_>| {
        let set = compiled(vec![policy]);
        match set.decide(&set.candidates(&get("/")), &get("/"), principal, &mut ()) {
            Decision::Allow(permit) => {
                permit.obligation(principal, None).map(|owed| (owed.consume.is_some(), owed.nonce))
            }
            Decision::Deny(denial) => panic!("{:?}", denial.reason),
        }
    };
    let nonce = PresentedNonce::Valid(UnixTime::from_secs(0));
    let caller = by(VerifiedProof { nonce, ..proof(ORIGIN) });
    for (mode, replay, expected) in [
        (NonceMode::Off, ReplayDocument::Consume, (true, false)),
        (NonceMode::On, ReplayDocument::Consume, (true, true)),
        (NonceMode::Required, ReplayDocument::Observe, (false, true)),
    ] {
        assert_eq!(owes(with_origin(terms(mode, replay)), &caller), Some(expected));
    }
    assert_eq!(owes(with_origin(rule()), &caller), Some((true, false)), "the defaults");
    // A rule that verified no proof uses none up.
    assert_eq!(owes(policy("p", vec![open("r")]), &caller), None);
    let unbound = Principal { token: token("corp", &[], UNBOUND), ..nobody() };
    let any = open("r").token(&["corp"], &[]);
    assert_eq!(owes(with_origin(any), &unbound), None);
}

#[test]
fn a_deny_rule_sees_the_token_wherever_its_proof_leads() {
    let no = || deny("no").token(&["corp"], &["read"]).binding(&[]);
    let set = compiled(vec![with_origin(rule()), policy("q", vec![no()])]);
    assert_eq!(decide(&set, &get("/"), &by(proof(ORIGIN))).0, Reason::ExplicitDeny);
    let other = deny("no").token(&["corp"], &["write"]).binding(&[]);
    let set = compiled(vec![with_origin(rule()), policy("q", vec![other])]);
    assert_eq!(decide(&set, &get("/"), &by(proof(ORIGIN))).0, Allowed);
}

#[test]
fn a_challenge_offers_what_the_rule_takes() {
    let offer = |policy: PolicyDocument| {
        let set = compiled(vec![policy]);
        match set.decide(&set.candidates(&get("/")), &get("/"), &nobody(), &mut ()) {
            Decision::Deny(denial) => denial.offer("pay.example"),
            Decision::Allow(_) => panic!(),
        }
    };
    let asks = |binding: &[BindingName]| open("r").token(&["corp"], &[]).binding(binding);
    let of = |bearer, dpop| Offer { bearer, dpop };
    assert_eq!(offer(with_origin(rule())), of(false, true));
    assert_eq!(offer(with_origin(asks(&[]))), of(true, true));
    assert_eq!(offer(policy("p", vec![asks(&[])])), of(true, false));
    assert_eq!(offer(with_origin(asks(&[BindingName::Certificate]))), of(true, false));
    assert_eq!(offer(with_origin(asks(&[BindingName::None]))), of(true, true));
    let both = Principal { token: token("corp", &[], BY_CERTIFICATE), ..nobody() };
    let set = compiled(vec![with_origin(rule())]);
    assert_eq!(decide(&set, &get("/"), &both).0, Reason::BindingNotAllowed);
}
