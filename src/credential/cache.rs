//! Verified tokens, cached under bounds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::{Weighter, sync::Cache};

use crate::{
    clock::UnixTime,
    credential::claims::AccessToken,
    identity::Thumbprint,
    trust::{Issuer, Issuers},
};

/// The claims of verified tokens by the SHA-256 of the token. Tokens themselves are not kept.
///
/// Holds what was verified only: a flood of invalid tokens leaves it as it is. Holds no verdict: times, keys'
/// age, audience and binding are looked at on every check.
#[derive(Debug)]
pub struct TokenCache {
    entries: Cache<[u8; 32], Entry, ByClaims>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A token for the cache, by its SHA-256.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheKey(Thumbprint);

impl CacheKey {
    /// Returns the SHA-256 of the token.
    pub(super) const fn hash(self) -> Thumbprint {
        self.0
    }
}

/// A token that was verified, and what that rests on.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) token: Arc<AccessToken>,
    /// The issuer identifier: finds the issuer without reading the token.
    pub(super) iss: Arc<str>,
    /// The version of the keys it was verified with, or of what the issuer was asked at.
    pub(super) version: u64,
    /// Until when the issuer's word on it counts, where it was asked.
    pub(super) until: Option<UnixTime>,
}

/// One verified token.
#[derive(Clone, Debug)]
struct Entry {
    kept: Kept,
    weight: u64,
}

/// What one entry may weigh on average; a token's claims are about this large in memory.
const BYTES_PER_ENTRY: u64 = 4 << 10;

/// Weighs an entry by its claims, and at least [`BYTES_PER_ENTRY`]: so the cache's one bound holds for the
/// number of entries and for their bytes.
#[derive(Clone, Debug)]
struct ByClaims;

impl Weighter<[u8; 32], Entry> for ByClaims {
    fn weight(&self, _token: &[u8; 32], entry: &Entry) -> u64 {
        entry.weight
    }
}

impl TokenCache {
    /// Creates a cache for at most `entries` tokens, fewer where their claims are large.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        let count = u64::try_from(entries).unwrap_or(u64::MAX);
        Self {
            entries: Cache::with_weighter(entries, count.saturating_mul(BYTES_PER_ENTRY), ByClaims),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Returns how many look-ups found a token that still counted as verified.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Returns how many look-ups did not.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Returns the number of tokens held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no token is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn key(token: &str) -> CacheKey {
        CacheKey(Thumbprint::of(token.as_bytes()))
    }

    /// Returns a token that was verified by an issuer of `issuers` with what it has now.
    pub(super) fn find<'i>(
        &self,
        key: CacheKey,
        issuers: &'i Issuers,
        now: UnixTime,
    ) -> Option<(Arc<AccessToken>, &'i Arc<Issuer>)> {
        let found = self.entries.get(key.0.as_bytes()).and_then(|Entry { kept, .. }| {
            // The version is of this very document and key set: no other issuer's, none from before.
            let issuer = issuers.find(&kept.iss)?;
            let is_current = issuer.key_version(now) == Some(kept.version)
                || issuer.introspection_version() == Some(kept.version);
            let counts = kept.until.is_none_or(|until| now < until);
            (is_current && counts).then_some((kept.token, issuer))
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a token that was verified.
    pub(super) fn keep(&self, key: CacheKey, kept: Kept) {
        let weight = u64::try_from(kept.token.weight()).unwrap_or(u64::MAX).max(BYTES_PER_ENTRY);
        self.entries.insert(*key.0.as_bytes(), Entry { kept, weight });
    }

    /// Drops a token that has expired.
    pub(super) fn forget(&self, key: CacheKey) {
        self.entries.remove(key.0.as_bytes());
    }
}

#[cfg(test)]
mod tests;
