//! Keeping an issuer's keys fresh: in the background, and when a token names a key that is not there.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use crate::{
    clock::SharedClock,
    trust::{
        Refetch,
        discovery::KeysError,
        issuer::{KeyStore, Keys},
        jwks::KeySet,
        saved::SavedKeys,
    },
};

/// How often keys are fetched while all is well; the rate that SPIFFE bundles use by default too.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A spread of a tenth each way, so that replicas do not ask together.
const JITTER: std::ops::Range<f64> = 0.9..1.1;
/// After a first failure; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// An issuer that heals is noticed within this.
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// Tokens with made-up key names cause at most one fetch in this time.
const BETWEEN_ASKED: Duration = Duration::from_secs(10);
/// So many checks may wait for one issuer's keys: an eighth of those that may be in flight by default, so
/// that an issuer that does not answer leaves room for the tokens of the others.
const MAX_WAITING: usize = 512;

/// When keys are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After a success.
    interval: Duration,
    /// After a first failure.
    first_backoff: Duration,
    /// Between two fetches that checks asked for.
    between_asked: Duration,
}

impl Pace {
    /// Returns the pace for keys that may be used for `max_age`: they are fetched well before that.
    pub(super) fn for_max_age(max_age: Duration) -> Self {
        let half = max_age.checked_div(2).unwrap_or(max_age);
        Self {
            interval: INTERVAL.min(half).max(FIRST_BACKOFF),
            first_backoff: FIRST_BACKOFF,
            between_asked: BETWEEN_ASKED,
        }
    }

    /// Returns how long after the last of `failures` in a row, or after a success, the next fetch is.
    fn delay(self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => self.interval,
            // Far fewer doublings than 16 reach the last backoff.
            Some(doublings) => {
                let factor = 2_u32.saturating_pow(doublings.min(16));
                self.first_backoff.saturating_mul(factor).min(LAST_BACKOFF)
            }
        }
    }
}

/// Fetches a key set once.
pub(super) type Fetch =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<KeySet, KeysError>> + Send>> + Send + Sync>;

/// The background refresh of one issuer; it ends when this is dropped.
pub(super) struct Refresher {
    shared: Arc<Shared>,
    between_asked: Duration,
    task: AbortHandle,
}

/// What checks and the refreshing task share.
struct Shared {
    wanted: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    gate: Mutex<Gate>,
    /// Checks that wait. Apart from the rest, whose end is what they wait for, too.
    waiting: Arc<AtomicUsize>,
}

/// Held for a few instructions only, and only by checks that miss a key.
struct Gate {
    /// Whether a fetch is under way or about to be.
    busy: bool,
    /// When a check last caused one.
    asked: Option<Instant>,
}

impl Refresher {
    /// Starts to refresh `store` on `background`, at once and then regularly.
    pub(super) fn start(
        issuer: Arc<str>,
        store: Arc<KeyStore>,
        fetch: Fetch,
        saved: Option<SavedKeys>,
        pace: Pace,
        clock: SharedClock,
        background: &Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            gate: Mutex::new(Gate { busy: true, asked: None }),
            waiting: Arc::default(),
        });
        let task = background
            .spawn(run(Arc::clone(&shared), issuer, store, (fetch, saved), pace, clock))
            .abort_handle();
        Self { shared, between_asked: pace.between_asked, task }
    }

    /// Returns the fetch that is under way, or causes one unless a check did so too short
    /// a time ago. `None` also where [`MAX_WAITING`] checks wait already.
    pub(super) fn ask(&self) -> Option<Refetch> {
        let waiting = Waiting::enter(&self.shared.waiting)?;
        let mut gate = self.shared.gate();
        if !gate.busy {
            let now = Instant::now();
            if gate.asked.is_some_and(|asked| now.duration_since(asked) < self.between_asked) {
                return None;
            }
            *gate = Gate { busy: true, asked: Some(now) };
            self.shared.wanted.notify_one();
        }
        // Within the gate, so that the end of this very fetch is not missed.
        let mut ended = self.shared.ended.subscribe();
        drop(gate);
        // An error says that the issuer is gone: nothing more to wait for.
        Some(Refetch(Box::pin(async move {
            let _until_the_end = waiting;
            ended.changed().await.unwrap_or_default();
        })))
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").finish_non_exhaustive()
    }
}

/// A check that waits, counted as long as it does.
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// `None` where [`MAX_WAITING`] wait already.
    pub(super) fn enter(count: &Arc<AtomicUsize>) -> Option<Self> {
        let this = Self(Arc::clone(count));
        // One too many is counted out again when it is dropped.
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(this)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        self.gate().busy = true;
    }

    fn end(&self) {
        let mut gate = self.gate();
        gate.busy = false;
        self.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

async fn run(
    shared: Arc<Shared>,
    issuer: Arc<str>,
    store: Arc<KeyStore>,
    (fetch, saved): (Fetch, Option<SavedKeys>),
    pace: Pace,
    clock: SharedClock,
) {
    let mut failures: u32 = 0;
    loop {
        shared.begin();
        // Keys are as old as the question, not as the answer.
        let asked = clock.now();
        // A panic in reading what the host sent is one more failure: were it the end of the refresh, keys
        // would go out of date for good, and checks wait for a fetch that never ends.
        let mut fresh = None;
        let fetched = AssertUnwindSafe(async { fetch().await }).catch_unwind().await;
        let error = match fetched {
            Ok(Ok(set)) => {
                if failures > 0 {
                    tracing::info!(issuer = %issuer, failures, "the issuer's keys are had again");
                }
                let keys = store.install(set, asked);
                failures = 0;
                fresh = Some(keys);
                None
            }
            Ok(Err(error)) => Some(chain(&error)),
            Err(_panic) => Some("fetching the keys panicked".to_owned()),
        };
        if let Some(error) = error {
            failures = failures.saturating_add(1);
            if store.fail(error.clone()) {
                tracing::warn!(issuer = %issuer, error, "cannot refresh the issuer's keys");
            }
        }
        shared.end();
        // Behind the end: no check waits for a disk.
        if let (Some(keys), Some(saved)) = (fresh, &saved) {
            save(&issuer, &store, keys, saved.clone()).await;
        }
        let delay = pace.delay(failures).mul_f64(rand::random_range(JITTER));
        // Whether the time ran out or a check asked: the next thing is a fetch.
        timeout(delay, shared.wanted.notified()).await.unwrap_or_default();
    }
}

/// Saves keys for the next start; that it fails is told once.
async fn save(issuer: &str, store: &KeyStore, keys: Arc<Keys>, saved: SavedKeys) {
    let saving = move || saved.save(&keys.set, keys.fetched);
    let error = match tokio::task::spawn_blocking(saving).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(error) => Some(error.to_string()),
    };
    if store.saved(error.clone())
        && let Some(error) = error
    {
        tracing::warn!(
            issuer,
            error,
            "cannot save the issuer's keys to `stateDir`: a restart would be without them"
        );
    }
}

/// Returns the error with its causes, on one line: reqwest's own text stops at "error sending request".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
