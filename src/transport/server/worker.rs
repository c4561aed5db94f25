//! The threads that answer checks: each a runtime of its own, without work stealing.
//!
//! Work stealing breaks up the batches in which HTTP/2 frames are written and costs half as much CPU again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinError, JoinSet},
};

use super::{
    connection::{self, Shared},
    dispatch::CheckService,
    listener::Socket,
};

/// All workers.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

/// Dropping it ends the thread as soon as the connections that it serves have ended.
#[derive(Debug)]
struct Worker {
    /// Bounded by the permits that [`Accepted`] holds.
    queue: mpsc::UnboundedSender<Accepted>,
    /// Connections given and not ended.
    open: Arc<AtomicUsize>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: Socket,
    /// Held as long as the connection is open.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Workers {
    /// Starts `count` threads, at least one.
    pub(super) fn start<S: CheckService>(
        count: usize,
        shared: &Arc<Shared<S>>,
    ) -> io::Result<Self> {
        (0..count.max(1))
            .map(|number| Worker::start(number, shared))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Returns whether a thread has ended: connections would be given to it and closed.
    pub(super) fn any_gone(&self) -> bool {
        self.0.iter().any(|worker| worker.queue.is_closed())
    }

    /// Gives a connection to the worker with the fewest. It is closed if that worker is gone.
    pub(super) fn give(&self, accepted: Accepted) {
        let fewest = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        if let Some(worker) = fewest {
            worker.open.fetch_add(1, Ordering::Relaxed);
            if worker.queue.send(accepted).is_err() {
                worker.open.fetch_sub(1, Ordering::Relaxed);
                tracing::error!("a worker is gone; a connection was closed");
            }
        }
    }
}

impl Worker {
    fn start<S: CheckService>(number: usize, shared: &Arc<Shared<S>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, given) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (Arc::clone(shared), Arc::clone(&open));
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(run(given, shared, counter)))?;
        Ok(Self { queue, open })
    }
}

async fn run<S: CheckService>(
    mut given: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared<S>>,
    open: Arc<AtomicUsize>,
) {
    // Tasks of their own, so that a panic ends one connection and not the worker.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = given.recv() => {
                let Some(Accepted { socket, permit }) = accepted else { break };
                let (shared, open) = (Arc::clone(&shared), Open(Arc::clone(&open)));
                connections.spawn(async move {
                    let _until_the_end = (permit, open);
                    connection::serve(socket, shared).await;
                });
            }
            Some(ended) = connections.join_next() => report(&ended),
        }
    }
    // No more will come; those at hand end by themselves once the server closes.
    while let Some(ended) = connections.join_next().await {
        report(&ended);
    }
}

fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended in a panic");
    }
}

/// Counts a connection out, also when it ends in a panic.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
