//! Watches, loads, validates; swaps, or keeps the last known good.
//!
//! Correctness rests on reading everything again every `poll`; events of the file system and SIGHUP
//! only make it sooner. So what lies on disk last ends up live, whatever a watcher missed. Nothing of
//! this runs on a thread that answers checks, and the swap itself is one pointer.

mod status;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, watch as cell},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout},
};

pub use self::status::{LoadFailure, ReloadStatus};
use self::watch::Watch;
use crate::{
    clock::SharedClock,
    diagnostic::Diagnostics,
    policy::load::{Loaded, load},
    snapshot::{
        Generation, Snapshot, SnapshotStore,
        source::{SourceTree, read},
    },
    telemetry::metrics::{Metrics, ReloadOutcome},
};

/// How long the directory must be quiet after an event before it is read: an editor or a `cp` of
/// several files is then mostly done.
const QUIET: Duration = Duration::from_millis(100);

/// The longest wait for quiet: a directory that is written to all the time is read all the same.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How soon a directory that someone is at work in is read again.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// How long a directory may be busy before that counts as a failure: longer than a pull takes. A lock
/// left behind by a killed Git stays.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// What a load brings forth.
#[derive(Debug)]
pub struct Built {
    /// To go live.
    pub snapshot: Snapshot,
    /// YAML files without a document of ours.
    pub skipped: Vec<Arc<str>>,
}

/// Makes a snapshot of what lies on disk, or says what is wrong with it. May block; runs off the
/// request path, within the runtime's context.
pub type Build = Arc<dyn Fn(&SourceTree, Generation) -> Result<Built, Diagnostics> + Send + Sync>;

/// Returns the [`Build`] of a server: [`load`], then `finish`, which brings in what lives longer than
/// one load (the issuers with their keys).
pub fn build_with<F>(owned_headers: Vec<String>, finish: F) -> Build
where
    F: Fn(Loaded, Generation) -> Result<Snapshot, Diagnostics> + Send + Sync + 'static,
{
    Arc::new(move |tree, generation| {
        let mut loaded = load(tree, &owned_headers)?;
        let skipped = std::mem::take(&mut loaded.skipped);
        Ok(Built { snapshot: finish(loaded, generation)?, skipped })
    })
}

/// What a [`Reloader`] works with.
pub struct Reloader {
    /// The policy directory.
    pub dir: PathBuf,
    /// How often it is read again though nobody said that it changed.
    pub poll: Duration,
    /// Whether the file system is asked for events; without, only polling and triggers are left.
    pub watch: bool,
    /// Where snapshots go live.
    pub store: Arc<SnapshotStore>,
    /// Dates the generations.
    pub clock: SharedClock,
    /// Counts the reloads.
    pub metrics: Arc<Metrics>,
    /// Makes the snapshots.
    pub build: Build,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A reloader at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Reloading {
    trigger: Arc<Notify>,
    status: cell::Receiver<Arc<ReloadStatus>>,
    task: JoinHandle<()>,
}

impl Reloading {
    /// Has the directory read now (SIGHUP).
    pub fn trigger(&self) {
        self.trigger.notify_one();
    }

    /// Returns what is live and what went wrong.
    #[must_use]
    pub fn status(&self) -> Arc<ReloadStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Returns the status to wait on: it is told of every change.
    #[must_use]
    pub fn subscribe(&self) -> cell::Receiver<Arc<ReloadStatus>> {
        self.status.clone()
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reloader {
    /// Starts reading and watching on the current runtime. The first load is tried at once; until one
    /// succeeds nothing is live.
    #[must_use]
    pub fn start(self) -> Reloading {
        let (status, receiver) = cell::channel(Arc::new(ReloadStatus::default()));
        let trigger = Arc::new(Notify::new());
        let worker = Worker {
            watch: Watch::new(self.watch),
            spec: self,
            status,
            retired: None,
            busy: None,
            live: None,
        };
        let task = tokio::spawn(worker.run(Arc::clone(&trigger)));
        Reloading { trigger, status: receiver, task }
    }
}

struct Worker {
    spec: Reloader,
    watch: Watch,
    status: cell::Sender<Arc<ReloadStatus>>,
    live: Option<Arc<Snapshot>>,
    /// The snapshot before: dropped by us and not by a check that happens to be its last holder, as
    /// freeing a large one takes its time.
    retired: Option<Arc<Snapshot>>,
    /// Since when someone is at work in the directory.
    busy: Option<Instant>,
}

impl Worker {
    async fn run(mut self, trigger: Arc<Notify>) {
        loop {
            // A panic is a failure like others: were it the end of this task, what is live would stay so
            // for good, and nobody would be told.
            if AssertUnwindSafe(self.attempt()).catch_unwind().await.is_err() {
                self.fail(None, "reloading panicked");
            }
            let pause =
                if self.is_busy() { BUSY_RETRY.min(self.spec.poll) } else { self.spec.poll };
            tokio::select! {
                () = sleep(pause) => {}
                () = trigger.notified() => {}
                () = self.watch.changed() => self.settle().await,
            }
        }
    }

    /// Returns whether someone is at work in the directory, and not for too long.
    fn is_busy(&self) -> bool {
        self.busy.is_some_and(|since| since.elapsed() < BUSY_LIMIT)
    }

    /// Waits until the directory is quiet.
    async fn settle(&mut self) {
        let quiet = async { while timeout(QUIET, self.watch.changed()).await.is_ok() {} };
        // Either way it is time to read.
        timeout(MAX_WAIT, quiet).await.unwrap_or_default();
    }

    /// Reads the directory once and does what it asks for.
    async fn attempt(&mut self) {
        self.retired = None;
        let dir = self.spec.dir.clone();
        let mut watch = std::mem::take(&mut self.watch);
        let read = spawn_blocking(move || {
            // Watching begins before reading: what changes after it was read is told.
            watch.arm(&dir);
            (watch, panic::catch_unwind(|| read(&dir)))
        });
        let (watch, read) = match read.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => {
                self.watch = Watch::new(self.spec.watch);
                return self.fail(None, "watching the directory panicked");
            }
            Err(_shutdown) => return,
        };
        self.watch = watch;
        match read {
            Ok(Ok(tree)) => {
                self.busy = None;
                self.apply(tree).await;
            }
            Ok(Err(error)) => {
                let now = Instant::now();
                self.busy = error.is_busy().then(|| self.busy.unwrap_or(now));
                if !self.is_busy() {
                    self.fail(None, &status::render_error(&error));
                }
            }
            Err(_panic) => self.fail(None, "reading the directory panicked"),
        }
    }

    async fn apply(&mut self, tree: SourceTree) {
        let live = self.live.as_ref().map(|snapshot| &snapshot.generation);
        let same = live.is_some_and(|live| *live.hash == tree.hash);
        let label = tree.commit.as_deref();
        if same && live.is_some_and(|live| live.commit.as_deref() == label) {
            self.status.send_if_modified(|status| {
                let cleared = status.last_error.is_some();
                if cleared {
                    Arc::make_mut(status).last_error = None;
                    self.spec.metrics.policy_failing(false);
                    tracing::info!("the policy directory holds what is live again");
                }
                cleared
            });
            return;
        }
        let number = live.map_or(0, |live| live.number);
        let now = self.spec.clock.now();
        let generation = Generation {
            // Git moves its refs after the files: the commit may come later than the content it
            // labels, and is then put in without counting as a load.
            number: if same { number } else { number.saturating_add(1) },
            hash: tree.hash.as_str().into(),
            commit: label.map(Into::into),
            loaded: live.filter(|_| same).map_or(now, |live| live.loaded),
        };
        let hash = tree.hash.clone();
        let build = Arc::clone(&self.spec.build);
        match spawn_blocking(move || build(&tree, generation)).await {
            Ok(Ok(made)) => self.swap(made, same),
            Ok(Err(diagnostics)) => self.fail(Some(hash), &status::render(&diagnostics)),
            Err(error) if error.is_panic() => self.fail(Some(hash), "loading panicked"),
            Err(_shutdown) => {}
        }
    }

    fn swap(&mut self, built: Built, relabelled: bool) {
        let snapshot = Arc::new(built.snapshot);
        self.spec.store.store(Arc::clone(&snapshot));
        let generation = snapshot.generation.clone();
        self.retired = self.live.replace(Arc::clone(&snapshot));
        self.spec.metrics.policy_live(&generation);
        self.spec.metrics.policy_rules(snapshot.policies.rule_count());
        self.spec.metrics.policy_failing(false);
        if !relabelled {
            self.spec.metrics.reload(ReloadOutcome::Loaded);
        }
        tracing::info!(
            generation = generation.number,
            hash = %generation.hash,
            commit = generation.commit.as_deref(),
            skipped = ?built.skipped,
            "policies are live"
        );
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.live = Some(generation);
            status.last_error = None;
            status.skipped = built.skipped;
            if !relabelled {
                status.loaded = status.loaded.saturating_add(1);
            }
        });
    }

    /// Keeps the last known good. A failure is counted and logged once, however often it is met.
    fn fail(&self, hash: Option<String>, diagnostics: &str) {
        let since = self.spec.clock.now();
        self.status.send_if_modified(|status| {
            let known = status.last_error.as_ref();
            if known
                .is_some_and(|e| e.hash == hash && (hash.is_some() || e.diagnostics == diagnostics))
            {
                return false;
            }
            self.spec.metrics.reload(ReloadOutcome::Failed);
            self.spec.metrics.policy_failing(true);
            let kept = match status.live {
                Some(_) => "what is live stays",
                None => "nothing is live, every check is denied",
            };
            tracing::error!(
                hash,
                live = status.live.as_ref().map(|live| live.number),
                diagnostics,
                "the policy directory cannot be loaded; {kept}"
            );
            let status = Arc::make_mut(status);
            status.failed = status.failed.saturating_add(1);
            status.last_error =
                Some(LoadFailure { hash, diagnostics: diagnostics.to_owned(), since });
            true
        });
    }
}
