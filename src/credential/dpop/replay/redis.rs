//! Used proofs in a Redis that replicas share.
//!
//! A proof is recorded by one command, which stores it unless it is there and answers what was there: of
//! uses at the same instant at any number of replicas, one passes. It is kept until no replica could accept
//! the proof any more. Whatever keeps Redis from answering, in time and as expected, denies.
//!
//! What Redis forgot would pass again. So a Redis that may evict entries is not used, and each run of a
//! server counts from its first use: a proof made before that is refused, as the server may have been
//! restarted, emptied, or promoted from a replica that had not received everything. What is left: as long as
//! two servers both take themselves for the primary (a failover in a divided network), replicas that ask
//! different ones accept a proof once each; and where a client dates proofs ahead, or clocks differ, those
//! that were used in the last such moments before a failover pass once more. Nonces tell when a proof was
//! made, so rules that cannot bear the latter require them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::{join_all, try_join_all};
use rand::Rng as _;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{CheckId, ReplayError};
use crate::{
    clock::{SharedClock, UnixTime},
    config::{RedisSettings, RedisUrl},
    identity::Thumbprint,
};

/// Every key begins so; an ACL user needs no others.
const PREFIX: &str = "symbolon:dpop:";
/// Each is written to by one task and read from by another, and carries many uses at once.
const CONNECTIONS: usize = 4;
/// Entries outlive their proofs by this, as clocks of replicas may differ: those that differ by more
/// disagree about everything else, too.
const CLOCKS: Duration = Duration::from_secs(60);
/// How often a Redis that answers is looked at: for its policy, role and identity.
const LOOK: Duration = Duration::from_secs(1);
/// However many uses fail, it is looked at no more often.
const PAUSE: Duration = Duration::from_millis(50);
/// A Redis that takes longer to connect or to tell of itself is down.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between attempts to connect: from the first to the last, doubled each time, less up to a half by chance.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// The first whose `SET` takes `NX` and `GET` together.
const OLDEST: u64 = 7;
/// A user name or password is shorter.
const MAX_SECRET: usize = 4096;

/// A use of a proof that is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Names the proof among all.
    pub id: Thumbprint,
    /// Which check uses it; `None` where a retry cannot be told from another request.
    pub check: Option<CheckId>,
    /// When it was made.
    pub created: UnixTime,
    /// For how long any check could accept it.
    pub remaining: Duration,
}

/// Remembers in Redis. Ends its connections with it.
pub struct RedisStore {
    shared: Arc<Shared>,
    timeout: Duration,
    supervisor: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    live: ArcSwapOption<Live>,
    /// Asks for a look: a use failed.
    doubt: Notify,
    errors: AtomicU64,
    /// Why it is down.
    failure: Mutex<Option<String>>,
}

/// Connections to one run of one server.
struct Live {
    connections: Vec<MultiplexedConnection>,
    next: AtomicUsize,
    /// The run, and the history of its data, which changes when a replica becomes the primary.
    run: String,
}

/// Why Redis is not used.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Redis(RedisError),
    #[error("it does not answer in time")]
    Time,
    #[error("its `maxmemory-policy` is `{0}`, which forgets used proofs: it must be `noeviction`")]
    Policy(String),
    #[error("it is a replica, not the primary")]
    Replica,
    #[error("it is older than Redis {OLDEST}")]
    Old,
    #[error("its INFO tells no `{0}`")]
    Info(&'static str),
    #[error("it was restarted or replaced")]
    Replaced,
}

impl From<RedisError> for Failure {
    /// Whether the client's bound or ours ended the wait is nothing to an operator.
    fn from(error: RedisError) -> Self {
        if error.is_timeout() { Self::Time } else { Self::Redis(error) }
    }
}

impl RedisStore {
    /// Creates a store that connects on `background`, and goes on trying.
    #[must_use]
    pub fn start(
        url: RedisUrl,
        settings: &RedisSettings,
        clock: SharedClock,
        background: &Handle,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let supervisor =
            Supervisor { url, settings: settings.clone(), clock, shared: Arc::clone(&shared) };
        let supervisor = background.spawn(supervisor.run());
        Self { shared, timeout: settings.timeout, supervisor }
    }

    /// Records a use. Atomic over all replicas: of uses of one proof at the same instant, one passes.
    ///
    /// # Errors
    /// As [`ReplayError`] says; [`ReplayError::Unavailable`] within the time that the settings give.
    pub async fn record(&self, pending: Pending) -> Result<(), ReplayError> {
        let recorded = match self.shared.live.load_full() {
            None => Err(ReplayError::Unavailable),
            Some(live) => match timeout(self.timeout, live.record(pending)).await {
                Ok(recorded) => recorded,
                Err(_elapsed) => Err(ReplayError::Unavailable),
            },
        };
        if matches!(recorded, Err(ReplayError::Unavailable | ReplayError::Full)) {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
            self.shared.doubt.notify_one();
        }
        recorded
    }

    /// Returns whether Redis is connected and may be used.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.live.load().is_some()
    }

    /// Returns how many uses could not be recorded.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    /// Returns why it is down, where that is known.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Live {
    async fn record(&self, pending: Pending) -> Result<(), ReplayError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = turn.checked_rem(self.connections.len()).unwrap_or(0);
        let Some(connection) = self.connections.get(turn) else {
            return Err(ReplayError::Unavailable);
        };
        let mut connection = connection.clone();
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(pending.id.as_bytes()));
        let value = pending.check.map(|CheckId(id)| URL_SAFE_NO_PAD.encode(id)).unwrap_or_default();
        let lasts = pending.remaining.saturating_add(CLOCKS).as_millis();
        let mut commands = redis::pipe();
        let set = commands.cmd("SET").arg(&key).arg(&value);
        set.arg("NX").arg("GET").arg("PX").arg(u64::try_from(lasts).unwrap_or(u64::MAX));
        // Second: what was forgotten before the proof was stored is then seen to be.
        commands.cmd("GET").arg(self.began());
        let answers = commands.query_async::<(Option<String>, Option<String>)>(&mut connection);
        let (known, began) = match answers.await {
            Ok(answers) => answers,
            Err(error) if is_out_of_memory(error.clone()) => return Err(ReplayError::Full),
            Err(_error) => return Err(ReplayError::Unavailable),
        };
        match known {
            None => {}
            Some(known) if !known.is_empty() && known == value => {}
            Some(_) => return Err(ReplayError::Replayed),
        }
        let began = began.and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
        match began {
            Some(began) if pending.created >= UnixTime::new(began) => Ok(()),
            Some(_) => Err(ReplayError::BeforeStart),
            None => Err(ReplayError::Unavailable),
        }
    }

    /// Returns the key that says since when this run remembers everything.
    fn began(&self) -> String {
        format!("{PREFIX}began:{}", self.run)
    }

    /// Says that this run remembers everything from now on, unless that was said.
    async fn begin(&self, now: UnixTime) -> Result<(), Failure> {
        let Some(connection) = self.connections.first() else { return Err(Failure::Time) };
        let mut connection = connection.clone();
        let mut get = redis::cmd("GET");
        get.arg(self.began());
        if get.query_async::<Option<String>>(&mut connection).await?.is_some() {
            return Ok(());
        }
        let millis = u64::try_from(now.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let mut set = redis::cmd("SET");
        // Another replica may have been first.
        set.arg(self.began()).arg(millis).arg("NX");
        Ok(set.query_async::<()>(&mut connection).await?)
    }

    /// Looks whether every connection still leads to this run, and whether it may be used.
    async fn look(&self, now: UnixTime) -> Result<(), Failure> {
        let looks = self.connections.iter().map(|connection| identify(connection.clone()));
        for run in join_all(looks).await {
            if run? != self.run {
                return Err(Failure::Replaced);
            }
        }
        self.begin(now).await
    }
}

/// Returns which run of which server is connected, if it may be used.
async fn identify(mut connection: MultiplexedConnection) -> Result<String, Failure> {
    let mut info = redis::cmd("INFO");
    info.arg("server").arg("memory").arg("replication");
    let info: String = info.query_async(&mut connection).await?;
    let told = |name: &'static str| {
        let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value).ok_or(Failure::Info(name))
    };
    let major = told("redis_version")?.split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u64| major < OLDEST) {
        return Err(Failure::Old);
    }
    if told("role")? != "master" {
        return Err(Failure::Replica);
    }
    match told("maxmemory_policy")? {
        "noeviction" => {}
        other => return Err(Failure::Policy(other.to_owned())),
    }
    Ok(format!("{}:{}", told("run_id")?, told("master_replid")?))
}

/// Redis refuses to store more, and forgets nothing.
fn is_out_of_memory(error: RedisError) -> bool {
    let errors = error.into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == "OOM"))
}

/// Connects, looks, and connects again.
struct Supervisor {
    url: RedisUrl,
    settings: RedisSettings,
    clock: SharedClock,
    shared: Arc<Shared>,
}

impl Supervisor {
    async fn run(self) {
        let [first, longest] = BACKOFF;
        let mut backoff = first;
        loop {
            let failure = match within(self.connect()).await {
                Ok(live) => {
                    let live = Arc::new(live);
                    self.up(&live);
                    backoff = first;
                    self.watch(&live).await
                }
                Err(failure) => failure,
            };
            self.down(failure);
            let chance = rand::rng().random_range(0.5..=1.0);
            sleep(backoff.mul_f64(chance)).await;
            backoff = backoff.saturating_mul(2).min(longest);
        }
    }

    /// Returns why the connections cannot be used any more.
    async fn watch(&self, live: &Live) -> Failure {
        loop {
            tokio::select! {
                () = self.shared.doubt.notified() => {}
                () = sleep(LOOK) => {}
            }
            if let Err(failure) = within(live.look(self.clock.now())).await {
                return failure;
            }
            sleep(PAUSE).await;
        }
    }

    fn up(&self, live: &Arc<Live>) {
        *self.failure() = None;
        self.shared.live.store(Some(Arc::clone(live)));
        tracing::info!("Redis remembers used DPoP proofs");
    }

    fn down(&self, failure: Failure) {
        self.shared.live.store(None);
        let text = format!("{:#}", anyhow::Error::new(failure));
        let mut last = self.failure();
        // Once, not at each attempt.
        if last.as_ref() != Some(&text) {
            tracing::error!(
                error = text,
                "Redis cannot be used: what needs a DPoP proof used up is denied"
            );
        }
        *last = Some(text);
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Live, Failure> {
        let client = self.client().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connections =
            (0..CONNECTIONS).map(|_| client.get_multiplexed_async_connection_with_config(&config));
        let connections = try_join_all(connections).await?;
        let Some(first) = connections.first() else { return Err(Failure::Time) };
        let run = identify(first.clone()).await?;
        let live = Live { connections, next: AtomicUsize::new(0), run };
        live.look(self.clock.now()).await?;
        Ok(live)
    }

    /// Reads what lies in files anew: credentials are replaced while the process runs.
    async fn client(&self) -> Result<Client, Failure> {
        let RedisSettings { username_file, password_file, ca_file, .. } = &self.settings;
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(file) = username_file {
            login = login.set_username(secret(file).await?);
        }
        if let Some(file) = password_file {
            login = login.set_password(secret(file).await?);
        }
        let address = match &self.url {
            RedisUrl::Unix(path) => ConnectionAddr::Unix(path.clone()),
            RedisUrl::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host.clone(), *port),
            RedisUrl::Tcp { host, port, tls: true } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = address.into_connection_info()?.set_redis_settings(login);
        if !matches!(self.url, RedisUrl::Tcp { tls: true, .. }) {
            return Ok(Client::open(info)?);
        }
        let root_cert = match ca_file {
            Some(file) => Some(read(file).await?),
            None => None,
        };
        Ok(Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?)
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Failure::Time))
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(path).await.map_err(|source| Failure::File { path: path.to_owned(), source })
}

/// Returns what a file holds, without the end of its line.
async fn secret(path: &Path) -> Result<String, Failure> {
    let bytes = read(path).await?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_SECRET);
    let text = text.ok_or_else(|| Failure::File {
        path: path.to_owned(),
        source: io::Error::other("it holds no user name or password"),
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
