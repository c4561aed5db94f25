//! Proofs pass once, however many ask at the same instant and whatever room there is.

use std::{
    collections::HashSet,
    sync::{Arc, Barrier},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::credential::dpop::{Origin, PresentedNonce, VerifiedProof};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);

fn proof(jti: u64, issued: UnixTime) -> VerifiedProof {
    VerifiedProof {
        origin: Origin::parse("https://api.example").unwrap(),
        id: Thumbprint::of(&jti.to_be_bytes()),
        issued,
        is_recent: true,
        nonce: PresentedNonce::Absent,
        usable_until: issued.saturating_add(Duration::from_secs(70)),
    }
}

fn after(seconds: u64) -> UnixTime {
    START.saturating_add(Duration::from_secs(seconds))
}

fn consume(store: &MemoryStore, proof: &VerifiedProof, now: UnixTime) -> Result<(), ReplayError> {
    store.consume(Use { proof: proof.as_used(), check: None }, now)
}

#[test]
fn a_proof_passes_once() {
    let store = MemoryStore::new(10, START);
    let (one, other) = (proof(1, START), proof(2, START));
    assert_eq!(consume(&store, &one, START), Ok(()));
    assert_eq!(consume(&store, &one, START), Err(ReplayError::Replayed));
    assert_eq!(consume(&store, &other, START), Ok(()));
    assert_eq!(consume(&store, &one, START), Err(ReplayError::Replayed));
}

#[test]
fn of_many_at_the_same_instant_exactly_one_passes() {
    const THREADS: usize = 16;
    let store = Arc::new(MemoryStore::new(1_000, START));
    for round in 0..50 {
        let proof = Arc::new(proof(round, START));
        let barrier = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (store, proof, barrier) =
                    (Arc::clone(&store), Arc::clone(&proof), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    consume(&store, &proof, START)
                })
            })
            .collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let passed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(passed, 1, "round {round}: {outcomes:?}");
        let replayed = outcomes.iter().filter(|o| **o == Err(ReplayError::Replayed)).count();
        assert_eq!(replayed, THREADS - 1);
    }
    assert_eq!(store.count.load(Ordering::Relaxed), 50);
}

#[test]
fn it_is_remembered_to_the_edge_of_the_window_and_not_for_ever() {
    let store = MemoryStore::new(1, START);
    let one = proof(1, START);
    consume(&store, &one, START).unwrap();
    assert_eq!(consume(&store, &one, after(70)), Err(ReplayError::Replayed));
    assert_eq!(consume(&store, &one, after(71)), Err(ReplayError::Replayed));
    assert_eq!(consume(&store, &proof(2, after(71)), after(71)), Err(ReplayError::Full));
    assert_eq!(consume(&store, &proof(2, after(72)), after(72)), Ok(()));
    assert_eq!(store.count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_store_denies_what_is_new_and_keeps_what_is_live() {
    let store = MemoryStore::new(3, START);
    for jti in 0..3 {
        assert_eq!(consume(&store, &proof(jti, START), START), Ok(()));
    }
    for jti in 3..100 {
        assert_eq!(consume(&store, &proof(jti, START), START), Err(ReplayError::Full));
    }
    for jti in 0..3 {
        assert_eq!(consume(&store, &proof(jti, START), START), Err(ReplayError::Replayed));
    }
    // Room comes back with time, wherever it was taken.
    for jti in 3..6 {
        assert_eq!(consume(&store, &proof(jti, after(72)), after(72)), Ok(()), "{jti}");
    }
    assert_eq!(consume(&store, &proof(6, after(72)), after(72)), Err(ReplayError::Full));
}

#[test]
fn what_is_older_than_the_process_is_refused() {
    let store = MemoryStore::new(10, START);
    let before = START.saturating_sub(Duration::from_secs(1));
    assert_eq!(consume(&store, &proof(1, before), START), Err(ReplayError::BeforeStart));
    assert!(store.count.load(Ordering::Relaxed) == 0);
    // A nonce tells better than the client's clock, both ways.
    let hour = Duration::from_secs(3600);
    let known =
        |issued, nonce| VerifiedProof { nonce: PresentedNonce::Valid(nonce), ..proof(2, issued) };
    assert_eq!(consume(&store, &known(before.saturating_sub(hour), START), START), Ok(()));
    let refused = consume(&store, &known(START.saturating_add(hour), before), START);
    assert_eq!(refused, Err(ReplayError::BeforeStart));
}

#[test]
fn a_retry_of_the_same_check_is_no_replay_and_nothing_else_is_one() {
    let store = MemoryStore::new(10, START);
    let one = proof(1, START);
    let id = |caller, stream, message: &[u8]| CheckId::new(caller, stream, message);
    let ask = |check| store.consume(Use { proof: one.as_used(), check }, START);
    let envoy = Some("spiffe://td/gateway");
    let first = id(envoy, "7", b"message 7");
    assert!(first.is_some());
    assert_eq!(ask(first), Ok(()));
    assert_eq!(ask(first), Ok(()), "the same again");
    for (other, what) in [
        (id(Some("spiffe://td/sidecar"), "7", b"message 7"), "another caller"),
        (id(None, "7", b"message 7"), "a caller without a name"),
        (id(envoy, "7", b"message 8"), "another message"),
        (id(envoy, "", b"message 7"), "no stream id"),
        (None, "unknown"),
    ] {
        assert_eq!(ask(other), Err(ReplayError::Replayed), "{what}");
    }
    // What was used where retries cannot be told is not open to one that can.
    let two = proof(2, START);
    assert_eq!(consume(&store, &two, START), Ok(()));
    let later = store.consume(Use { proof: two.as_used(), check: first }, START);
    assert_eq!(later, Err(ReplayError::Replayed));
}

#[test]
fn each_error_has_its_reason() {
    let reasons = [
        (ReplayError::Replayed, Reason::DpopReplayed),
        (ReplayError::BeforeStart, Reason::DpopProofBeforeStart),
        (ReplayError::Full, Reason::DpopReplayStoreFull),
    ];
    for (error, reason) in reasons {
        assert_eq!(Reason::from(error), reason);
    }
}

proptest! {
    #[test]
    fn no_proof_passes_twice_while_it_could_be_accepted(
        steps in prop::collection::vec((0_u64..12, 0_u64..12), 1..200),
        capacity in 1_usize..12,
    ) {
        let store = MemoryStore::new(capacity, START);
        let mut now = START;
        let mut passed = HashSet::new();
        for (jti, wait) in steps {
            now = now.saturating_add(Duration::from_secs(wait));
            // One proof for each identifier and minute, as old as it can be.
            let minute = now.as_secs().div_euclid(60).saturating_mul(60);
            let proof = VerifiedProof {
                id: Thumbprint::of(&[jti.to_be_bytes(), minute.to_be_bytes()].concat()),
                ..proof(jti, UnixTime::from_secs(minute.max(START.as_secs())))
            };
            match consume(&store, &proof, now) {
                Ok(()) => prop_assert!(passed.insert(*proof.id.as_bytes())),
                Err(ReplayError::Replayed) => prop_assert!(passed.contains(proof.id.as_bytes())),
                Err(error) => prop_assert_eq!(error, ReplayError::Full),
            }
            prop_assert!(store.count.load(Ordering::Relaxed) <= capacity);
        }
    }
}
