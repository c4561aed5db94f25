//! The queue with sinks that are fast, stuck, broken or moved away.

#![expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{QueueFull, RecordQueue, target::Target};
use crate::{
    clock::UnixTime,
    config::{Overflow, RecordSettings, RecordSink},
    reason::Reason,
    telemetry::{decision_id::DecisionId, metrics::Metrics, record::DecisionRecord},
};

/// Ends a wait that should never be needed.
const LONG: Duration = Duration::from_secs(30);

fn settings(to: RecordSink, queue_bytes: usize, overflow: Overflow) -> RecordSettings {
    RecordSettings { to, queue_bytes, overflow }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

fn count(metrics: &Metrics, series: &str) -> u64 {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

fn written(metrics: &Metrics) -> u64 {
    count(metrics, "symbolon_records_total{outcome=\"written\"}")
}

fn dropped(metrics: &Metrics) -> u64 {
    count(metrics, "symbolon_records_total{outcome=\"dropped\"}")
}

fn record(path: &str) -> DecisionRecord<'_> {
    let now = UnixTime::from_secs(1);
    let mut record = DecisionRecord::new(now, DecisionId::next(), Reason::NoMatchingRule);
    record.path = Some(path);
    record
}

fn paths(text: &str) -> Vec<String> {
    let paths = text.lines().map(|line| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["path"].as_str().unwrap().to_owned()
    });
    paths.collect()
}

/// A stream that tests stop, break and read.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<PipeState>, Condvar)>);

#[derive(Default)]
struct PipeState {
    bytes: Vec<u8>,
    stuck: bool,
    /// Bytes accepted before writing fails.
    room: Option<usize>,
    attempts: usize,
}

impl Pipe {
    fn set(&self, change: impl FnOnce(&mut PipeState)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn wait_for(&self, condition: impl Fn(&PipeState) -> bool) {
        let state = self.0.0.lock().unwrap();
        let (_state, timeout) =
            self.0.1.wait_timeout_while(state, LONG, |state| !condition(state)).unwrap();
        assert!(!timeout.timed_out());
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().bytes.clone()).unwrap()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        state.attempts += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.stuck).unwrap();
        let most = state.room.unwrap_or(usize::MAX).min(bytes.len());
        if most == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.bytes.extend_from_slice(&bytes[..most]);
        state.room = state.room.map(|room| room - most);
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn piped(queue_bytes: usize, overflow: Overflow) -> (RecordQueue, Pipe, Arc<Metrics>) {
    let (pipe, metrics) = (Pipe::default(), metrics());
    let target = Target::Stream(Box::new(pipe.clone()));
    let settings = settings(RecordSink::Stdout, queue_bytes, overflow);
    let queue = RecordQueue::with_target(Some(target), &settings, Arc::clone(&metrics)).unwrap();
    (queue, pipe, metrics)
}

/// Panics the first time it is written to.
struct Stumbling(Pipe, bool);

impl Write for Stumbling {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(std::mem::replace(&mut self.1, true), "as asked");
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_while_writing_is_a_failure_and_the_record_is_written_later() {
    let (pipe, metrics) = (Pipe::default(), metrics());
    let target = Target::Stream(Box::new(Stumbling(pipe.clone(), false)));
    let settings = settings(RecordSink::Stdout, 1 << 20, Overflow::Deny);
    let queue = RecordQueue::with_target(Some(target), &settings, Arc::clone(&metrics)).unwrap();
    queue.push(&record("/a"), None).unwrap();
    let end = Instant::now() + LONG;
    while written(&metrics) == 0 {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    assert_eq!(count(&metrics, "symbolon_record_write_failures_total"), 1);
    assert_eq!(queue.flush_and_stop(LONG), 0);
}

#[test]
fn records_of_many_threads_are_written_whole_and_in_each_threads_order() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records");
    let metrics = metrics();
    let settings = settings(RecordSink::File(path.clone()), 64 << 20, Overflow::Deny);
    let queue = RecordQueue::start(&settings, Arc::clone(&metrics)).unwrap();
    thread::scope(|scope| {
        for thread in 0..20 {
            let queue = &queue;
            scope.spawn(move || {
                for n in 0..500 {
                    queue.push(&record(&format!("/{thread}/{n}")), None).unwrap();
                }
            });
        }
    });
    assert_eq!(queue.flush_and_stop(LONG), 0);
    let paths = paths(&fs::read_to_string(&path).unwrap());
    assert_eq!(paths.len(), 10_000);
    for thread in 0..20 {
        let own: Vec<_> = paths.iter().filter(|p| p.starts_with(&format!("/{thread}/"))).collect();
        assert!((0..500).zip(&own).all(|(n, path)| **path == format!("/{thread}/{n}")));
    }
    assert_eq!((written(&metrics), dropped(&metrics)), (10_000, 0));
}

#[test]
fn a_stuck_sink_fills_the_queue_and_then_records_are_dropped_and_counted() {
    let (queue, pipe, metrics) = piped(4000, Overflow::Drop);
    pipe.set(|state| state.stuck = true);
    for _ in 0..100 {
        assert_eq!(queue.push(&record("/"), None), Ok(()));
    }
    let lost = dropped(&metrics);
    assert!(lost > 50, "{lost}");
    // Nobody waits for ever for a sink that is stuck.
    assert!(queue.flush_and_stop(Duration::from_millis(1)) > 0);
    pipe.set(|state| state.stuck = false);
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(written(&metrics) + lost, 100);
    assert_eq!(u64::try_from(paths(&pipe.text()).len()).unwrap(), written(&metrics));
}

#[test]
fn a_full_queue_denies_where_configured_and_accepts_again_when_there_is_room() {
    let (queue, pipe, metrics) = piped(4000, Overflow::Deny);
    pipe.set(|state| state.stuck = true);
    let accepted = (0..100).take_while(|_| queue.push(&record("/"), None).is_ok()).count();
    assert!((5..50).contains(&accepted), "{accepted}");
    assert_eq!(queue.push(&record("/"), None), Err(QueueFull));
    assert_eq!(dropped(&metrics), 2);
    pipe.set(|state| state.stuck = false);
    pipe.wait_for(|state| !state.bytes.is_empty());
    // The writer frees the room right after; whoever asks again gets it.
    let end = Instant::now() + LONG;
    while queue.push(&record("/again"), None).is_err() {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(paths(&pipe.text()).len(), accepted + 1);
}

#[test]
fn a_sink_that_fails_in_the_middle_of_a_line_heals_without_losing_or_doubling_any() {
    let (queue, pipe, metrics) = piped(1 << 20, Overflow::Deny);
    pipe.set(|state| state.room = Some(333));
    for n in 0..10 {
        queue.push(&record(&format!("/{n}")), None).unwrap();
    }
    pipe.wait_for(|state| state.attempts > 3);
    pipe.set(|state| state.room = None);
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(paths(&pipe.text()), (0..10).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert!(count(&metrics, "symbolon_record_write_failures_total") > 0);
}

fn wait_for_text(path: &Path, text: &str) {
    let end = Instant::now() + LONG;
    while !fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
        assert!(Instant::now() < end, "no {text}");
        thread::yield_now();
    }
}

#[test]
fn a_file_that_was_moved_away_or_deleted_is_opened_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (path, moved) = (temp.path().join("records"), temp.path().join("records.1"));
    let settings = settings(RecordSink::File(path.clone()), 1 << 20, Overflow::Deny);
    let queue = RecordQueue::start(&settings, metrics()).unwrap();
    queue.push(&record("/one"), None).unwrap();
    wait_for_text(&path, "/one");
    fs::rename(&path, &moved).unwrap();
    queue.push(&record("/two"), None).unwrap();
    wait_for_text(&path, "/two");
    fs::remove_file(&path).unwrap();
    queue.push(&record("/three"), None).unwrap();
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(paths(&fs::read_to_string(&moved).unwrap()), ["/one"]);
    assert_eq!(paths(&fs::read_to_string(&path).unwrap()), ["/three"]);
}

#[test]
fn records_are_appended_to_a_file_that_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records");
    for name in ["/one", "/two"] {
        let settings = settings(RecordSink::File(path.clone()), 1 << 20, Overflow::Deny);
        let queue = RecordQueue::start(&settings, metrics()).unwrap();
        queue.push(&record(name), None).unwrap();
        assert_eq!(queue.flush_and_stop(LONG), 0);
    }
    assert_eq!(paths(&fs::read_to_string(&path).unwrap()), ["/one", "/two"]);
}

#[test]
fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let settings = settings(RecordSink::File("/nonexistent/records".into()), 1, Overflow::Drop);
    let error = RecordQueue::start(&settings, metrics()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn nothing_is_queued_when_records_are_off_and_nothing_after_the_stop() {
    let metrics = metrics();
    let off = settings(RecordSink::Off, 0, Overflow::Deny);
    let queue = RecordQueue::start(&off, Arc::clone(&metrics)).unwrap();
    assert_eq!(queue.push(&record("/"), None), Ok(()));
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(dropped(&metrics), 0);
    let (queue, pipe, _metrics) = piped(1 << 20, Overflow::Deny);
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert_eq!(queue.push(&record("/"), None), Err(QueueFull));
    assert_eq!(pipe.text(), "");
}

#[test]
fn room_that_is_kept_is_the_records_own_and_is_given_back() {
    let (queue, pipe, _metrics) = piped(4000, Overflow::Deny);
    pipe.set(|state| state.stuck = true);
    let room = queue.reserve(&record("/kept")).unwrap().unwrap();
    while queue.push(&record("/"), None).is_ok() {}
    assert!(queue.reserve(&record("/late")).is_err());
    // A little longer than the one that it was kept for, as with another reason.
    assert_eq!(queue.push(&record("/kept/and/more"), Some(&room)), Ok(()));
    // Once: what comes after it has no room of its own.
    assert_eq!(queue.push(&record("/kept"), Some(&room)), Err(QueueFull));
    drop(room);
    pipe.set(|state| state.stuck = false);
    assert_eq!(queue.flush_and_stop(LONG), 0);
    assert!(paths(&pipe.text()).contains(&"/kept/and/more".to_owned()));
}

#[test]
fn room_is_kept_only_where_a_check_would_be_denied() {
    let (queue, pipe, _metrics) = piped(1, Overflow::Drop);
    pipe.set(|state| state.stuck = true);
    assert!(queue.reserve(&record("/")).unwrap().is_none());
}
