//! Refreshing from a source whose answers are let go one by one.

use std::sync::{
    Arc as Shared,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::*;
use crate::{
    clock::{Clock as _, ManualClock, UnixTime},
    credential::testing::{Signer, document, jwks},
    trust::{Issuer, jwks::KeySetError},
};

/// A source of keys whose answers are let go one by one.
struct Source {
    gate: Shared<Semaphore>,
    fetches: Shared<AtomicUsize>,
    broken: Shared<AtomicUsize>,
    keys: Shared<Mutex<String>>,
}

impl Source {
    fn new(keys: String) -> Self {
        Self {
            gate: Shared::new(Semaphore::new(0)),
            fetches: Shared::default(),
            broken: Shared::default(),
            keys: Shared::new(Mutex::new(keys)),
        }
    }

    fn fetch(&self) -> Fetch {
        let (gate, fetches) = (Shared::clone(&self.gate), Shared::clone(&self.fetches));
        let (broken, keys) = (Shared::clone(&self.broken), Shared::clone(&self.keys));
        Box::new(move || {
            fetches.fetch_add(1, Ordering::SeqCst);
            let (gate, broken) = (Shared::clone(&gate), Shared::clone(&broken));
            let keys = keys.lock().unwrap().clone();
            Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                match broken.load(Ordering::SeqCst) {
                    0 => {}
                    PANICS => panic!("the source panics"),
                    _ => return Err(KeysError::KeySet(KeySetError::Malformed)),
                }
                Ok(KeySet::parse(keys.as_bytes())?)
            })
        })
    }

    fn let_go(&self) {
        self.gate.add_permits(1);
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

/// What [`Source::broken`] is where fetching is to panic.
const PANICS: usize = 2;

/// No fetch but the first and those that are asked for.
const ASKED_ONLY: Pace = Pace {
    interval: Duration::from_secs(3600),
    first_backoff: Duration::from_secs(3600),
    between_asked: Duration::from_secs(3600),
};

struct World {
    source: Source,
    clock: Arc<ManualClock>,
    issuer: Issuer,
}

impl World {
    fn new(pace: Pace) -> Self {
        let source = Source::new(jwks(&[&Signer::es256("k1")]));
        let clock = Arc::new(ManualClock::at(1_000));
        let store = Arc::<KeyStore>::default();
        let refresher = Refresher::start(
            "corp".into(),
            Arc::clone(&store),
            source.fetch(),
            None,
            pace,
            Arc::<ManualClock>::clone(&clock),
            &Handle::current(),
        );
        Self { source, clock, issuer: Issuer::new(document(), store, Some(refresher)) }
    }

    async fn first_fetch(&self) {
        let fetch = self.issuer.refetch().expect("the first fetch is under way");
        self.source.let_go();
        fetch.0.await;
    }

    fn has_keys(&self) -> bool {
        self.issuer.keys(self.clock.now()).is_some()
    }
}

#[tokio::test]
async fn checks_before_the_first_keys_wait_for_the_first_fetch() {
    let world = World::new(ASKED_ONLY);
    assert!(!world.has_keys());
    assert_eq!(world.issuer.key_age(world.clock.now()), None);
    world.first_fetch().await;
    assert!(world.has_keys());
    assert_eq!(world.source.fetches(), 1);
    assert_eq!(world.issuer.key_age(UnixTime::from_secs(1_007)), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_and_then_none_for_a_while() {
    let world = World::new(ASKED_ONLY);
    world.first_fetch().await;
    let waiting: Vec<_> = (0..MAX_WAITING).map(|_| world.issuer.refetch().unwrap().0).collect();
    assert!((0..1_000).all(|_| world.issuer.refetch().is_none()), "more do not wait");
    assert!(world.has_keys(), "tokens with known keys are not held up");
    world.source.let_go();
    futures_util::future::join_all(waiting).await;
    assert_eq!(world.source.fetches(), 2);
    assert!((0..1_000).all(|_| world.issuer.refetch().is_none()));
    assert_eq!(world.source.fetches(), 2);
}

#[tokio::test]
async fn checks_that_gave_up_leave_their_places_to_others() {
    let world = World::new(ASKED_ONLY);
    for _ in 0..3 {
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| world.issuer.refetch().unwrap()).collect();
        assert!(world.issuer.refetch().is_none());
        drop(waiting);
    }
    world.first_fetch().await;
}

#[tokio::test]
async fn a_fetch_that_panics_is_a_failure_and_the_refresh_goes_on() {
    let world = World::new(Pace { between_asked: Duration::ZERO, ..ASKED_ONLY });
    world.source.broken.store(PANICS, Ordering::SeqCst);
    world.first_fetch().await;
    assert_eq!(world.issuer.last_error().as_deref(), Some("fetching the keys panicked"));
    assert!(!world.has_keys());
    world.source.broken.store(0, Ordering::SeqCst);
    world.first_fetch().await;
    assert!(world.has_keys());
}

#[tokio::test]
async fn every_failure_is_counted_also_the_same_one_again() {
    let world = World::new(Pace { between_asked: Duration::ZERO, ..ASKED_ONLY });
    for (broken, failures) in [(1, 1), (1, 2), (PANICS, 3), (0, 3)] {
        world.source.broken.store(broken, Ordering::SeqCst);
        world.first_fetch().await;
        assert_eq!(world.issuer.failures(), failures);
    }
}

#[tokio::test]
async fn keys_are_as_old_as_the_question_not_as_the_answer() {
    let world = World::new(ASKED_ONLY);
    let fetch = world.issuer.refetch().unwrap();
    while world.source.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    world.clock.advance(Duration::from_secs(5));
    world.source.let_go();
    fetch.0.await;
    assert_eq!(world.issuer.key_age(world.clock.now()), Some(Duration::from_secs(5)));
}

#[tokio::test]
async fn checks_may_ask_again_after_the_while() {
    let world = World::new(Pace { between_asked: Duration::ZERO, ..ASKED_ONLY });
    world.first_fetch().await;
    for fetches in 2..5 {
        let fetch = world.issuer.refetch().unwrap();
        world.source.let_go();
        fetch.0.await;
        assert_eq!(world.source.fetches(), fetches);
    }
}

#[tokio::test]
async fn failures_keep_the_last_good_keys_up_to_their_maximum_age() {
    let world = World::new(Pace { between_asked: Duration::ZERO, ..ASKED_ONLY });
    world.first_fetch().await;
    let version = world.issuer.key_version(world.clock.now());
    world.source.broken.store(1, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(86_400));
    let fetch = world.issuer.refetch().unwrap();
    world.source.let_go();
    fetch.0.await;
    assert_eq!(
        world.issuer.last_error().as_deref(),
        Some("the key set is not a JSON object with an array `keys`")
    );
    assert_eq!(world.issuer.key_version(world.clock.now()), version);
    world.clock.advance(Duration::from_secs(1));
    assert!(!world.has_keys(), "they are too old now");
    assert!(world.issuer.last_keys().is_some(), "and still shown");

    world.source.broken.store(0, Ordering::SeqCst);
    let fetch = world.issuer.refetch().unwrap();
    world.source.let_go();
    fetch.0.await;
    assert!(world.has_keys());
    assert_eq!(world.issuer.last_error(), None);
    assert_eq!(world.issuer.key_version(world.clock.now()), version, "the same keys as before");
}

#[tokio::test]
async fn other_keys_are_another_version() {
    let world = World::new(Pace { between_asked: Duration::ZERO, ..ASKED_ONLY });
    world.first_fetch().await;
    let version = world.issuer.key_version(world.clock.now());
    *world.source.keys.lock().unwrap() = jwks(&[&Signer::es256("k2")]);
    let fetch = world.issuer.refetch().unwrap();
    world.source.let_go();
    fetch.0.await;
    assert_ne!(world.issuer.key_version(world.clock.now()), version);
}

#[tokio::test]
async fn keys_are_fetched_again_without_being_asked_for() {
    let pace = Pace { interval: Duration::from_millis(1), ..ASKED_ONLY };
    let world = World::new(pace);
    world.source.gate.add_permits(5);
    while world.source.fetches() < 5 {
        tokio::task::yield_now().await;
    }
    assert!(world.has_keys());
}

#[tokio::test]
async fn an_issuer_that_is_dropped_stops_to_fetch_and_lets_waiting_checks_go() {
    let world = World::new(ASKED_ONLY);
    let waiting = world.issuer.refetch().unwrap();
    drop(world.issuer);
    waiting.0.await;
    assert!(world.source.fetches() <= 1);
    assert_eq!(Shared::strong_count(&world.source.fetches), 1, "the task is gone");
}

#[test]
fn the_pace_backs_off_after_failures_and_stays_within_the_age() {
    let pace = Pace::for_max_age(Duration::from_secs(86_400));
    let seconds: Vec<_> = (0..9).map(|failures| pace.delay(failures).as_secs()).collect();
    assert_eq!(seconds, [300, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pace.delay(u32::MAX), LAST_BACKOFF);
    assert_eq!(Pace::for_max_age(Duration::from_secs(60)).delay(0).as_secs(), 30);
    assert_eq!(Pace::for_max_age(Duration::ZERO).delay(0), FIRST_BACKOFF);
}
