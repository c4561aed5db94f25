//! What goes on to the service, from whole check messages with headers as clients send them.

use super::{compiled, nobody, open, policy, text};
use crate::{
    evidence::{Evidence, PeerSources, certificate::CertificateCache},
    policy::{Decision, PolicySet, document::UpstreamDocument},
    transport::wire,
};

/// A check with these headers, in both encodings.
fn checks<'t>(path: &'t str, headers: &[(&'t str, &'t str)]) -> [wire::CheckRequest<'t>; 2] {
    let check = |http| wire::CheckRequest {
        attributes: Some(wire::AttributeContext { http: Some(http), ..Default::default() }),
    };
    let http = wire::HttpRequest {
        method: b"GET",
        path: path.as_bytes(),
        host: b"pay.example",
        ..Default::default()
    };
    let bytes = headers.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    let entries = bytes.clone().map(|(key, value)| wire::Entry { key, value });
    let raw = bytes.map(|(key, raw_value)| wire::HeaderValue { key, value: b"", raw_value });
    [
        check(wire::HttpRequest { headers: entries.collect(), ..http.clone() }),
        check(wire::HttpRequest { raw_headers: raw.collect(), ..http }),
    ]
}

/// What is set of such a check, and what is removed: headers and parameters.
fn changes(
    set: &PolicySet,
    check: &wire::CheckRequest<'_>,
) -> (Vec<(String, String)>, Vec<String>) {
    let cache = CertificateCache::new(1);
    let evidence = Evidence::read(check, PeerSources::default(), None, &cache).unwrap();
    let candidates = set.candidates(&evidence);
    let principal = nobody();
    let permit = match set.decide(&candidates, &evidence, &principal, &mut ()) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("denied: {}", denial.reason),
    };
    let changes = permit.upstream(&evidence, &principal, "id").unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let set = changes.set.iter().map(|(name, value)| (text(name), text(value))).collect();
    let removed = changes.remove.iter().chain(&changes.remove_parameters);
    (set, removed.map(|name| text(name)).collect())
}

/// What is removed from such a request, sorted. Both encodings must agree.
fn removed(set: &PolicySet, path: &str, headers: &[(&str, &str)]) -> Vec<String> {
    let [one, other] = checks(path, headers).map(|check| {
        let (_, mut names) = changes(set, &check);
        names.sort();
        names
    });
    assert_eq!(one, other);
    one.into_iter().filter(|name| !name.contains("symbolon")).collect()
}

/// An open rule beside one that owns `x-caller-id`.
fn public(change: impl FnOnce(&mut UpstreamDocument)) -> PolicySet {
    let mut upstream = UpstreamDocument {
        headers: vec![],
        remove: vec![],
        keep: vec![],
        pass_unverified_token: false,
    };
    change(&mut upstream);
    let mut rule = open("r").paths(&["/a"]);
    rule.upstream = Some(upstream);
    let other = open("other").paths(&["/b"]).upstream(&[("x-caller-id", "{decision.id}")]);
    compiled(vec![policy("p", vec![rule, other])])
}

const OWNED: [&str; 2] = ["x-caller-id", "x_caller_id"];

fn owned_and(names: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = OWNED.iter().chain(names).map(|name| (*name).to_owned()).collect();
    all.sort();
    all
}

#[test]
fn credentials_that_nobody_verified_do_not_go_on() {
    let set = public(|_| {});
    for value in ["Bearer a", "bearer  a", "DPoP a", "Bearer a,Bearer b", "Bearer", "Bearer !"] {
        let names = removed(&set, "/a", &[("authorization", value), ("dpop", "proof")]);
        assert_eq!(names, owned_and(&["authorization", "dpop"]), "{value}");
    }
    assert_eq!(removed(&set, "/a", &[("authorization", "Basic a")]), owned_and(&[]));
    let twice = [("authorization", "Bearer a"), ("authorization", "Basic b")];
    assert!(removed(&set, "/a", &twice).contains(&"authorization".to_owned()));
}

#[test]
fn a_token_in_the_query_that_nobody_verified_does_not_go_on() {
    let set = public(|_| {});
    assert_eq!(removed(&set, "/a?x=1&access_token=t", &[]), owned_and(&["access_token"]));
    let spelt = "/a?access%5Ftoken=t&%61ccess_token&access_token=1&access_token=2";
    let spellings = ["%61ccess_token", "access%5Ftoken", "access_token"];
    assert_eq!(removed(&set, spelt, &[]), owned_and(&spellings));
    let basic = [("authorization", "Basic a")];
    assert_eq!(removed(&set, "/a?access_token=t", &basic), owned_and(&["access_token"]));
    let both = [("authorization", "Bearer a")];
    let names = removed(&set, "/a?access_token=t", &both);
    assert_eq!(names, owned_and(&["access_token", "authorization"]));
    assert_eq!(removed(&set, "/a?x=access_token", &[]), owned_and(&[]));
}

#[test]
fn a_rule_may_pass_credentials_that_it_did_not_verify() {
    let set = public(|upstream| upstream.pass_unverified_token = true);
    let headers = [("authorization", "Bearer a"), ("dpop", "proof")];
    assert_eq!(removed(&set, "/a?access_token=t", &headers), owned_and(&[]));
}

#[test]
fn headers_that_override_method_and_path_do_not_go_on_unless_kept() {
    let headers = [
        ("x-http-method-override", "DELETE"),
        ("x_original_url", "/b"),
        ("x-rewrite_url", "/b"),
        ("accept", "*/*"),
    ];
    let names = ["x-http-method-override", "x-rewrite_url", "x_original_url"];
    assert_eq!(removed(&public(|_| {}), "/a", &headers), owned_and(&names));
    let set = public(|upstream| upstream.keep = vec![text("x-rewrite-url")]);
    assert_eq!(removed(&set, "/a", &headers), owned_and(&[names[0], names[2]]));
}

#[test]
fn forged_headers_do_not_go_on_in_any_spelling_that_services_fold() {
    let set = public(|_| {});
    let spellings = ["x-caller_id", "x_caller-id", "x.caller.id", "x-caller.id", "x-caller!id"];
    let headers: Vec<_> = spellings.iter().chain(&OWNED).map(|name| (*name, "admin")).collect();
    assert_eq!(removed(&set, "/a", &headers), owned_and(&spellings));
    for check in checks("/b", &headers) {
        let (set, removed) = changes(&set, &check);
        assert_eq!(set, [("x-caller-id".to_owned(), "id".to_owned())]);
        assert!(!removed.contains(&"x-caller-id".to_owned()));
        for spelling in spellings {
            assert!(removed.contains(&spelling.to_owned()), "{spelling}");
        }
    }
}
