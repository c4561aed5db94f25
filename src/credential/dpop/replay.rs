//! Proofs that were used (RFC 9449 §11.1): each one passes once.
//!
//! A store is this process's memory or a [Redis](redis) that replicas share. A proof is recorded after the
//! policy allowed and before the answer: a check that is denied uses nothing up, and one whose proof cannot
//! be recorded is denied. It is remembered until no check could accept it any more. A live entry is never
//! given up for a new one: when the store is full, what is new is denied.
//!
//! Envoy may ask twice about one request, where its gRPC service has a retry policy. Such a retry is
//! answered as the first time: it is the very same message, byte for byte, from the same caller. That
//! message holds Envoy's own id of the stream, a random number that no client sees or sets, and the moment
//! it came in, so that a second request of a client, however alike, is another message. Without that id
//! nothing counts as a retry.

pub mod redis;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use aws_lc_rs::digest;

use self::redis::{Pending, RedisStore};
use crate::{clock::UnixTime, identity::Thumbprint, reason::Reason};

/// Where used proofs are remembered.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum ReplayStore {
    /// In this process.
    Memory(MemoryStore),
    /// In a Redis that replicas share.
    Redis(RedisStore),
}

/// What becomes of a use.
#[derive(Debug)]
pub enum Recording<'s> {
    /// It is recorded, or the proof does not pass.
    Done(Result<(), ReplayError>),
    /// The store has to be waited for.
    Waits(&'s RedisStore, Pending),
}

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// Whether it can be used.
    pub up: bool,
    /// Uses that it could not record since the process started, for want of an answer or of room.
    pub errors: u64,
    /// Why it cannot be used.
    pub last_error: Option<String>,
}

/// A proof, as far as its use is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofUse {
    /// Names the proof among all.
    pub id: Thumbprint,
    /// When it was made, as far as is known.
    pub created: UnixTime,
    /// Until when any check could accept it: it is remembered for that long.
    pub usable_until: UnixTime,
    /// Which kind of proof it is.
    pub used_as: UsedAs,
}

/// A kind of proof that passes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedAs {
    /// RFC 9449.
    DpopProof,
    /// Of a workload identity token.
    WorkloadProof,
}

/// One use of a proof.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// The proof.
    pub proof: ProofUse,
    /// Which check uses it; `None` where a retry cannot be told from another request.
    pub check: Option<CheckId>,
}

/// Names a check, and its retries with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckId([u8; 16]);

impl CheckId {
    /// Returns the id of the check that came from `caller` as `message`, for Envoy's stream `stream`.
    #[must_use]
    pub fn new(caller: Option<&str>, stream: &str, message: &[u8]) -> Option<Self> {
        if stream.is_empty() {
            return None;
        }
        let mut context = digest::Context::new(&digest::SHA256);
        let caller = caller.unwrap_or_default();
        // No SPIFFE ID has a line feed: the two parts cannot be shifted.
        for part in [caller.as_bytes(), b"\n", message] {
            context.update(part);
        }
        // Half of it: nobody who could look for another message with it may choose messages.
        context.finish().as_ref().first_chunk().copied().map(Self)
    }
}

/// Why a proof does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was used before.
    #[error("the proof was used before")]
    Replayed,
    /// It is older than what is remembered.
    #[error("the proof may have been used before the store began")]
    BeforeStart,
    /// There is no room to remember it.
    #[error("the store of used proofs is full")]
    Full,
    /// The store does not answer, or not as it should.
    #[error("the store of used proofs cannot be used")]
    Unavailable,
}

impl From<ReplayError> for Reason {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Replayed => Self::DpopReplayed,
            ReplayError::BeforeStart => Self::DpopProofBeforeStart,
            ReplayError::Full => Self::DpopReplayStoreFull,
            ReplayError::Unavailable => Self::DpopReplayStoreUnavailable,
        }
    }
}

impl ReplayStore {
    /// Records a use, or says what to wait for. Atomic: of uses of one proof at the same instant, one
    /// passes.
    #[must_use]
    pub fn consume(&self, used: Use, now: UnixTime) -> Recording<'_> {
        match self {
            Self::Memory(store) => Recording::Done(store.consume(used, now)),
            Self::Redis(store) => {
                let end = UnixTime::from_secs(ends(used.proof));
                let pending = Pending {
                    id: used.proof.id,
                    check: used.check,
                    created: used.proof.created,
                    remaining: end.saturating_since(now),
                };
                Recording::Waits(store, pending)
            }
        }
    }

    /// Returns how it is.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        match self {
            Self::Memory(store) => StoreStatus {
                kind: "memory",
                up: true,
                errors: store.refused.load(Ordering::Relaxed),
                last_error: None,
            },
            Self::Redis(store) => StoreStatus {
                kind: "redis",
                up: store.is_up(),
                errors: store.errors(),
                last_error: store.last_error(),
            },
        }
    }
}

/// Remembers in this process. It knows nothing of what was used before it began, or by another replica.
#[derive(Debug)]
pub struct MemoryStore {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
    capacity: usize,
    started: UnixTime,
    /// Uses for which there was no room.
    refused: AtomicU64,
}

/// More than cores contend for.
const SHARDS: usize = 16;
/// Entries that have ended are taken out as new ones come in: more than come in, so that none stay, and
/// few enough that no check waits.
const SWEEP: usize = 4;

#[derive(Debug, Default)]
struct Shard {
    used: HashMap<[u8; 32], Option<CheckId>>,
    /// By when they end.
    ends: BinaryHeap<Reverse<(u64, [u8; 32])>>,
}

impl MemoryStore {
    /// Creates a store for `capacity` proofs, of some 130 bytes each, in a process that started at
    /// `started`.
    #[must_use]
    pub fn new(capacity: usize, started: UnixTime) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            capacity,
            started,
            refused: AtomicU64::new(0),
        }
    }

    /// Returns how many proofs are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn consume(&self, used: Use, now: UnixTime) -> Result<(), ReplayError> {
        // What was used before is not known here. A limit that `iat` cannot mend: a proof that its client
        // dated ahead, by at most the clocks' allowance, and that was used just before a restart, passes
        // once more after it. Nonces tell when a proof was made; so rules that cannot bear it require them.
        if used.proof.created < self.started {
            return Err(ReplayError::BeforeStart);
        }
        let name = *used.proof.id.as_bytes();
        let end = ends(used.proof);
        let mut shard = self.lock(used.proof.id);
        self.forget(&mut shard, now, SWEEP);
        if let Some(first) = shard.used.get(&name) {
            return match (first, used.check) {
                (Some(first), Some(check)) if *first == check => Ok(()),
                (Some(_) | None, _) => Err(ReplayError::Replayed),
            };
        }
        if self.reserve().is_err() {
            // Others may hold what has ended; none of them is locked while another is.
            drop(shard);
            self.sweep(now);
            shard = self.lock(used.proof.id);
            if shard.used.contains_key(&name) {
                return Err(ReplayError::Replayed);
            }
            if let Err(full) = self.reserve() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(full);
            }
        }
        shard.used.insert(name, used.check);
        shard.ends.push(Reverse((end, name)));
        Ok(())
    }

    /// Takes one place, or none.
    fn reserve(&self) -> Result<(), ReplayError> {
        let take = |count: usize| count.checked_add(1).filter(|count| *count <= self.capacity);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(ReplayError::Full),
        }
    }

    /// Takes out at most `most` entries that have ended.
    fn forget(&self, shard: &mut Shard, now: UnixTime, most: usize) {
        for _ in 0..most {
            match shard.ends.peek() {
                Some(Reverse((end, _))) if *end < now.as_secs() => {}
                Some(_) | None => return,
            }
            let Some(Reverse((_, name))) = shard.ends.pop() else { return };
            shard.used.remove(&name);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Looks for what has ended everywhere, a little in each place.
    fn sweep(&self, now: UnixTime) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            self.forget(&mut shard, now, SWEEP);
        }
    }

    fn lock(&self, id: Thumbprint) -> MutexGuard<'_, Shard> {
        let [first, ..] = id.as_bytes();
        let place = usize::from(*first).checked_rem(SHARDS).unwrap_or(0);
        let [zeroth, ..] = &self.shards;
        // A check that panicked holding the lock left a proof recorded or not: either is a state.
        self.shards.get(place).unwrap_or(zeroth).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the last second in which a proof could be accepted.
fn ends(proof: ProofUse) -> u64 {
    proof.usable_until.as_secs().saturating_add(1)
}

#[cfg(test)]
mod tests;
