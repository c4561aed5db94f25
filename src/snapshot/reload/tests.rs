//! Reloading against real directories: what lies on disk last is what ends up live.

#![expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::{Build, Built, ReloadStatus, Reloader, Reloading};
use crate::{
    clock::ManualClock,
    diagnostic::{At, Diagnostic, Diagnostics},
    policy::index::PolicySet,
    snapshot::{Snapshot, SnapshotStore, source::read},
    telemetry::metrics::Metrics,
    trust::Trust,
};

/// Ends a wait that should never be needed.
const LONG: Duration = Duration::from_secs(30);

/// So rare that no test waits for it: what goes live then came by an event.
const NEVER: Duration = Duration::from_secs(3600);

const OFTEN: Duration = Duration::from_millis(20);

struct Fixture {
    temp: TempDir,
    dir: PathBuf,
    store: Arc<SnapshotStore>,
    metrics: Arc<Metrics>,
    builds: Arc<AtomicUsize>,
    reloading: Reloading,
}

fn refuses_broken(builds: Arc<AtomicUsize>) -> Build {
    Arc::new(move |tree, generation| {
        builds.fetch_add(1, Ordering::SeqCst);
        let broken = tree.files.iter().filter(|(_, content)| content.starts_with(b"broken"));
        let all: Vec<_> = broken
            .map(|(file, _)| {
                let (file, field) = (Arc::clone(file), "spec.rules".into());
                let at = At { file, line: 1, column: 2, length: 1, field };
                Diagnostic::new(&at, "it is broken").help("mend it")
            })
            .collect();
        assert!(!tree.files.contains_key("panic.yaml"), "as asked");
        if all.is_empty() {
            let (policies, trust) = (PolicySet::default(), Trust::default());
            let snapshot = Snapshot { generation, policies, trust };
            Ok(Built { snapshot, skipped: vec!["kustomization.yaml".into()] })
        } else {
            Err(Diagnostics { all, ..Diagnostics::default() })
        }
    })
}

/// A clock that panics the first time.
#[derive(Debug, Default)]
struct Stumbling(std::sync::atomic::AtomicBool);

impl crate::clock::Clock for Stumbling {
    fn now(&self) -> crate::clock::UnixTime {
        assert!(self.0.swap(true, Ordering::SeqCst), "as asked");
        crate::clock::UnixTime::from_secs(1)
    }
}

#[tokio::test]
async fn a_panic_in_the_midst_of_a_reload_does_not_end_reloading() {
    let temp = tempfile::tempdir().unwrap();
    let (store, metrics) = (Arc::default(), Arc::new(Metrics::new().unwrap()));
    let reloading = Reloader {
        dir: temp.path().to_owned(),
        poll: OFTEN,
        watch: false,
        store: Arc::clone(&store),
        clock: Arc::new(Stumbling::default()),
        metrics: Arc::clone(&metrics),
        build: refuses_broken(Arc::default()),
    }
    .start();
    let mut status = reloading.subscribe();
    let live = status.wait_for(|status| status.live.is_some());
    let status = tokio::time::timeout(LONG, live).await.unwrap().unwrap().clone();
    assert_eq!((status.loaded, status.failed), (1, 1));
    assert!(store.load().is_some());
}

impl Fixture {
    fn start(poll: Duration, watch: bool, prepare: impl FnOnce(&Path)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("policies");
        prepare(&dir);
        let (store, builds) = (Arc::new(SnapshotStore::default()), Arc::new(AtomicUsize::new(0)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let reloading = Reloader {
            dir: dir.clone(),
            poll,
            watch,
            store: Arc::clone(&store),
            clock: Arc::new(ManualClock::at(1000)),
            metrics: Arc::clone(&metrics),
            build: refuses_broken(Arc::clone(&builds)),
        }
        .start();
        Self { temp, dir, store, metrics, builds, reloading }
    }

    fn plain(poll: Duration, watch: bool) -> Self {
        Self::start(poll, watch, |dir| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("a.yaml"), "a 0").unwrap();
        })
    }

    async fn wait(
        &self,
        what: &str,
        condition: impl Fn(&ReloadStatus) -> bool,
    ) -> Arc<ReloadStatus> {
        let mut status = self.reloading.subscribe();
        let waiting = status.wait_for(|status| condition(status));
        let Ok(status) = tokio::time::timeout(LONG, waiting).await else {
            panic!("{what}: {:?}", self.reloading.status());
        };
        Arc::clone(&status.unwrap())
    }

    /// Waits until what lies on disk is live.
    async fn live(&self, what: &str) -> u64 {
        let hash = read(&self.dir).unwrap().hash;
        let status = self
            .wait(what, |status| status.live.as_ref().is_some_and(|live| *live.hash == hash))
            .await;
        let stored = self.store.load().as_ref().map(|live| live.generation.clone());
        assert_eq!(stored, status.live, "{what}");
        assert_eq!(status.last_error, None, "{what}");
        stored.unwrap().number
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.join(name), content).unwrap();
    }

    fn count(&self, outcome: &str) -> u64 {
        let series = format!("symbolon_policy_reloads_total{{outcome=\"{outcome}\"}} ");
        let text = self.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

async fn survives_every_way_of_writing(poll: Duration, watch: bool) {
    let fixture = Fixture::plain(poll, watch);
    let path = |name: &str| fixture.dir.join(name);
    let mut number = fixture.live("first").await;
    assert_eq!(number, 1);
    for round in 0..3 {
        // As editors save.
        fs::write(path(".a.yaml.swp"), format!("a renamed {round}")).unwrap();
        fs::rename(path(".a.yaml.swp"), path("a.yaml")).unwrap();
        let mut steps = vec![("rename", fixture.live("rename").await)];
        fs::write(fixture.temp.path().join("other"), format!("a copied {round}")).unwrap();
        fs::copy(fixture.temp.path().join("other"), path("a.yaml")).unwrap();
        steps.push(("copy", fixture.live("copy").await));
        fs::File::create(path("a.yaml")).unwrap();
        steps.push(("truncate", fixture.live("truncate").await));
        fixture.write("b.yaml", "b");
        steps.push(("create", fixture.live("create").await));
        fs::remove_file(path("b.yaml")).unwrap();
        // The content is that of two steps before: a version like any other.
        steps.push(("delete", fixture.live("delete").await));
        fs::create_dir(path("sub")).unwrap();
        fixture.write("sub/c.yaml", &format!("c {round}"));
        steps.push(("subfolder", fixture.live("subfolder").await));
        fixture.write("sub/c.yaml", &format!("c again {round}"));
        steps.push(("in a new subfolder", fixture.live("in a new subfolder").await));
        fs::remove_dir_all(path("sub")).unwrap();
        steps.push(("folder deleted", fixture.live("folder deleted").await));
        for (what, step) in steps {
            assert!(step > number, "{what}: {step} after {number}");
            number = step;
        }
    }
    assert_eq!(fixture.reloading.status().loaded, number);
    assert_eq!((fixture.count("loaded"), fixture.count("failed")), (number, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_is_seen_by_events_alone() {
    survives_every_way_of_writing(NEVER, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_is_seen_by_polling_alone() {
    survives_every_way_of_writing(OFTEN, false).await;
}

fn config_map(dir: &Path, version: u32) {
    let data = format!("..{version}");
    fs::create_dir_all(dir.join(&data)).unwrap();
    fs::write(dir.join(&data).join("a.yaml"), format!("a {version}")).unwrap();
    symlink(&data, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    if version == 0 {
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    } else {
        fs::remove_dir_all(dir.join(format!("..{}", version - 1))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_swapped_again_and_again() {
    let fixture = Fixture::start(NEVER, true, |dir| config_map(dir, 0));
    for version in 1..6 {
        assert_eq!(fixture.live("swap").await, u64::from(version));
        config_map(&fixture.dir, version);
    }
    assert_eq!(fixture.live("last swap").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_a_symlink_is_swapped_again_and_again() {
    let checkout = |dir: &Path, version: u32| {
        let (parent, target) = (dir.parent().unwrap(), format!("{version:040x}"));
        fs::create_dir(parent.join(&target)).unwrap();
        fs::write(parent.join(&target).join("a.yaml"), format!("a {version}")).unwrap();
        symlink(&target, parent.join("next")).unwrap();
        fs::rename(parent.join("next"), dir).unwrap();
    };
    let fixture = Fixture::start(NEVER, true, |dir| checkout(dir, 0));
    for version in 1..6 {
        assert_eq!(fixture.live("swap").await, u64::from(version));
        let commit = format!("{:040x}", version - 1);
        let status = fixture.reloading.status();
        assert_eq!(status.live.as_ref().unwrap().commit.as_deref(), Some(commit.as_str()));
        checkout(&fixture.dir, version);
    }
    assert_eq!(fixture.live("last swap").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_pull_is_loaded_before_git_releases_its_lock() {
    let fixture = Fixture::plain(OFTEN, true);
    let git = fixture.dir.join(".git");
    fs::create_dir(&git).unwrap();
    fs::write(git.join("HEAD"), format!("{:040x}", 1)).unwrap();
    fixture.live("first").await;
    let before = fixture.reloading.status().live.clone().unwrap().number;
    fs::write(git.join("index.lock"), "").unwrap();
    fixture.write("a.yaml", "a pulled");
    fixture.reloading.trigger();
    // A lock that stays is told in the end; until then, and after, the last known good is live.
    let status = fixture.wait("locked", |status| status.last_error.is_some()).await;
    assert!(status.last_error.as_ref().unwrap().diagnostics.contains("index.lock"));
    assert_eq!(status.live.as_ref().unwrap().number, before);
    fixture.write("b.yaml", "b pulled");
    fs::rename(git.join("index.lock"), git.join("index")).unwrap();
    assert_eq!(fixture.live("released").await, before + 1);
    // Git moves its refs last: the label follows, the generation stays.
    fs::write(git.join("HEAD"), format!("{:040x}", 2)).unwrap();
    let commit = format!("{:040x}", 2);
    let labelled = |status: &ReloadStatus| {
        status.live.as_ref().is_some_and(|live| live.commit.as_deref() == Some(&commit))
    };
    let status = fixture.wait("label", labelled).await;
    assert_eq!(status.live.as_ref().unwrap().number, before + 1);
    assert_eq!(status.loaded, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_commit_keeps_the_last_known_good_and_is_counted_once() {
    let fixture = Fixture::plain(OFTEN, true);
    fixture.live("first").await;
    fixture.write("b.yaml", "broken");
    fixture.write("c.yaml", "broken too");
    let hash = read(&fixture.dir).unwrap().hash;
    let failed = |status: &ReloadStatus| {
        status.last_error.as_ref().is_some_and(|e| e.hash.as_deref() == Some(&*hash))
    };
    let status = fixture.wait("broken", failed).await;
    assert_eq!(status.live.as_ref().unwrap().number, 1);
    let error = status.last_error.as_ref().unwrap();
    assert_eq!(error.since.as_secs(), 1000);
    assert_eq!(
        error.diagnostics,
        "b.yaml:1:2: spec.rules: it is broken\n  help: mend it\n\
         c.yaml:1:2: spec.rules: it is broken\n  help: mend it"
    );
    // It is tried again and again, as what failed may be the world's fault, and counted no more.
    let (builds, failures) = (fixture.builds.load(Ordering::SeqCst), fixture.count("failed"));
    let end = tokio::time::Instant::now() + LONG;
    while fixture.builds.load(Ordering::SeqCst) < builds + 2 {
        assert!(tokio::time::Instant::now() < end);
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.count("failed"), failures);
    assert_eq!(fixture.reloading.status().failed, failures);
    fixture.write("c.yaml", "mended");
    fixture.write("b.yaml", "mended");
    assert_eq!(fixture.live("mended").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_to_what_is_live_clears_the_error_and_counts_no_generation() {
    let fixture = Fixture::plain(NEVER, true);
    fixture.live("first").await;
    for _ in 0..3 {
        fixture.write("a.yaml", "broken");
        fixture.wait("broken", |status| status.last_error.is_some()).await;
        assert!(fixture.metrics.encode().contains("symbolon_policy_reload_failing 1"));
        fixture.write("a.yaml", "a 0");
        let status = fixture.wait("reverted", |status| status.last_error.is_none()).await;
        assert_eq!(status.live.as_ref().unwrap().number, 1);
    }
    assert_eq!((fixture.count("loaded"), fixture.count("failed")), (1, 3));
    assert!(fixture.metrics.encode().contains("symbolon_policy_reload_failing 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_first_load_nothing_is_live_until_one_succeeds() {
    let fixture = Fixture::start(OFTEN, true, |_| {});
    let status = fixture.wait("no directory", |status| status.last_error.is_some()).await;
    assert_eq!(status.live, None);
    assert_eq!(status.last_error.as_ref().unwrap().hash, None);
    assert!(fixture.store.load().is_none());
    fs::create_dir(&fixture.dir).unwrap();
    fixture.write("a.yaml", "a");
    fixture.live("created").await;
    assert_eq!(fixture.reloading.status().skipped, [Arc::<str>::from("kustomization.yaml")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_deleted_and_made_anew_is_seen_by_events_alone() {
    let fixture = Fixture::plain(NEVER, true);
    fixture.live("first").await;
    for round in 0..3 {
        fs::remove_dir_all(&fixture.dir).unwrap();
        let status = fixture.wait("deleted", |status| status.last_error.is_some()).await;
        assert!(status.live.is_some());
        fs::create_dir(&fixture.dir).unwrap();
        fixture.write("a.yaml", &format!("anew {round}"));
        fixture.live("anew").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_reads_at_once() {
    let fixture = Fixture::plain(NEVER, false);
    for round in 1..4 {
        assert_eq!(fixture.live("triggered").await, round);
        fixture.write("a.yaml", &format!("a {round}"));
        fixture.reloading.trigger();
    }
    assert_eq!(fixture.live("triggered").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_panics_is_a_failure_and_the_next_one_is_tried() {
    let fixture = Fixture::plain(NEVER, true);
    fixture.live("first").await;
    fixture.write("panic.yaml", "");
    let status = fixture.wait("panic", |status| status.last_error.is_some()).await;
    assert_eq!(status.last_error.as_ref().unwrap().diagnostics, "loading panicked");
    assert_eq!(status.live.as_ref().unwrap().number, 1);
    fs::rename(fixture.dir.join("panic.yaml"), fixture.dir.join("calm.yaml")).unwrap();
    assert_eq!(fixture.live("calm").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_last_goes_live_however_often_it_changes_meanwhile() {
    let fixture = Fixture::plain(NEVER, true);
    for round in 0..5 {
        for n in 0..50 {
            let content = if n % 7 == 3 { "broken".to_owned() } else { format!("a {round} {n}") };
            fixture.write("a.yaml", &content);
            tokio::task::yield_now().await;
        }
        fixture.live("last").await;
    }
}
