//! The corpus of bad input (and of what is let through), asked of the real server over gRPC.
//!
//! The cases are the files `tests/corpus/*.yaml`; `tests/corpus/README.md` says how they are written.
//! Each HTTP case is sent twice: with headers as `headers` and as `header_map` (Envoy's
//! `encode_raw_headers`), and both must come out alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

#[path = "corpus/data.rs"]
mod data;
#[path = "corpus/message.rs"]
mod message;
#[path = "corpus/mint.rs"]
mod mint;
#[path = "corpus/outcome.rs"]
mod outcome;
#[path = "corpus/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use data::{Case, Encoding, cases};
use symbolon::reason::Reason;
use world::{Setup, World};

/// Every case, in worlds that share what they need. One test, as the logs of the process are one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_comes_out_as_it_says_in_both_encodings_of_headers() {
    let log = world::capture_log();
    log_panics();
    let mut by_setup: BTreeMap<Setup, Vec<Case>> = BTreeMap::new();
    for case in cases() {
        by_setup.entry(Setup::of(&case)).or_default().push(case);
    }
    let mut problems = Vec::new();
    let mut run = 0;
    for (setup, cases) in by_setup {
        let mut world = World::start(&setup).await;
        for case in &cases {
            for encoding in Encoding::of(case) {
                run += 1;
                if let Err(problem) = world.run(case, encoding).await {
                    problems.push(format!("{} [{encoding:?}]: {problem}", case.name()));
                }
            }
        }
        problems.extend(world.finish(&log).await);
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    assert!(problems.is_empty(), "{} problems in {run} checks", problems.len());
    assert!(run > 1000, "only {run} checks were made");
}

/// As `serve` does, so that a drill's panic is in the log that is looked at; and the tests' own as usual.
fn log_panics() {
    let usual = std::panic::take_hook();
    symbolon::telemetry::log::panics();
    let logging = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        logging(panic);
        let is_servers =
            std::thread::current().name().is_some_and(|name| name.starts_with("worker"));
        if !is_servers {
            usual(panic);
        }
    }));
}

#[test]
fn every_reason_is_reached_by_a_case_and_no_case_names_another() {
    let named: BTreeSet<String> = cases().into_iter().map(|case| case.expect.reason).collect();
    let known: BTreeSet<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    let unreached: Vec<_> = known.difference(&named).collect();
    assert!(unreached.is_empty(), "no case reaches {unreached:?}");
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "there is no reason {unknown:?}");
}

#[test]
fn no_two_cases_have_the_same_words() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        assert!(seen.insert(case.why.clone()), "{}", case.name());
    }
}
