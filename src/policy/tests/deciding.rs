//! What the rules that ask about a request decide.

use crate::{
    credential::{BoundToken, Peer, Principal, Proof, binding::Binding},
    evidence::peer::PeerEvidence,
    identity::Thumbprint,
    policy::{
        Decision, Needs, Observer, PolicySet, Rule, Verdict,
        document::{BindingName, RuleDocument},
        tests::{
            BY_CERTIFICATE, BY_DPOP, UNBOUND, asked, compiled, decide, deny, get, nobody, open,
            peer, policy, texts, token, token_for, with_origin,
        },
    },
    reason::Reason::{self, Allowed, ExplicitDeny},
};

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const WEB_ONLY: &[&str] = &[WEB];

fn set(rules: Vec<RuleDocument>) -> PolicySet {
    compiled(vec![policy("p", rules)])
}

fn by(peer: Proof<Peer<'_>>, token: Proof<BoundToken>) -> Principal<'_> {
    Principal { peer, workload: Proof::Absent, token, refused_token: None }
}

fn reason(rule: RuleDocument, principal: &Principal<'_>) -> Reason {
    decide(&set(vec![rule]), &get("/"), principal).0
}

/// What a deny rule beside an open rule makes of it.
fn denied(rule: RuleDocument, principal: &Principal<'_>) -> Reason {
    decide(&set(vec![open("open"), rule]), &get("/"), principal).0
}

#[test]
fn a_peer_must_be_there_proven_and_named() {
    let rule = || open("r").spiffe(WEB_ONLY);
    assert_eq!(reason(rule(), &nobody()), Reason::PeerAbsent);
    let expired = by(Proof::Unproven(Reason::PeerCertificateExpired), Proof::Absent);
    assert_eq!(reason(rule(), &expired), Reason::PeerCertificateExpired);
    let other = by(peer("spiffe://td/ns/shop/sa/other"), Proof::Absent);
    assert_eq!(reason(rule(), &other), Reason::PeerNotAllowed);
    assert_eq!(reason(rule(), &by(peer(WEB), Proof::Absent)), Allowed);
}

#[test]
fn different_fields_of_from_must_all_hold() {
    let mut rule = open("r").spiffe(WEB_ONLY);
    let from = rule.from.as_mut().unwrap();
    from.thumbprints = texts(&[&Thumbprint::of(b"certificate").to_base64url()]);
    assert_eq!(reason(rule.clone(), &by(peer(WEB), Proof::Absent)), Allowed);
    let from = rule.from.as_mut().unwrap();
    from.dns = texts(&["web.example"]);
    assert_eq!(reason(rule.clone(), &by(peer(WEB), Proof::Absent)), Reason::PeerNotAllowed);
    let evidence = PeerEvidence {
        spiffe: None,
        spiffe_untold: false,
        dns: vec!["a.example", "WEB.example"],
        thumbprint: None,
        certificate: None,
    };
    let named = Peer { spiffe: None, thumbprint: None, evidence: &evidence };
    let principal = Principal {
        peer: Proof::Proven(named),
        workload: Proof::Absent,
        token: Proof::Absent,
        refused_token: None,
    };
    assert_eq!(reason(rule.clone(), &principal), Reason::PeerNotAllowed);
    let from = rule.from.as_mut().unwrap();
    (from.spiffe, from.thumbprints) = (None, None);
    assert_eq!(reason(rule, &principal), Allowed);
}

#[test]
fn a_thumbprint_that_was_not_forwarded_fails_allow_rules_and_matches_deny_rules() {
    let evidence = PeerEvidence {
        spiffe: None,
        spiffe_untold: false,
        dns: vec![],
        thumbprint: None,
        certificate: None,
    };
    let unknown = Peer { spiffe: None, thumbprint: None, evidence: &evidence };
    let principal = Principal {
        peer: Proof::Proven(unknown),
        workload: Proof::Absent,
        token: Proof::Absent,
        refused_token: None,
    };
    let by_thumbprint = |rule: RuleDocument| {
        let mut rule = rule.spiffe(WEB_ONLY);
        let from = rule.from.as_mut().unwrap();
        from.spiffe = None;
        from.thumbprints = texts(&[&Thumbprint::of(b"certificate").to_base64url()]);
        rule
    };
    assert_eq!(reason(by_thumbprint(open("r")), &principal), Reason::PeerNotAllowed);
    assert_eq!(denied(by_thumbprint(deny("r")), &principal), ExplicitDeny);
}

#[test]
fn a_spiffe_id_that_was_not_forwarded_fails_allow_rules_and_matches_deny_rules() {
    for (spiffe_untold, expected) in [(true, ExplicitDeny), (false, Allowed)] {
        let evidence = PeerEvidence {
            spiffe: None,
            spiffe_untold,
            dns: vec![],
            thumbprint: Some(Thumbprint::of(b"certificate")),
            certificate: None,
        };
        let unnamed = Peer { spiffe: None, thumbprint: evidence.thumbprint, evidence: &evidence };
        let principal = by(Proof::Proven(unnamed), Proof::Absent);
        let allow = open("r").spiffe(WEB_ONLY);
        assert_eq!(reason(allow, &principal), Reason::PeerNotAllowed);
        assert_eq!(denied(deny("r").spiffe(WEB_ONLY), &principal), expected);
    }
}

#[test]
fn a_token_must_be_there_proven_of_a_named_issuer_and_for_this_service() {
    let rule = || open("r").token(&["corp"], &["read", "write"]);
    let with = |token| by(Proof::Absent, token);
    assert_eq!(reason(rule(), &nobody()), Reason::TokenAbsent);
    let unproven = with(Proof::Unproven(Reason::TokenExpired));
    assert_eq!(reason(rule(), &unproven), Reason::TokenExpired);
    let scopes = &["read", "write"];
    let ext = with(token("ext", scopes, UNBOUND));
    assert_eq!(reason(rule(), &ext), Reason::TokenIssuerNotAllowed);
    let other = with(token_for("https://other.example", "corp", scopes, UNBOUND));
    assert_eq!(reason(rule(), &other), Reason::TokenAudience);
    let some = with(token("corp", &["read"], UNBOUND));
    assert_eq!(reason(rule(), &some), Reason::ScopeMissing);
    assert_eq!(reason(rule(), &with(token("corp", scopes, UNBOUND))), Allowed);
}

#[test]
fn a_token_is_judged_by_its_own_issuers_list() {
    let mut both = policy("p", vec![open("r").token(&["corp", "ext"], &[])]);
    both.audiences = texts(&["https://pay.example", "https://other.example"]);
    let set = compiled(vec![both]);
    let other =
        |issuer| by(Proof::Absent, token_for("https://other.example", issuer, &[], UNBOUND));
    assert_eq!(decide(&set, &get("/"), &other("corp")).0, Allowed);
    assert_eq!(decide(&set, &get("/"), &other("ext")).0, Reason::TokenAudience);
}

#[test]
fn binding_left_out_asks_for_certificate_or_dpop() {
    let reason = |rule, principal: &Principal<'_>| {
        decide(&compiled(vec![with_origin(rule)]), &get("/"), principal).0
    };
    let rule = || open("r").token(&["corp"], &[]).binding(&[]);
    let with = |binding: Binding| by(Proof::Absent, token("corp", &[], binding));
    assert_eq!(reason(rule(), &with(UNBOUND)), Reason::TokenUnbound);
    assert_eq!(reason(rule(), &with(BY_CERTIFICATE)), Allowed);
    assert_eq!(reason(rule(), &with(BY_DPOP)), Allowed);
    let certificate = || rule().binding(&[BindingName::Certificate]);
    assert_eq!(reason(certificate(), &with(BY_DPOP)), Reason::BindingNotAllowed);
    assert_eq!(reason(certificate(), &with(BY_CERTIFICATE)), Allowed);
    let none = || rule().binding(&[BindingName::None]);
    for binding in [UNBOUND, BY_CERTIFICATE, BY_DPOP] {
        assert_eq!(reason(none(), &with(binding)), Allowed);
    }
    let mismatch = by(Proof::Absent, Proof::Unproven(Reason::CertificateMismatch));
    assert_eq!(reason(none(), &mismatch), Reason::CertificateMismatch);
}

#[test]
fn what_is_wrong_with_the_peer_is_said_before_the_token_and_that_before_scopes() {
    let rule = || open("r").spiffe(WEB_ONLY).token(&["corp"], &["read"]).binding(&[]);
    let bad = || Proof::Unproven(Reason::TokenSignature);
    assert_eq!(reason(rule(), &by(Proof::Absent, bad())), Reason::PeerAbsent);
    assert_eq!(reason(rule(), &by(peer(WEB), bad())), Reason::TokenSignature);
    let unbound = by(peer(WEB), token("corp", &[], UNBOUND));
    assert_eq!(reason(rule(), &unbound), Reason::TokenUnbound);
    let bound = by(peer(WEB), token("corp", &[], BY_CERTIFICATE));
    assert_eq!(reason(rule(), &bound), Reason::ScopeMissing);
}

#[test]
fn an_invalid_token_fails_rules_that_ask_for_one_and_no_other() {
    let unproven = by(Proof::Absent, Proof::Unproven(Reason::TokenExpired));
    let set = set(vec![open("open"), open("token").token(&["corp"], &[])]);
    assert_eq!(decide(&set, &get("/"), &unproven), (Allowed, "p/open".to_owned()));
}

#[test]
fn a_satisfied_deny_rule_wins() {
    assert_eq!(denied(deny("no"), &nobody()), ExplicitDeny);
    assert_eq!(asked(&set(vec![deny("no")]), &get("/")), ExplicitDeny);
    let set = set(vec![open("open"), deny("no")]);
    assert_eq!(decide(&set, &get("/"), &nobody()).1, "p/no");
}

#[test]
fn a_deny_rule_does_not_match_what_was_not_presented() {
    assert_eq!(denied(deny("no").spiffe(WEB_ONLY), &nobody()), Allowed);
    assert_eq!(denied(deny("no").token(&["corp"], &[]), &nobody()), Allowed);
    let other = by(peer("spiffe://td/a"), Proof::Absent);
    assert_eq!(denied(deny("no").spiffe(WEB_ONLY), &other), Allowed);
    assert_eq!(denied(deny("no").spiffe(WEB_ONLY), &by(peer(WEB), Proof::Absent)), ExplicitDeny);
}

#[test]
fn a_deny_rule_matches_what_is_unproven_for_that_reason() {
    let expired = by(Proof::Absent, Proof::Unproven(Reason::TokenExpired));
    assert_eq!(denied(deny("no").token(&["corp"], &["x"]), &expired), Reason::TokenExpired);
    let expired = by(Proof::Unproven(Reason::PeerCertificateExpired), Proof::Absent);
    assert_eq!(denied(deny("no").spiffe(WEB_ONLY), &expired), Reason::PeerCertificateExpired);
    let other = by(Proof::Absent, token_for("https://other.example", "corp", &[], UNBOUND));
    assert_eq!(denied(deny("no").token(&["corp"], &["x"]), &other), Reason::TokenAudience);
    // One part that is known not to match settles it.
    let stranger = by(peer("spiffe://td/a"), Proof::Unproven(Reason::TokenExpired));
    assert_eq!(denied(deny("no").spiffe(WEB_ONLY).token(&["corp"], &[]), &stranger), Allowed);
}

#[test]
fn a_deny_rule_does_not_match_a_token_of_an_issuer_it_does_not_name() {
    let ext = by(Proof::Absent, token("ext", &["x"], UNBOUND));
    assert_eq!(denied(deny("no").token(&["corp"], &["x"]), &ext), Allowed);
}

#[test]
fn a_deny_rules_scopes_match_when_any_is_held() {
    let rule = || deny("no").token(&["corp"], &["x", "y"]);
    let holds = |scopes: &[&str]| by(Proof::Absent, token("corp", scopes, UNBOUND));
    assert_eq!(denied(rule(), &holds(&["y", "z"])), ExplicitDeny);
    assert_eq!(denied(rule(), &holds(&["z"])), Allowed);
}

#[test]
fn a_deny_rules_binding_left_out_matches_however_bound_and_none_means_unbound() {
    let with = |binding: Binding| by(Proof::Absent, token("corp", &[], binding));
    let rule = |bindings: &[BindingName]| deny("no").token(&["corp"], &[]).binding(bindings);
    for binding in [UNBOUND, BY_CERTIFICATE, BY_DPOP] {
        assert_eq!(denied(rule(&[]), &with(binding)), ExplicitDeny);
    }
    assert_eq!(denied(rule(&[BindingName::None]), &with(UNBOUND)), ExplicitDeny);
    assert_eq!(denied(rule(&[BindingName::None]), &with(BY_CERTIFICATE)), Allowed);
    assert_eq!(denied(rule(&[BindingName::Certificate]), &with(BY_CERTIFICATE)), ExplicitDeny);
    assert_eq!(denied(rule(&[BindingName::Certificate]), &with(BY_DPOP)), Allowed);
}

#[test]
fn a_deny_that_is_certain_gives_the_reason_before_one_through_what_is_unproven() {
    let unproven = by(Proof::Absent, Proof::Unproven(Reason::TokenExpired));
    let rules = vec![open("o"), deny("a").token(&["corp"], &[]), deny("b")];
    assert_eq!(decide(&set(rules), &get("/"), &unproven), (ExplicitDeny, "p/b".to_owned()));
}

#[test]
fn the_rule_that_verified_a_token_decides_before_one_that_did_not() {
    let set = set(vec![open("a"), open("b").token(&["corp"], &[]), open("c").token(&["ext"], &[])]);
    let principal = by(Proof::Absent, token("ext", &[], UNBOUND));
    assert_eq!(decide(&set, &get("/"), &principal), (Allowed, "p/c".to_owned()));
    assert_eq!(decide(&set, &get("/"), &nobody()), (Allowed, "p/a".to_owned()));
}

#[test]
fn the_candidate_that_came_furthest_gives_the_reason() {
    let rules = vec![
        open("peer").spiffe(WEB_ONLY).paths(&["/a"]),
        open("unbound").token(&["corp"], &[]).binding(&[]).paths(&["/{x}"]),
        open("scope").token(&["corp"], &["s"]).paths(&["/{**}"]),
    ];
    let set = set(rules);
    let decided = |principal: &Principal<'_>| decide(&set, &get("/a"), principal);
    let of = |rule: &str, reason| (reason, format!("p/{rule}"));
    assert_eq!(decided(&nobody()), of("unbound", Reason::TokenAbsent));
    let ext = by(Proof::Absent, token("ext", &[], UNBOUND));
    assert_eq!(decided(&ext), of("unbound", Reason::TokenIssuerNotAllowed));
    let bare = by(Proof::Absent, token("corp", &[], UNBOUND));
    assert_eq!(decided(&bare), of("scope", Reason::ScopeMissing));
}

#[test]
fn scopes_are_told_only_where_nothing_else_is_missing() {
    let set = set(vec![open("r").spiffe(WEB_ONLY).token(&["corp"], &["s", "t"])]);
    let scopes = |principal: &Principal<'_>| {
        let evidence = get("/");
        match set.decide(&set.candidates(&evidence), &evidence, principal, &mut ()) {
            Decision::Deny(denial) => denial.scopes().to_vec(),
            Decision::Allow(_) => panic!("allowed"),
        }
    };
    assert_eq!(
        *scopes(&by(peer(WEB), token("corp", &["s"], UNBOUND))),
        ["s", "t"].map(Box::<str>::from)
    );
    assert!(scopes(&by(peer(WEB), Proof::Absent)).is_empty());
    assert!(scopes(&by(Proof::Absent, token("corp", &[], UNBOUND))).is_empty());
}

#[test]
fn only_what_candidates_ask_for_is_needed() {
    let set = set(vec![
        open("open").paths(&["/open"]),
        open("peer").spiffe(WEB_ONLY).paths(&["/peer"]),
        open("token").token(&["corp"], &[]).paths(&["/token"]),
        deny("deny").spiffe(WEB_ONLY).paths(&["/open/x"]),
    ]);
    let needs = |path: &str| set.candidates(&get(path)).needs(&nobody());
    assert_eq!(needs("/open"), Needs::default());
    assert_eq!(needs("/peer"), Needs { token: false, ..Needs::default() });
    assert_eq!(needs("/open/x"), Needs { token: false, ..Needs::default() });
    assert_eq!(needs("/token"), Needs { token: true, ..Needs::default() });
    assert_eq!(needs("/none"), Needs::default());
}

#[test]
fn an_observer_sees_each_rule_and_how_it_came_out() {
    struct Seen(Vec<(String, Verdict)>);
    impl Observer for Seen {
        fn asked(&mut self, rule: &Rule, verdict: Verdict) {
            self.0.push((rule.id.to_string(), verdict));
        }
    }
    let set = set(vec![open("a"), open("b").token(&["corp"], &[]), deny("c").spiffe(WEB_ONLY)]);
    let mut seen = Seen(vec![]);
    let evidence = get("/");
    let decision = set.decide(&set.candidates(&evidence), &evidence, &nobody(), &mut seen);
    assert!(matches!(decision, Decision::Allow(_)));
    seen.0.sort_by(|a, b| a.0.cmp(&b.0));
    let verdicts: Vec<Verdict> = seen.0.iter().map(|(_, verdict)| *verdict).collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Allows { verified_token: false },
            Verdict::Fails(Reason::TokenAbsent),
            Verdict::NotMatched
        ]
    );
}

#[test]
fn a_permit_tells_what_goes_on_and_owns_what_other_policies_set() {
    let set = compiled(vec![
        policy("p", vec![open("r").spiffe(WEB_ONLY).upstream(&[("x-caller", "{peer.spiffe}")])]),
        policy("q", vec![open("other").paths(&["/q"]).upstream(&[("x-other", "q")])]),
    ]);
    let evidence = get("/");
    let principal = by(peer(WEB), Proof::Absent);
    let Decision::Allow(permit) =
        set.decide(&set.candidates(&evidence), &evidence, &principal, &mut ())
    else {
        panic!("denied")
    };
    assert!(!permit.verified_token());
    let changes = permit.upstream(&evidence, &principal, "id").unwrap();
    assert_eq!(*changes.set, [(b"x-caller".as_slice(), WEB.as_bytes().into())]);
    let mut removed: Vec<_> = changes.remove.to_vec();
    removed.sort();
    let expected = ["x-other", "x-symbolon-decision", "x_caller", "x_other", "x_symbolon_decision"];
    assert_eq!(removed, expected.map(str::as_bytes));
    let owned: Vec<&str> = set.owned_headers().collect();
    assert_eq!(owned, ["x-caller", "x-other", "x-symbolon-decision"]);
}
