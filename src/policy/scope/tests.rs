//! The grammar, and what holds of implication whatever the scopes.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

const SMART: ScopeGrammar = ScopeGrammar::SmartOnFhir;

fn holds(held: &str, required: &str) -> bool {
    satisfies(SMART, held.split(' '), required)
}

#[test]
fn scopes_are_exact_unless_the_issuer_says_otherwise() {
    let exact = |held, required| satisfies(ScopeGrammar::Exact, [held], required);
    assert!(exact("system/*.rs", "system/*.rs"));
    assert!(!exact("system/*.cruds", "system/*.rs"));
    assert!(!exact("payments:*", "payments:read"));
    assert!(overlaps(ScopeGrammar::Exact, ["a", "b"], "b"));
    assert!(!overlaps(ScopeGrammar::Exact, ["system/*.cruds"], "system/*.rs"));
}

#[test]
fn more_satisfies_less() {
    for (held, required) in [
        ("system/Observation.rs", "system/Observation.rs"),
        ("system/*.cruds", "system/Observation.rs"),
        ("system/*.rs", "system/*.r"),
        ("patient/*.*", "patient/Condition.cruds"),
        ("patient/Condition.cruds", "patient/Condition.*"),
        ("user/*.read", "user/Patient.rs"),
        ("user/Patient.rs", "user/Patient.read"),
        ("user/Patient.write", "user/Patient.cud"),
        ("user/Patient.read user/Patient.write", "user/Patient.*"),
        ("system/Patient.r system/Patient.s", "system/Patient.rs"),
        ("system/*.r system/Patient.s", "system/Patient.rs"),
        ("system/Observation.rs", "system/Observation.rs?category=laboratory"),
        ("system/*.rs?category=a", "system/Observation.r?category=a"),
        ("openid launch/patient", "launch/patient"),
    ] {
        assert!(holds(held, required), "{held} is enough for {required}");
    }
}

#[test]
fn less_or_something_else_does_not() {
    for (held, required) in [
        ("system/Observation.r", "system/Observation.rs"),
        ("system/Observation.rs", "system/*.rs"),
        ("system/Observation.cruds", "system/Condition.r"),
        ("system/ObservationX.rs", "system/Observation.rs"),
        ("system/observation.rs", "system/Observation.rs"),
        ("user/Observation.read", "user/Observation.c"),
        ("user/Observation.write", "user/Observation.r"),
        ("user/*.cruds", "patient/Observation.r"),
        ("patient/*.cruds", "system/Observation.r"),
        ("system/Observation.rs?category=a", "system/Observation.rs"),
        ("system/Observation.rs?category=a", "system/Observation.rs?category=b"),
        ("system/Observation.rs?a=1&b=2", "system/Observation.rs?b=2&a=1"),
        ("system/Observation.rs?a=1 system/Observation.rs?a=2", "system/Observation.rs"),
        ("system/*.sr", "system/Observation.r"),
        ("system/*.rr", "system/Observation.r"),
        ("system/*.", "system/Observation.r"),
        ("system/*.rs?", "system/Observation.r"),
        ("system/**.rs", "system/Observation.r"),
        ("system/.rs", "system/Observation.r"),
        ("system/*.reads", "system/Observation.r"),
        ("SYSTEM/*.rs", "system/Observation.r"),
        ("system/*/*.rs", "system/Observation.r"),
        ("*/*.rs", "system/Observation.r"),
        ("launch", "launch/patient"),
        ("", "system/Observation.r"),
    ] {
        assert!(!holds(held, required), "{held} is not enough for {required}");
    }
}

#[test]
fn a_deny_rule_sees_whatever_overlaps() {
    let overlaps = |held: &str, named| overlaps(SMART, held.split(' '), named);
    for (held, named) in [
        ("system/*.cruds", "system/Observation.d"),
        ("system/Observation.d", "system/*.cruds"),
        ("system/Observation.rs", "system/Observation.ds"),
        ("system/Observation.r", "system/Observation.rs"),
        ("system/Observation.r?a=1", "system/Observation.r"),
        ("system/Observation.r?a=1", "system/Observation.r?b=1"),
        ("openid system/Observation.sr", "system/Condition.d"),
        ("openid launch", "launch"),
    ] {
        assert!(overlaps(held, named), "{held} {named}");
    }
    for (held, named) in [
        ("system/Observation.rs", "system/Observation.cud"),
        ("system/Observation.rs", "system/Condition.rs"),
        ("user/Observation.rs", "system/Observation.rs"),
        ("user/Observation.sr", "system/Observation.rs"),
        ("launch/patient openid", "launch"),
    ] {
        assert!(!overlaps(held, named), "{held} {named}");
    }
}

#[test]
fn what_starts_like_a_smart_scope_and_is_none_is_malformed() {
    for scope in ["system/Observation.sr", "user/*", "patient/a.r", "system/Observation.rs?"] {
        assert!(is_malformed_smart(scope), "{scope}");
    }
    for scope in ["system/Observation.rs", "launch/patient", "openid", "payments:read"] {
        assert!(!is_malformed_smart(scope), "{scope}");
    }
}

fn scopes() -> impl Strategy<Value = String> {
    let smart = (
        select(vec!["patient", "user", "system"]),
        select(vec!["*", "Observation", "Condition"]),
        select(vec!["c", "r", "s", "rs", "cud", "cruds", "read", "write", "*", "ds", "sr"]),
        option::weighted(0.3, select(vec!["a=1", "a=2"])),
    )
        .prop_map(|(context, resource, permissions, query)| match query {
            Some(query) => format!("{context}/{resource}.{permissions}?{query}"),
            None => format!("{context}/{resource}.{permissions}"),
        });
    prop_oneof![4 => smart, 1 => select(vec!["openid", "launch/patient"]).prop_map(str::to_owned)]
}

fn enough(held: &[String], required: &str) -> bool {
    satisfies(SMART, held.iter().map(String::as_str), required)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn each_scope_satisfies_itself(scope in scopes()) {
        prop_assert!(enough(std::slice::from_ref(&scope), &scope));
    }

    #[test]
    fn what_is_enough_for_all_of_a_set_is_enough_for_what_the_set_is(
        more in vec(scopes(), 0..5),
        less in vec(scopes(), 0..4),
        required in scopes(),
    ) {
        let between: Vec<String> =
            less.into_iter().filter(|scope| enough(&more, scope)).collect();
        if enough(&between, &required) {
            prop_assert!(enough(&more, &required), "{:?} {:?} {}", more, between, required);
        }
    }

    #[test]
    fn holding_more_never_loses_anything(
        held in vec(scopes(), 0..4),
        added in scopes(),
        required in scopes(),
    ) {
        let mut more = held.clone();
        more.push(added);
        prop_assert!(!enough(&held, &required) || enough(&more, &required));
        let overlapping = |held: &[String]| {
            overlaps(SMART, held.iter().map(String::as_str), &required)
        };
        prop_assert!(!overlapping(&held) || overlapping(&more));
    }

    #[test]
    fn what_is_enough_to_allow_is_seen_by_a_deny_rule(
        held in vec(scopes(), 0..4),
        required in scopes(),
    ) {
        if enough(&held, &required) {
            prop_assert!(overlaps(SMART, held.iter().map(String::as_str), &required));
        }
    }
}
