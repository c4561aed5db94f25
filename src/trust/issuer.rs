//! Issuers and the keys they have now.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use crate::{
    clock::UnixTime,
    policy::document::{IntrospectionDocument, IssuerDocument, KeySource, Profile},
    trust::{Refetch, introspection::Introspector, jwks::KeySet, refresh::Refresher},
};

/// An issuer whose tokens are believed, and its keys.
#[derive(Debug)]
pub struct Issuer {
    /// As declared.
    pub document: IssuerDocument,
    name: Arc<str>,
    identifier: Arc<str>,
    store: Arc<KeyStore>,
    /// `None` where the keys came with the policy directory.
    refresher: Option<Refresher>,
    introspector: Option<Introspector>,
}

/// A key set in use.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The set.
    pub set: Arc<KeySet>,
    /// Differs from that of every other set that this process has used, of any issuer: what was verified
    /// under one version is never taken for verified under another document or set.
    pub version: u64,
    /// When the set was last seen at its source.
    pub fetched: UnixTime,
}

impl Issuer {
    /// Creates an issuer whose keys do not change and do not age: they came with the policy directory.
    #[must_use]
    pub fn with_keys(document: IssuerDocument, keys: KeySet) -> Self {
        let store = KeyStore::default();
        store.install(keys, UnixTime::from_secs(0));
        Self::new(document, Arc::new(store), None)
    }

    /// Creates an issuer whose keys `refresher` puts into `store`; `None`: nobody does any more.
    pub(super) fn new(
        document: IssuerDocument,
        store: Arc<KeyStore>,
        refresher: Option<Refresher>,
    ) -> Self {
        let name = document.name.value.as_str().into();
        let identifier = document.issuer.value.as_str().into();
        Self { document, name, identifier, store, refresher, introspector: None }
    }

    /// Has the issuer asked about tokens by `introspector`.
    #[must_use]
    pub(super) fn asked_by(self, introspector: Option<Introspector>) -> Self {
        Self { introspector, ..self }
    }

    /// Returns whether its tokens are JWT-SVIDs, which no `iss` leads to.
    #[must_use]
    pub fn signs_svids(&self) -> bool {
        self.document.profile == Profile::JwtSvid
    }

    /// Returns what asks the issuer about tokens, where it is asked at all.
    #[must_use]
    pub const fn introspector(&self) -> Option<&Introspector> {
        self.introspector.as_ref()
    }

    /// Returns the version of what answers about tokens rest on.
    #[must_use]
    pub fn introspection_version(&self) -> Option<u64> {
        self.introspector.as_ref().map(Introspector::version)
    }

    /// Returns `metadata.name`.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the issuer identifier, which tokens name as `iss`.
    #[must_use]
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Returns the issuer identifier for keeping without a copy.
    #[must_use]
    pub(crate) const fn shared_identifier(&self) -> &Arc<str> {
        &self.identifier
    }

    /// Returns the keys, unless there were never any or they were last seen at their source longer than
    /// `maxKeyAge` ago.
    #[must_use]
    pub fn keys(&self, now: UnixTime) -> Option<Arc<Keys>> {
        self.store.keys.load_full().filter(|keys| self.is_fresh(keys, now))
    }

    /// Returns the version of the keys, as [`Issuer::keys`] would return them.
    #[must_use]
    pub fn key_version(&self, now: UnixTime) -> Option<u64> {
        let keys = self.store.keys.load();
        keys.as_ref().filter(|keys| self.is_fresh(keys, now)).map(|keys| keys.version)
    }

    fn is_fresh(&self, keys: &Keys, now: UnixTime) -> bool {
        self.refresher.is_none() || now.saturating_since(keys.fetched) <= self.document.max_key_age
    }

    /// Asks for the keys to be fetched now; `None` where that would be too soon after the last time that it
    /// was asked for, or where keys are never fetched. All that ask while a fetch is under way share it.
    #[must_use]
    pub fn refetch(&self) -> Option<Refetch> {
        self.refresher.as_ref().and_then(Refresher::ask)
    }

    /// Returns how long ago the keys were last seen at their source; `None` where they do not age.
    #[must_use]
    pub fn key_age(&self, now: UnixTime) -> Option<Duration> {
        self.refresher.as_ref()?;
        self.store.keys.load().as_ref().map(|keys| now.saturating_since(keys.fetched))
    }

    /// Returns the keys however old they are: for showing them, never for verifying.
    #[must_use]
    pub fn last_keys(&self) -> Option<Arc<KeySet>> {
        self.store.keys.load().as_ref().map(|keys| Arc::clone(&keys.set))
    }

    /// Returns why the keys could not be refreshed the last time, if they could not.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.store.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether the keys are those that were saved before, and were not seen at their source since.
    #[must_use]
    pub fn restored(&self) -> bool {
        self.store.restored.load(Ordering::Relaxed)
    }

    /// Returns why the keys could not be saved the last time, if they could not.
    #[must_use]
    pub fn save_error(&self) -> Option<String> {
        self.store.save_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many fetches of the keys failed since the issuer was declared as it is.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.store.failures.load(Ordering::Relaxed)
    }

    /// Says whether `document` declares the same as this issuer's, wherever it stands.
    #[must_use]
    pub(super) fn is_declared_by(&self, document: &IssuerDocument) -> bool {
        let IssuerDocument {
            name,
            issuer,
            keys,
            audiences,
            algorithms,
            types,
            max_lifetime,
            leeway,
            profile,
            require_claims,
            max_key_age,
            scope_claims,
            scope_grammar,
            introspection,
        } = &self.document;
        name.value == document.name.value
            && issuer.value == document.issuer.value
            && is_same_source(keys, &document.keys)
            && audiences.iter().map(|a| &a.value).eq(document.audiences.iter().map(|a| &a.value))
            && *algorithms == document.algorithms
            && *types == document.types
            && *max_lifetime == document.max_lifetime
            && *leeway == document.leeway
            && *profile == document.profile
            && *require_claims == document.require_claims
            && *max_key_age == document.max_key_age
            && *scope_claims == document.scope_claims
            && *scope_grammar == document.scope_grammar
            && is_same_introspection(introspection.as_ref(), document.introspection.as_ref())
    }
}

fn is_same_introspection(
    one: Option<&IntrospectionDocument>,
    other: Option<&IntrospectionDocument>,
) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            one.uri.value == other.uri.value
                && one.client_id.value == other.client_id.value
                && one.authentication == other.authentication
                && one.tokens == other.tokens
                && one.cache_for == other.cache_for
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn is_same_source(one: &KeySource, other: &KeySource) -> bool {
    match (one, other) {
        (KeySource::Discovery, KeySource::Discovery) | (KeySource::None, KeySource::None) => true,
        (KeySource::Uri(one), KeySource::Uri(other)) => one.value == other.value,
        (KeySource::File { content: one, .. }, KeySource::File { content: other, .. }) => {
            one == other
        }
        (
            KeySource::Discovery | KeySource::Uri(_) | KeySource::File { .. } | KeySource::None,
            _,
        ) => false,
    }
}

/// The keys of one issuer: the last good ones, and what went wrong since.
#[derive(Debug, Default)]
pub(super) struct KeyStore {
    keys: ArcSwapOption<Keys>,
    last_error: Mutex<Option<String>>,
    failures: AtomicU64,
    /// Whether the keys are those that were saved before, and were not seen at their source since.
    restored: AtomicBool,
    save_error: Mutex<Option<String>>,
}

impl KeyStore {
    /// Puts `set` in use and returns it. A set that is the same as before keeps its version.
    pub(super) fn install(&self, set: KeySet, fetched: UnixTime) -> Arc<Keys> {
        let before = self.keys.load_full();
        let keys = match before {
            Some(keys) if keys.set.text() == set.text() => {
                Keys { set: Arc::clone(&keys.set), version: keys.version, fetched }
            }
            _ => Keys { set: Arc::new(set), version: next_version(), fetched },
        };
        let keys = Arc::new(keys);
        self.keys.store(Some(Arc::clone(&keys)));
        self.restored.store(false, Ordering::Relaxed);
        note(&self.last_error, None);
        keys
    }

    /// Puts a set in use that was saved, and seen at its source at `seen`.
    pub(super) fn restore(&self, set: KeySet, seen: UnixTime) {
        self.install(set, seen);
        self.restored.store(true, Ordering::Relaxed);
    }

    /// Notes whether the keys could be saved, and returns whether that is news.
    pub(super) fn saved(&self, error: Option<String>) -> bool {
        note(&self.save_error, error)
    }

    /// Counts a fetch that failed, notes why no newer keys could be had, and returns whether that is news.
    pub(super) fn fail(&self, error: String) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        note(&self.last_error, Some(error))
    }
}

/// Returns whether that is news.
fn note(last: &Mutex<Option<String>>, error: Option<String>) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let is_news = *last != error;
    *last = error;
    is_news
}

/// Returns a version that nothing else in this process has; see [`Keys::version`].
pub(super) fn next_version() -> u64 {
    static VERSIONS: AtomicU64 = AtomicU64::new(1);
    VERSIONS.fetch_add(1, Ordering::Relaxed)
}
