//! The issuers of the process, kept over reloads.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    clock::SharedClock,
    config::OutboundSettings,
    diagnostic::{At, Diagnostic},
    policy::document::{IssuerDocument, KeySource, Profile},
    trust::{
        discovery,
        fetch::{Fetcher, FetcherError},
        introspection::{IntrospectionStatus, Introspector},
        issuer::{Issuer, KeyStore},
        jwks::{KeySet, Parse, SkippedKey},
        refresh::{Fetch, Pace, Refresher, chain},
        saved::SavedKeys,
    },
};

/// The issuers of the process. A reload that does not change an issuer's document leaves the issuer as it
/// is, with its keys.
#[derive(Debug)]
pub struct IssuerPool {
    fetcher: Fetcher,
    /// Where keys outlive a restart.
    state: Option<PathBuf>,
    clock: SharedClock,
    background: Handle,
    current: Mutex<Vec<Arc<Issuer>>>,
}

/// How one issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerStatus {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The issuer identifier.
    pub issuer: String,
    /// Usable keys; 0 where they are too old to be used.
    pub keys: usize,
    /// Keys of the set that are not used.
    pub skipped: Vec<SkippedKey>,
    /// How long ago the keys were last seen at their source; `None` where they never were, or came with the
    /// policy directory.
    pub age: Option<Duration>,
    /// Whether the keys are from `stateDir`, and were not seen at their source since.
    pub restored: bool,
    /// Why the keys could not be saved for the next start, if they could not.
    pub save_error: Option<String>,
    /// Why the last refresh failed, if it did.
    pub last_error: Option<String>,
    /// Fetches that failed since the issuer was declared as it is.
    pub failures: u64,
    /// Whether it has no keys because none of its tokens is a JWT.
    pub opaque_only: bool,
    /// How asking about tokens goes, where it is asked.
    pub introspection: Option<IntrospectionStatus>,
}

impl IssuerPool {
    /// Creates a pool without issuers. Keys are fetched on `background`, and saved to `state` where it is
    /// given, so that they outlive a restart.
    ///
    /// # Errors
    /// Where the settings make no HTTP client, as [`FetcherError`] says.
    pub fn new(
        outbound: &OutboundSettings,
        state: Option<PathBuf>,
        clock: SharedClock,
        background: Handle,
    ) -> Result<Self, FetcherError> {
        let fetcher = Fetcher::new(outbound)?;
        Ok(Self { fetcher, state, clock, background, current: Mutex::default() })
    }

    /// Returns the issuers of `documents`, in their order. One that the pool has from an equal document is
    /// the same as before; others are new, and start to fetch their keys. One that is no longer declared
    /// stops to refresh when the last snapshot that has it is gone.
    ///
    /// # Errors
    /// Key sets from files that cannot be used and addresses that may not be contacted, all of them; the
    /// pool is then as it was before.
    pub fn reconcile(
        &self,
        documents: &[IssuerDocument],
    ) -> Result<Vec<Arc<Issuer>>, Vec<Diagnostic>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mistakes = Vec::new();
        let mut issuers = Vec::new();
        for document in documents {
            let known = current.iter().find(|issuer| issuer.is_declared_by(document));
            match known.map_or_else(
                || self.prepare(document),
                |issuer| Ok(Prepared::Known(Arc::clone(issuer))),
            ) {
                Ok(issuer) => issuers.push(issuer),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        // Only now: a load that is refused contacts nobody.
        let issuers: Vec<_> = issuers.into_iter().map(|issuer| self.start(issuer)).collect();
        current.clone_from(&issuers);
        Ok(issuers)
    }

    /// Returns how each issuer's keys are, in the order of the documents.
    #[must_use]
    pub fn status(&self) -> Vec<IssuerStatus> {
        let now = self.clock.now();
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current
            .iter()
            .map(|issuer| {
                let keys = issuer.last_keys();
                IssuerStatus {
                    name: Arc::clone(issuer.name()),
                    issuer: issuer.identifier().to_owned(),
                    keys: issuer.keys(now).map_or(0, |keys| keys.set.count()),
                    skipped: keys.map(|set| set.skipped().to_vec()).unwrap_or_default(),
                    age: issuer.key_age(now),
                    restored: issuer.restored(),
                    save_error: issuer.save_error(),
                    last_error: issuer.last_error(),
                    failures: issuer.failures(),
                    opaque_only: issuer.document.keys == KeySource::None,
                    introspection: issuer.introspector().map(Introspector::status),
                }
            })
            .collect()
    }

    fn prepare(&self, document: &IssuerDocument) -> Result<Prepared, Diagnostic> {
        let may_contact = |url: &str, at: &At| {
            self.fetcher
                .check(url)
                .map(drop)
                .map_err(|error| Diagnostic::new(at, error.to_string()))
        };
        if let Some(introspection) = &document.introspection {
            may_contact(&introspection.uri.value, &introspection.uri.at)?;
        }
        let local = |keys| {
            let issuer = Issuer::with_keys(document.clone(), keys);
            Ok(Prepared::Known(Arc::new(issuer.asked_by(self.introspector(document)))))
        };
        let fetcher = self.fetcher.at_issuer(&document.name.value);
        match &document.keys {
            KeySource::File { path, content } => {
                let keys = parse_of(document)(content)
                    .map_err(|error| Diagnostic::new(&path.at, error.to_string()))?;
                local(keys)
            }
            KeySource::None => local(KeySet::without_keys()),
            KeySource::Uri(uri) => {
                may_contact(&uri.value, &uri.at)?;
                let fetch = fetch_from(fetcher, uri.value.clone(), parse_of(document));
                Ok(Prepared::Remote(Box::new(document.clone()), fetch))
            }
            KeySource::Discovery => {
                let issuer = &document.issuer;
                may_contact(&issuer.value, &issuer.at)?;
                let fetch = discover(fetcher, issuer.value.clone());
                Ok(Prepared::Remote(Box::new(document.clone()), fetch))
            }
        }
    }

    fn start(&self, prepared: Prepared) -> Arc<Issuer> {
        let (document, fetch) = match prepared {
            Prepared::Known(issuer) => return issuer,
            Prepared::Remote(document, fetch) => (document, fetch),
        };
        let store = Arc::<KeyStore>::default();
        let saved = self.saved(&document);
        if let Some(saved) = &saved {
            // Before the first check, and before the source is asked.
            match saved.load(parse_of(&document), self.clock.now()) {
                Ok(Some((set, seen))) => store.restore(set, seen),
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    issuer = document.name.value,
                    error = chain(&error),
                    "cannot use the issuer's keys from before the restart"
                ),
            }
        }
        let refresher = Refresher::start(
            document.name.value.as_str().into(),
            Arc::clone(&store),
            fetch,
            saved,
            Pace::for_max_age(document.max_key_age),
            Arc::clone(&self.clock),
            &self.background,
        );
        let introspector = self.introspector(&document);
        let issuer = Issuer::new(*document, store, Some(refresher));
        Arc::new(issuer.asked_by(introspector))
    }

    fn saved(&self, document: &IssuerDocument) -> Option<SavedKeys> {
        let source = match &document.keys {
            KeySource::Discovery => "discovery",
            KeySource::Uri(uri) => &uri.value,
            KeySource::File { .. } | KeySource::None => return None,
        };
        let folder = self.state.as_deref()?;
        Some(SavedKeys::new(folder, &document.name.value, &document.issuer.value, source))
    }

    fn introspector(&self, document: &IssuerDocument) -> Option<Introspector> {
        let name = document.name.value.as_str();
        let who = (self.fetcher.at_issuer(name), self.fetcher.credentials(name));
        let (clock, background) = (Arc::clone(&self.clock), self.background.clone());
        let introspection = document.introspection.clone()?;
        let issuer = (name, document.issuer.value.as_str());
        Some(Introspector::new(introspection, issuer, who, clock, background))
    }
}

/// Returns what reads the keys of an issuer, as where they are from has them.
fn parse_of(document: &IssuerDocument) -> Parse {
    match document.profile {
        Profile::Rfc9068 | Profile::Jwt => KeySet::parse,
        Profile::JwtSvid => KeySet::of_jwt_svids,
        Profile::WitSvid => KeySet::of_wit_svids,
    }
}

fn fetch_from(fetcher: Fetcher, uri: String, parse: Parse) -> Fetch {
    Box::new(move || {
        let (fetcher, uri) = (fetcher.clone(), uri.clone());
        Box::pin(async move { discovery::fetch_key_set(&fetcher, &uri, parse).await })
    })
}

fn discover(fetcher: Fetcher, issuer: String) -> Fetch {
    Box::new(move || {
        let (fetcher, issuer) = (fetcher.clone(), issuer.clone());
        Box::pin(async move { discovery::discover_key_set(&fetcher, &issuer).await })
    })
}

/// An issuer about to be used.
enum Prepared {
    /// It is whole.
    Known(Arc<Issuer>),
    /// Its keys have yet to be fetched.
    Remote(Box<IssuerDocument>, Fetch),
}

#[cfg(test)]
mod tests;
