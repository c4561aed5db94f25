//! Two processes of the built program that share one real Redis: behind one real Envoy, and asked over gRPC as
//! Envoy asks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "redis/world.rs"]
mod world;

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use tokio::{sync::Barrier, time::Instant};
use world::{Ask, Symbolon, World};

const REPLAYED: &str = "dpop_replayed";
const UNAVAILABLE: &str = "dpop_replay_store_unavailable";
/// As many at once as a busy Envoy asks.
const AT_ONCE: usize = 32;

fn count(reasons: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    counts
}

fn only(reason: &str, number: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(reason.to_owned(), number)])
}

/// Asks for all, so many at once.
async fn ask_all(at: &Symbolon, asks: &[Ask]) -> BTreeMap<String, usize> {
    count(stream::iter(asks).map(|ask| at.ask(ask)).buffered(AT_ONCE).collect::<Vec<_>>().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_proofs_that_one_accepts_are_refused_by_the_other() {
    let world = World::start(&[]).await;
    let [first, second] = world.both();
    // Made and used in rounds, as a proof is good for a minute.
    for round in 0..20 {
        let asks: Vec<_> = (0..500).map(|_| world.client.fresh()).collect();
        let (at, other) = if round % 2 == 0 { (first, second) } else { (second, first) };
        assert_eq!(ask_all(at, &asks).await, only("allowed", 500));
        assert_eq!(ask_all(other, &asks).await, only(REPLAYED, 500));
    }
    let asks: Vec<_> = (0..10).map(|_| world.client.fresh()).collect();
    assert_eq!(ask_all(first, &asks).await, only("allowed", 10));
    assert_eq!(ask_all(first, &asks).await, only(REPLAYED, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_one_envoy_each_of_ten_thousand_proofs_passes_once() {
    const PROOFS: usize = 10_000;
    /// Envoy asks the processes in turn: a proof that is sent so often meets both.
    const TIMES: usize = 3;
    let mut world = World::start(&[]).await;
    let front = world.behind_envoy().await;
    let callers = (0..AT_ONCE).map(async |_| {
        let mut connection = front.connect().await;
        for _ in 0..PROOFS.div_ceil(AT_ONCE) {
            let call = world.client.fresh().call();
            let mut statuses = Vec::new();
            for _ in 0..TIMES {
                statuses.push(connection.call(&call).await.unwrap().status);
            }
            assert_eq!(statuses, [200, 401, 401]);
        }
    });
    join_all(callers).await;
    for at in world.both() {
        // A third of all allowed, two thirds replayed: each has its share of both.
        for reason in ["allowed", REPLAYED] {
            assert!(at.decided(reason).await > PROOFS / 4, "{reason}");
        }
    }
    // And what the one has accepted, the other refuses while Redis is away and when it is back.
    let used = world.client.fresh().call();
    let bearer = world.client.bearer().call();
    let mut connection = front.connect().await;
    assert_eq!(connection.call(&used).await.unwrap().status, 200);
    world.redis.kill();
    for _ in 0..4 {
        assert_eq!(connection.call(&used).await.unwrap().status, 503);
        assert_eq!(connection.call(&bearer).await.unwrap().status, 200);
    }
    world.redis.start();
    for at in world.both() {
        at.until_allowed(&world.client).await;
    }
    for _ in 0..4 {
        assert_eq!(connection.call(&used).await.unwrap().status, 401);
        let fresh = world.client.fresh().call();
        assert_eq!(connection.call(&fresh).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_replay_one_proof_at_two_processes_at_once_exactly_one_passes() {
    const CALLERS: usize = 64;
    let world = World::start(&[]).await;
    for _round in 0..20 {
        let ask = world.client.fresh();
        let barrier = Barrier::new(CALLERS);
        let callers = (0..CALLERS).map(|caller| {
            let at = world.both()[caller % 2];
            // Each as a request of its own.
            let ask = Ask { stream: format!("stream-{caller}"), ..ask.clone() };
            let barrier = &barrier;
            async move {
                barrier.wait().await;
                at.ask(&ask).await
            }
        });
        let mut expected = only(REPLAYED, CALLERS - 1);
        expected.insert("allowed".to_owned(), 1);
        assert_eq!(count(join_all(callers).await), expected);
    }
}

#[tokio::test]
async fn envoys_retry_of_a_check_is_no_replay_at_the_other_process() {
    let world = World::start(&[]).await;
    let [first, second] = world.both();
    let ask = Ask { stream: "stream-1".to_owned(), ..world.client.fresh() };
    assert_eq!(first.ask(&ask).await, "allowed");
    assert_eq!(second.ask(&ask).await, "allowed");
    let again = Ask { stream: "stream-2".to_owned(), ..ask.clone() };
    assert_eq!(second.ask(&again).await, REPLAYED);
    // Without Envoy's id nothing is a retry.
    let nameless = Ask { stream: String::new(), ..world.client.fresh() };
    assert_eq!(first.ask(&nameless).await, "allowed");
    assert_eq!(first.ask(&nameless).await, REPLAYED);
}

#[tokio::test]
async fn a_check_that_is_denied_uses_no_proof_up() {
    let world = World::start(&[]).await;
    let [first, second] = world.both();
    let keys = world.redis.keys();
    let mut ask = world.client.fresh_for("/scoped");
    assert_eq!(first.ask(&ask).await, "scope_missing");
    ask.proof = Some("nonsense".to_owned());
    assert_eq!(second.ask(&ask).await, "dpop_proof_malformed");
    assert_eq!(world.redis.keys(), keys);
    assert_eq!(first.ask(&world.client.fresh()).await, "allowed");
    assert_eq!(world.redis.keys(), keys + 1);
    assert!(world.redis.all_expire(), "used proofs are not kept for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_killed_and_started_again_no_replay_passes_and_the_rest_goes_on() {
    let mut world = World::start(&[]).await;
    let mut used = Vec::new();
    let mut reasons = BTreeMap::<String, usize>::new();
    let started = Instant::now();
    let (mut killed, mut restarted) = (None::<Instant>, None);
    // Load, with the kill in the middle of it, until both processes allow again.
    loop {
        if killed.is_none() && used.len() > 200 {
            world.redis.kill();
            killed = Some(Instant::now());
        }
        let is_over = killed.is_some_and(|since| since.elapsed() > Duration::from_secs(1));
        if is_over && restarted.is_none() {
            world.redis.start();
            restarted = Some(used.len());
        }
        let asks: Vec<_> = (0..16).map(|_| world.client.fresh()).collect();
        let answers = join_all(asks.iter().map(|ask| async {
            let [first, second] = world.both();
            // Beside it what needs no Redis.
            let (bearer, bound) = (world.client.bearer(), world.client.bound());
            let (proof, replay, bearer, bound) = tokio::join!(
                first.ask(ask),
                async {
                    // The same proof elsewhere: at most one of the two may pass.
                    second.ask(&Ask { stream: "other".to_owned(), ..ask.clone() }).await
                },
                second.ask(&bearer),
                first.ask(&bound),
            );
            assert_eq!((&*bearer, &*bound), ("allowed", "allowed"));
            [proof, replay]
        }));
        let answers = answers.await;
        for (ask, both) in asks.into_iter().zip(&answers) {
            let passed = both.iter().filter(|reason| *reason == "allowed").count();
            assert!(passed <= 1, "one proof passed twice: {both:?}");
            for reason in both {
                *reasons.entry(reason.clone()).or_default() += 1;
            }
            if passed == 1 {
                used.push(ask);
            }
        }
        if restarted.is_some_and(|before| used.len() > before + 200) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it does not heal: {reasons:?}");
    }
    assert!(reasons[UNAVAILABLE] > 0, "{reasons:?}");
    let known = ["allowed", REPLAYED, UNAVAILABLE, "dpop_proof_before_start"];
    assert!(reasons.keys().all(|reason| known.contains(&&**reason)), "{reasons:?}");
    // Redis had no file: it forgot all that was used before. None of that passes again, at either.
    for at in world.both() {
        let replays = ask_all(at, &used).await;
        assert_eq!(replays.get("allowed"), None, "{replays:?}");
        assert_eq!(replays.values().sum::<usize>(), used.len());
    }
    for at in world.both() {
        // One of them is enough for the load to have gone on.
        at.until_up().await;
        assert_ne!(at.metric("symbolon_replay_store_errors_total").await, "0");
    }
}

#[tokio::test]
async fn a_redis_that_hangs_denies_in_time_and_is_told_of() {
    let world = World::start_in_haste().await;
    let [first, _] = world.both();
    world.redis.signal("STOP");
    let asked = Instant::now();
    assert_eq!(first.ask(&world.client.fresh()).await, UNAVAILABLE);
    // It has 50 ms of its own; the check has ten seconds.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(first.ask(&world.client.bearer()).await, "allowed");
    first.until_down("it does not answer in time").await;
    assert_eq!(first.ask(&world.client.fresh()).await, UNAVAILABLE);
    world.redis.signal("CONT");
    first.until_up().await;
    first.until_allowed(&world.client).await;
}

#[tokio::test]
async fn a_redis_that_may_forget_is_refused_and_also_later() {
    let world = World::start_without_waiting(&["--maxmemory-policy", "allkeys-lru"]).await;
    let [first, second] = world.both();
    first.until_down("its `maxmemory-policy` is `allkeys-lru`").await;
    assert_eq!(first.ask(&world.client.fresh()).await, UNAVAILABLE);
    assert_eq!(first.ask(&world.client.bearer()).await, "allowed");
    world.redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    first.until_up().await;
    second.until_up().await;
    first.until_allowed(&world.client).await;
    world.redis.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    first.until_down("its `maxmemory-policy` is `volatile-ttl`").await;
    assert_eq!(first.ask(&world.client.fresh()).await, UNAVAILABLE);
}

#[tokio::test]
async fn a_redis_that_was_emptied_does_not_let_used_proofs_pass() {
    let world = World::start(&[]).await;
    let [first, second] = world.both();
    let ask = world.client.fresh();
    assert_eq!(first.ask(&ask).await, "allowed");
    world.redis.command(&["FLUSHALL"]);
    let reason = second.ask(&ask).await;
    assert!([UNAVAILABLE, "dpop_proof_before_start"].contains(&&*reason), "{reason}");
    second.until_allowed(&world.client).await;
    assert_ne!(second.ask(&Ask { stream: "again".to_owned(), ..ask }).await, "allowed");
}

#[tokio::test]
async fn a_redis_without_room_denies_and_forgets_nothing() {
    let world = World::start(&[]).await;
    let [first, second] = world.both();
    let ask = world.client.fresh();
    assert_eq!(first.ask(&ask).await, "allowed");
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(first.ask(&world.client.fresh()).await, "dpop_replay_store_full");
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(second.ask(&ask).await, REPLAYED);
    first.until_allowed(&world.client).await;
}

#[tokio::test]
async fn credentials_are_files_that_are_read_again_and_a_user_needs_few_rights() {
    let rights = "~symbolon:dpop:* +set +get +info +auth +hello +ping";
    let world = World::start_with_user("proofs", "right", rights).await;
    let [first, _] = world.both();
    first.until_down("Password authentication failed").await;
    assert_eq!(first.ask(&world.client.fresh()).await, UNAVAILABLE);
    assert_eq!(first.ask(&world.client.bearer()).await, "allowed");
    world.write_password("right\n");
    first.until_up().await;
    first.until_allowed(&world.client).await;
    let log = first.log();
    assert!(!log.contains("\"wrong\"") && !log.contains("right"), "{log}");
}

#[tokio::test]
async fn over_tls_only_the_named_authority_is_believed() {
    let world = World::start_over_tls().await;
    let [first, second] = world.both();
    first.until_up().await;
    first.until_allowed(&world.client).await;
    // The second has another authority's certificate.
    second.until_down("certificate").await;
    assert_eq!(second.ask(&world.client.fresh()).await, UNAVAILABLE);
}

#[tokio::test]
async fn what_redis_knows_outlives_the_processes_that_wrote_it() {
    let mut world = World::start(&[]).await;
    let ask = world.client.fresh();
    assert_eq!(world.both()[0].ask(&ask).await, "allowed");
    world.restart_processes().await;
    assert_eq!(world.both()[0].ask(&ask).await, REPLAYED);
    assert_eq!(world.both()[0].ask(&world.client.fresh()).await, "allowed");
}
