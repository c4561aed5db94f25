//! The way of decision records out of the process: appended to memory by checks, written by a thread.
//!
//! A check never waits for a disk or a pipe. Records of one thread keep their order; those of several
//! are only about in order. What is queued when the process is killed is lost, also with
//! [`Overflow::Deny`]: that denies once there is no room, it does not wait for the disk.

mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    cell::{Cell, RefCell},
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::Duration,
};

use self::{target::Target, writer::Writer};
use crate::{
    config::{Overflow, RecordSettings, RecordSink},
    telemetry::{metrics::Metrics, record::DecisionRecord},
};

/// How long a record waits to be written: short enough to watch, long enough to write many at once.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Buffers that threads append to, each its own as long as there are no more threads than this:
/// beyond, two meet at a lock that is held for a copy of a kilobyte.
const STRIPES: usize = 16;

/// A buffer of this size is written at once: small enough to be in the processor's cache still when it is
/// copied out, large enough that a hundred checks share the cost of waking the writer.
const WAKE_BYTES: usize = 128 << 10;

/// What a buffer keeps of its memory when it was written: so much that it seldom has to grow again.
const KEPT_BYTES: usize = 2 * WAKE_BYTES;

/// There is no room for a record, and its check is to be denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of decision records is full")]
pub struct QueueFull;

/// The queue of decision records.
#[derive(Debug)]
pub struct RecordQueue {
    shared: Arc<Shared>,
    /// Where the writing thread says that it ended; `None` where there is none.
    ended: Option<Mutex<mpsc::Receiver<()>>>,
}

#[derive(Debug)]
struct Shared {
    stripes: [Stripe; STRIPES],
    /// Bytes appended and not yet written, or kept for records to come: no more than `limit`, but for the overshoot of a check
    /// that finds the queue full and takes its own back.
    queued: AtomicUsize,
    limit: usize,
    overflow: Overflow,
    off: bool,
    stop: AtomicBool,
    writer: Mutex<Option<Thread>>,
    metrics: Arc<Metrics>,
}

/// On a cache line of its own (two, as they are fetched in pairs): threads do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    number: u64,
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Only whole lines are ever appended, so a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordQueue {
    /// Opens the sink and starts the thread that writes.
    ///
    /// # Errors
    /// The file cannot be opened: a mistake of the configuration is told at the start. A sink that
    /// fails later heals by itself or fills the queue.
    pub fn start(settings: &RecordSettings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let target = match &settings.to {
            RecordSink::Off => None,
            RecordSink::Stdout => Some(Target::stdout()?),
            RecordSink::File(path) => Some(Target::file(path)?),
        };
        Self::with_target(target, settings, metrics)
    }

    fn with_target(
        target: Option<Target>,
        settings: &RecordSettings,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stripes: Default::default(),
            queued: AtomicUsize::new(0),
            limit: settings.queue_bytes,
            overflow: settings.overflow,
            off: target.is_none(),
            stop: AtomicBool::new(false),
            writer: Mutex::default(),
            metrics,
        });
        let Some(target) = target else { return Ok(Self { shared, ended: None }) };
        let (end, ended) = mpsc::channel();
        let writer = Writer::new(target, Arc::clone(&shared));
        let thread = thread::Builder::new().name("records".to_owned()).spawn(move || {
            writer.run();
            // Dropped at the end, also of a panic: whoever waits for it goes on.
            drop(end);
        })?;
        *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(thread.thread().clone());
        Ok(Self { shared, ended: Some(Mutex::new(ended)) })
    }

    /// Keeps room for a record like this one, where its check would be denied without: for what must not be
    /// done for a check that is denied. `None` where no check is.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn reserve(&self, record: &DecisionRecord<'_>) -> Result<Option<Room>, QueueFull> {
        if self.shared.off || self.shared.overflow == Overflow::Drop {
            return Ok(None);
        }
        let bytes = with_line(record, <[u8]>::len).saturating_add(ROOM_MARGIN);
        self.shared.take(bytes)?;
        Ok(Some(Room { shared: Arc::clone(&self.shared), left: AtomicUsize::new(bytes) }))
    }

    /// Appends `record`, into the `room` that was kept for it if there is one. Called before its check is
    /// answered, so that a decision that cannot be recorded is not given. Does not wait for the sink.
    ///
    /// # Errors
    /// [`QueueFull`] with [`Overflow::Deny`]; with [`Overflow::Drop`] the record is counted as dropped.
    pub fn push(&self, record: &DecisionRecord<'_>, room: Option<&Room>) -> Result<(), QueueFull> {
        if self.shared.off {
            return Ok(());
        }
        with_line(record, |line| self.shared.push(line, room))
    }

    /// Writes what is queued, then ends the writing thread; waits for that no longer than `timeout`,
    /// as a pipe that nobody reads would hold up the exit for ever. Returns the bytes left behind.
    ///
    /// Records pushed later are not written.
    pub fn flush_and_stop(&self, timeout: Duration) -> usize {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(ended) = &self.ended {
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            // Either it ended, which is told by the channel's end, or the time is up.
            ended.recv_timeout(timeout).unwrap_or_default();
        }
        self.shared.queued.load(Ordering::SeqCst)
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
    }
}

/// Room in the queue that is kept for one record; what is not used is given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    left: AtomicUsize,
}

impl Room {
    /// Takes so much of it, or nothing.
    fn take(&self, bytes: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.queued.fetch_sub(*self.left.get_mut(), Ordering::Relaxed);
    }
}

/// Reason, status and duration of the record that comes may be longer than those of the one it was kept for.
const ROOM_MARGIN: usize = 128;

/// Calls `then` with the record as a line.
fn with_line<T>(record: &DecisionRecord<'_>, then: impl FnOnce(&[u8]) -> T) -> T {
    LINE.with(|line| {
        // Taken out for the time being: should writing the record panic, nothing is borrowed.
        let mut bytes = line.take();
        bytes.clear();
        record.append_to(&mut bytes);
        let result = then(&bytes);
        line.replace(bytes);
        result
    })
}

impl Shared {
    /// Takes room for so many bytes, and returns how many were queued before.
    fn take(&self, bytes: usize) -> Result<usize, QueueFull> {
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit || self.stop.load(Ordering::Relaxed) {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(QueueFull);
        }
        Ok(before)
    }

    fn push(&self, line: &[u8], room: Option<&Room>) -> Result<(), QueueFull> {
        let taken = if room.is_some_and(|room| room.take(line.len())) {
            Ok(self.queued.load(Ordering::Relaxed).saturating_sub(line.len()))
        } else {
            self.take(line.len())
        };
        let Ok(before) = taken else {
            self.metrics.record_dropped();
            return match self.overflow {
                Overflow::Drop => Ok(()),
                Overflow::Deny => Err(QueueFull),
            };
        };
        let after = before.saturating_add(line.len());
        let mut lines = self.stripe().lock();
        let waiting = lines.bytes.len();
        lines.bytes.extend_from_slice(line);
        lines.number = lines.number.saturating_add(1);
        let full = waiting < WAKE_BYTES && lines.bytes.len() >= WAKE_BYTES;
        drop(lines);
        let half = self.limit / 2;
        if full || (before < half && after >= half) {
            self.wake();
        }
        Ok(())
    }

    /// Returns the buffer of the current thread.
    fn stripe(&self) -> &Stripe {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        let [first, ..] = &self.stripes;
        self.stripes.get(PLACE.get()).unwrap_or(first)
    }

    fn wake(&self) {
        if let Some(thread) = &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}

impl Lines {
    /// Takes what was appended and leaves `spare` (emptied) in its place.
    fn swap(&mut self, spare: &mut Self) {
        spare.bytes.clear();
        spare.bytes.shrink_to(KEPT_BYTES);
        spare.number = 0;
        mem::swap(self, spare);
    }
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
