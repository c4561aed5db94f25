//! The thread that writes records.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    thread,
};

use super::{FLUSH_EVERY, Lines, Shared, target::Target};

pub(super) struct Writer {
    target: Target,
    shared: Arc<Shared>,
    /// What is being written, and how much of it was.
    batch: Lines,
    written: usize,
    failing: bool,
}

impl Writer {
    pub(super) fn new(target: Target, shared: Arc<Shared>) -> Self {
        Self { target, shared, batch: Lines::default(), written: 0, failing: false }
    }

    /// Writes until told to stop, then what is left, if the sink takes it.
    pub(super) fn run(mut self) {
        loop {
            thread::park_timeout(FLUSH_EVERY);
            // Looked at before the buffers: what was appended before the stop is still written.
            let stop = self.shared.stop.load(Ordering::SeqCst);
            // A panic is an attempt that failed: with this thread gone no record would be written again.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.flush()))
                .unwrap_or_else(|_panic| Err(io::Error::other("writing panicked")));
            if let Err(error) = &outcome {
                self.shared.metrics.record_write_failed();
                if !self.failing {
                    tracing::error!(%error, "decision records cannot be written; they are queued");
                }
            } else if self.failing {
                tracing::info!("decision records are written again");
            }
            self.failing = outcome.is_err();
            if stop {
                return;
            }
        }
    }

    /// Writes all there is. On an error the rest of the batch is kept and tried again later; the
    /// queue holds it against the limit until then.
    fn flush(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.write_batch()?;
        for stripe in &shared.stripes {
            let mut lines = stripe.lock();
            if lines.bytes.is_empty() {
                continue;
            }
            lines.swap(&mut self.batch);
            drop(lines);
            self.written = 0;
            self.write_batch()?;
        }
        Ok(())
    }

    fn write_batch(&mut self) -> io::Result<()> {
        if self.batch.bytes.is_empty() {
            return Ok(());
        }
        if self.target.ready()? {
            let done = self.batch.bytes.get(..self.written).unwrap_or_default();
            self.written =
                done.iter().rposition(|b| *b == b'\n').map_or(0, |p| p.saturating_add(1));
        }
        while let Some(rest) = self.batch.bytes.get(self.written..).filter(|rest| !rest.is_empty())
        {
            match self.target.write(rest) {
                Ok(bytes) => self.written = self.written.saturating_add(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Counted free only now: what is being written is memory too.
        self.shared.queued.fetch_sub(self.batch.bytes.len(), Ordering::SeqCst);
        self.shared.metrics.records_written(self.batch.number);
        self.batch.bytes.clear();
        self.batch.number = 0;
        Ok(())
    }
}
