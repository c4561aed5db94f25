//! Asking an issuer about a token (RFC 7662): one question for all checks that have it, few at once, and none
//! for a while after it failed to answer.

mod breaker;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use self::breaker::Breaker;
use crate::{
    clock::{SharedClock, UnixTime},
    identity::Thumbprint,
    json::{self, Object},
    policy::document::{ClientAuthentication, IntrospectedTokens, IntrospectionDocument},
    trust::{
        credentials::{ClientCredentials, CredentialsError},
        fetch::{FetchError, Fetcher, Form},
        issuer::next_version,
        refresh::{Waiting, chain},
    },
};

/// An answer holds a token's claims: a few kilobytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Questions under way at once. An issuer that answers in 20 ms answers some 3,000 in a second so; one that
/// does not answer holds up no more than this.
const MAX_IN_FLIGHT: usize = 64;
/// How long it is remembered that a token is not active: long enough that a client that repeats itself asks
/// nobody, short enough that a token that is activated late is not locked out.
const INACTIVE_FOR: Duration = Duration::from_secs(5);
/// Tokens that were not active, 32 bytes each. In a cache of their own, so that a flood of them leaves those
/// that are active where they are.
const INACTIVE_ENTRIES: usize = 10_000;

/// The log tells how questions end no more often than this.
const BETWEEN_TOLD: Duration = Duration::from_secs(10);

/// What an issuer said about a token.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The answer.
    pub answer: Answer,
    /// When it was asked.
    pub asked: UnixTime,
    token: Thumbprint,
    version: u64,
}

impl Introspected {
    #[cfg(test)]
    pub(crate) fn of(answer: Answer, asked: UnixTime, token: Thumbprint, version: u64) -> Self {
        Self { answer, asked, token, version }
    }

    /// Says whether this is about the token with this SHA-256, by what the version stands for.
    #[must_use]
    pub fn is_about(&self, token: Thumbprint, version: u64) -> bool {
        self.token == token && self.version == version
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The token is active, and this is all that the issuer tells of it; not yet checked.
    Active(Arc<Object>),
    /// It is not active.
    Inactive,
    /// There is no answer that says either.
    Unavailable,
}

/// What is known of a token at once.
#[derive(Debug)]
pub enum Asked {
    /// The answer, without waiting.
    Known(Introspected),
    /// The issuer is being asked.
    Waits(Introspection),
}

/// A question under way; all checks with the same token share it.
pub struct Introspection(pub Pin<Box<dyn Future<Output = Introspected> + Send>>);

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Introspection")
    }
}

/// Asks one issuer.
pub struct Introspector {
    shared: Arc<Shared>,
    background: Handle,
}

/// How asking one issuer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionStatus {
    /// Answers that a token is active.
    pub active: u64,
    /// Answers that one is not.
    pub inactive: u64,
    /// Questions without an answer, and those that were not asked for want of room or patience.
    pub unavailable: u64,
    /// Whether it is not asked for now, as it did not answer.
    pub paused: bool,
    /// Why the last question had no answer, if it had none.
    pub last_error: Option<String>,
}

struct Shared {
    document: IntrospectionDocument,
    name: String,
    issuer: String,
    fetcher: Fetcher,
    credentials: ClientCredentials,
    clock: SharedClock,
    /// Names what answers rest on; see [`crate::trust::issuer::Keys::version`].
    version: u64,
    state: Mutex<State>,
    inactive: Cache<[u8; 32], UnixTime>,
    waiting: Arc<AtomicUsize>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    active: AtomicU64,
    inactive: AtomicU64,
    unavailable: AtomicU64,
}

/// Held for a few instructions only, and only by checks whose token is not cached.
#[derive(Default)]
struct State {
    flights: HashMap<[u8; 32], watch::Receiver<Option<Introspected>>>,
    breaker: Breaker,
    last_error: Option<String>,
    /// What the log told last, and when.
    told: Option<(Option<String>, Instant)>,
}

impl State {
    /// Keeps how the last question ended, and says whether the log is to tell of it: where it differs from
    /// what it told, and not again and again, as a client chooses its tokens.
    fn is_news(&mut self, error: Option<&String>, now: Instant) -> bool {
        self.last_error = error.cloned();
        let is_news = match &self.told {
            None => error.is_some(),
            Some((told, at)) => told.as_ref() != error && now.duration_since(*at) >= BETWEEN_TOLD,
        };
        if is_news {
            self.told = Some((error.cloned(), now));
        }
        is_news
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("cannot ask about tokens")]
    Fetch(#[source] FetchError),
    #[error("the answer is not a JSON object with a boolean `active`")]
    Malformed,
}

impl Introspector {
    /// Creates what asks at the endpoint of `document`, on `background`. The issuer is given by its document's
    /// name and its identifier.
    pub(super) fn new(
        document: IntrospectionDocument,
        (name, issuer): (&str, &str),
        (fetcher, credentials): (Fetcher, ClientCredentials),
        clock: SharedClock,
        background: Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            document,
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            fetcher,
            credentials,
            clock,
            version: next_version(),
            state: Mutex::default(),
            inactive: Cache::new(INACTIVE_ENTRIES),
            waiting: Arc::default(),
            counts: Counts::default(),
        });
        Self { shared, background }
    }

    /// Returns which tokens are asked about.
    #[must_use]
    pub fn tokens(&self) -> IntrospectedTokens {
        self.shared.document.tokens
    }

    /// Returns for how long an answer counts.
    #[must_use]
    pub fn cache_for(&self) -> Duration {
        self.shared.document.cache_for
    }

    /// Returns the version of what answers rest on: that of no other endpoint and of no key set.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.version
    }

    /// Returns how asking goes.
    #[must_use]
    pub fn status(&self) -> IntrospectionStatus {
        let Counts { active, inactive, unavailable } = &self.shared.counts;
        let state = self.shared.state();
        IntrospectionStatus {
            active: active.load(Ordering::Relaxed),
            inactive: inactive.load(Ordering::Relaxed),
            unavailable: unavailable.load(Ordering::Relaxed),
            paused: state.breaker.is_open(),
            last_error: state.last_error.clone(),
        }
    }

    /// Asks about `token`, whose SHA-256 is `hash`, unless the answer is known to be no.
    ///
    /// Answers that the token is active are not kept here.
    #[must_use]
    pub fn ask(&self, token: &str, hash: Thumbprint) -> Asked {
        let shared = &self.shared;
        let now = shared.clock.now();
        if shared.inactive.get(hash.as_bytes()).is_some_and(|until| now < until) {
            return Asked::Known(shared.told(hash, now, Answer::Inactive));
        }
        let Some(flight) = self.flight(token, hash, now) else {
            shared.counts.unavailable.fetch_add(1, Ordering::Relaxed);
            return Asked::Known(shared.told(hash, now, Answer::Unavailable));
        };
        let (waiting, mut answer) = flight;
        let nothing = shared.told(hash, now, Answer::Unavailable);
        Asked::Waits(Introspection(Box::pin(async move {
            let _until_the_end = waiting;
            // An error says that whoever asks has panicked: there will be no answer.
            let told = answer.wait_for(Option::is_some).await;
            told.ok().and_then(|told| told.clone()).unwrap_or(nothing)
        })))
    }

    /// Returns the question about this token that is under way or starts now; `None` where too many are, or
    /// wait for one, or the issuer is left alone.
    fn flight(
        &self,
        token: &str,
        hash: Thumbprint,
        now: UnixTime,
    ) -> Option<(Waiting, watch::Receiver<Option<Introspected>>)> {
        let waiting = Waiting::enter(&self.shared.waiting)?;
        let mut state = self.shared.state();
        if let Some(flight) = state.flights.get(hash.as_bytes()) {
            return Some((waiting, flight.clone()));
        }
        if state.flights.len() >= MAX_IN_FLIGHT || !state.breaker.admits(Instant::now()) {
            return None;
        }
        let (answer, flight) = watch::channel(None);
        state.flights.insert(*hash.as_bytes(), flight.clone());
        drop(state);
        let landing = Landing { shared: Arc::clone(&self.shared), hash, ended: Ended::Failed };
        self.background.spawn(fly(landing, token.to_owned(), now, answer));
        Some((waiting, flight))
    }
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector")
            .field("document", &self.shared.document)
            .finish_non_exhaustive()
    }
}

/// Asks once. Whoever waits is told before the question counts as ended.
async fn fly(
    mut landing: Landing,
    token: String,
    asked: UnixTime,
    told: watch::Sender<Option<Introspected>>,
) {
    let shared = Arc::clone(&landing.shared);
    let counts = &shared.counts;
    let (answer, count, ended) = match shared.call(&token).await {
        Ok(Some(claims)) => (Answer::Active(Arc::new(claims)), &counts.active, Ended::Answered),
        Ok(None) => {
            shared.inactive.insert(*landing.hash.as_bytes(), asked.saturating_add(INACTIVE_FOR));
            (Answer::Inactive, &counts.inactive, Ended::Answered)
        }
        Err(error) => (Answer::Unavailable, &counts.unavailable, Ended::of(&error)),
    };
    landing.ended = ended;
    count.fetch_add(1, Ordering::Relaxed);
    told.send_replace(Some(shared.told(landing.hash, asked, answer)));
}

/// How a question ended.
enum Ended {
    Answered,
    Failed,
    /// The issuer will not read this very token: that says nothing about others, and whoever sends such
    /// tokens must not stop those of others.
    Refused,
}

impl Ended {
    fn of(error: &CallError) -> Self {
        match error {
            CallError::Fetch(FetchError::Status(400 | 413 | 414 | 422)) => Self::Refused,
            CallError::Fetch(_) | CallError::Credentials(_) | CallError::Malformed => Self::Failed,
        }
    }
}

/// Ends a question, also where asking panicked.
struct Landing {
    shared: Arc<Shared>,
    hash: Thumbprint,
    ended: Ended,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.flights.remove(self.hash.as_bytes());
        match self.ended {
            Ended::Answered => state.breaker.answered(),
            Ended::Failed => state.breaker.failed(Instant::now()),
            Ended::Refused => state.breaker.refused(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, token: Thumbprint, asked: UnixTime, answer: Answer) -> Introspected {
        Introspected { answer, asked, token, version: self.version }
    }

    /// Returns what the issuer tells of an active token, `None` for another one. Notes and logs, once each,
    /// why there is no answer, and that there is one again.
    async fn call(&self, token: &str) -> Result<Option<Object>, CallError> {
        let answer = self.post(token).await.and_then(|text| read(&text));
        let error = answer.as_ref().err().map(|error| chain(error));
        if self.state().is_news(error.as_ref(), Instant::now()) {
            match error {
                Some(error) => tracing::warn!(
                    issuer = self.name,
                    error,
                    "cannot ask the issuer about tokens, which are denied meanwhile"
                ),
                None => {
                    tracing::info!(issuer = self.name, "the issuer answers about tokens again");
                }
            }
        }
        answer
    }

    async fn post(&self, token: &str) -> Result<Vec<u8>, CallError> {
        let IntrospectionDocument { uri, client_id, authentication, .. } = &self.document;
        let client = client_id.value.as_str();
        let mut fields = vec![("token", token), ("token_type_hint", "access_token")];
        let (secret, assertion);
        let mut basic = None;
        match authentication {
            ClientAuthentication::ClientSecretBasic => {
                secret = self.credentials.secret().await?;
                basic = Some((client, secret.as_str()));
            }
            ClientAuthentication::PrivateKeyJwt => {
                let now = self.clock.now();
                assertion = self.credentials.assertion(client, &self.issuer, now).await?;
                fields.push(("client_assertion_type", ASSERTION_TYPE));
                fields.push(("client_assertion", &assertion));
            }
            // RFC 8705 §2: with the certificate goes the name.
            ClientAuthentication::TlsClientAuth => fields.push(("client_id", client)),
        }
        let certificate = *authentication == ClientAuthentication::TlsClientAuth;
        let form = Form { fields: &fields, basic, certificate };
        self.fetcher.post(&uri.value, form, MAX_ANSWER_BYTES).await.map_err(CallError::Fetch)
    }
}

/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// RFC 7662 §2.2: only JSON's own `true` is active.
fn read(text: &[u8]) -> Result<Option<Object>, CallError> {
    let answer = json::object(text).map_err(|json::JsonError| CallError::Malformed)?;
    match answer.get("active") {
        Some(Value::Bool(true)) => Ok(Some(answer)),
        Some(Value::Bool(false)) => Ok(None),
        _ => Err(CallError::Malformed),
    }
}

#[cfg(test)]
mod tests;
