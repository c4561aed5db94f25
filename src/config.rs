//! Process settings (not policy): defaults, the config file, the environment.

mod check;
mod load;
mod table;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use table::{SETTINGS, Setting};

/// All settings of the process.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `policies`: the policy directory; the `--policies` flag wins.
    pub policies: Option<PathBuf>,
    /// `workers`: threads that answer checks; default the number of cores.
    pub workers: Option<usize>,
    /// `grpc`.
    pub grpc: GrpcSettings,
    /// `check`.
    pub check: CheckSettings,
    /// `reload`.
    pub reload: ReloadSettings,
    /// `outbound`.
    pub outbound: OutboundSettings,
    /// `cache`.
    pub cache: CacheSettings,
    /// `dpop`.
    pub dpop: DpopSettings,
    /// `records`.
    pub records: RecordSettings,
    /// `log`.
    pub log: LogSettings,
    /// `metrics`: `/metrics`, `/livez`, `/readyz`.
    pub metrics: MetricsSettings,
    /// `admin`: `/status`.
    pub admin: AdminSettings,
    /// `drain`.
    pub drain: DrainSettings,
    /// `stateDir`: where issuers' keys outlive a restart; `None`: they do not.
    pub state_dir: Option<PathBuf>,
    /// `ownedHeaders`: headers that stay symbolon's own though no policy sets them any more.
    pub owned_headers: Vec<String>,
}

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `127.0.0.1:9191`, `[::1]:9191`.
    Tcp(SocketAddr),
    /// `unix:/run/symbolon/grpc.sock`.
    Unix(PathBuf),
}

impl Endpoint {
    /// Returns whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// `grpc`: where Envoy asks.
#[derive(Clone, Debug)]
pub struct GrpcSettings {
    /// `listen`: one or more endpoints; default `[127.0.0.1:9191]`.
    pub listen: Vec<Endpoint>,
    /// `allowPlaintext`: permits plaintext on other than loopback and Unix sockets; default false.
    pub allow_plaintext: bool,
    /// `allowAnyCaller`: permits TLS on other than loopback and Unix sockets without a list of callers;
    /// default false.
    pub allow_any_caller: bool,
    /// `tls`.
    pub tls: Option<TlsSettings>,
    /// `maxMessageBytes`; default 1 MiB.
    pub max_message_bytes: usize,
    /// `maxConcurrentStreams` of one connection; default 1024, as Envoy's own.
    pub max_concurrent_streams: u32,
    /// `maxConnections`; default 4096.
    pub max_connections: usize,
    /// `maxConnectionAge`; default 30 minutes, with a jitter of a tenth.
    pub max_connection_age: Duration,
}

/// `grpc.tls`; also the shape of other TLS servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `certFile`: PEM chain, leaf first.
    pub cert_file: PathBuf,
    /// `keyFile`: PEM.
    pub key_file: PathBuf,
    /// `clientCaFile`: PEM; asks callers for a certificate and verifies it.
    pub client_ca_file: Option<PathBuf>,
    /// `allowedCallers`: SPIFFE patterns of the Envoys that may ask; needs `clientCaFile`.
    pub allowed_callers: Vec<String>,
}

/// `check`: bounds of one check.
#[derive(Clone, Debug)]
pub struct CheckSettings {
    /// `timeout`: our own bound, as Istio's default deadline is 600 s; default 1 s.
    pub timeout: Duration,
    /// `deadlineMargin`: how long before Envoy's deadline we answer; default 10 ms.
    pub deadline_margin: Duration,
    /// `maxConcurrent`: checks in flight in the process; default 4096.
    pub max_concurrent: usize,
    /// `drillPanicPath`: the canonical path whose check panics on purpose, for a drill that shows a panic to
    /// be a denial; default none.
    pub drill_panic_path: Option<String>,
}

/// `reload`.
#[derive(Clone, Debug)]
pub struct ReloadSettings {
    /// `poll`: how often the directory is read again even if nobody said it changed; default 5 s.
    pub poll: Duration,
}

/// `outbound`: what may be contacted.
#[derive(Clone, Debug, Default)]
pub struct OutboundSettings {
    /// `hosts`: exact hosts or `*.suffix`; loopback is always allowed. Default none.
    pub hosts: Vec<String>,
    /// `caFile`: PEM, instead of the system's certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// `credentialsDir`: our credentials at issuers, in a folder for each Issuer.
    pub credentials_dir: Option<PathBuf>,
    /// `proxy`: through which hosts other than loopback are contacted.
    pub proxy: Option<String>,
}

/// `cache`.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// `tokens`: verified tokens kept; default 50,000.
    pub tokens: usize,
    /// `certificates`: parsed certificates kept; default 10,000.
    pub certificates: usize,
}

/// `dpop`: proofs of possession (RFC 9449).
#[derive(Clone, Debug)]
pub struct DpopSettings {
    /// `algorithms`: those of proofs; default `[ES256, EdDSA, PS256]`.
    pub algorithms: Vec<String>,
    /// `past`: how old a proof may be; default 60 s.
    pub past: Duration,
    /// `future`: how far ahead a proof may be dated; default 10 s.
    pub future: Duration,
    /// `replay`: where used proofs are remembered; left out, as [`ReplayKind::Memory`], with a warning where
    /// that matters.
    pub replay: Option<ReplayKind>,
    /// `replayEntries`: used proofs that are remembered in memory; default 1,000,000.
    pub replay_entries: usize,
    /// `redis`.
    pub redis: RedisSettings,
    /// `nonceKeysFile`: secrets of nonces, shared by replicas.
    pub nonce_keys_file: Option<PathBuf>,
}

/// Where used proofs are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayKind {
    /// `memory`: in each process for itself.
    Memory,
    /// `redis`: in a Redis that replicas share.
    Redis,
}

/// `dpop.redis`.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `url`: where it is; needed with `dpop.replay: redis`.
    pub url: Option<RedisUrl>,
    /// `usernameFile`: the name of an ACL user; read again at each connection.
    pub username_file: Option<PathBuf>,
    /// `passwordFile`: the password; read again at each connection.
    pub password_file: Option<PathBuf>,
    /// `caFile`: PEM, instead of the system's certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// `timeout`: how long a check waits for it; default 50 ms.
    pub timeout: Duration,
    /// `allowPlaintext`: permits `redis://` to other than loopback; default false.
    pub allow_plaintext: bool,
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisUrl {
    /// `redis://host:port` or, with TLS, `rediss://host:port`.
    Tcp {
        /// Its name or address, without brackets.
        host: String,
        /// Its port.
        port: u16,
        /// Whether over TLS.
        tls: bool,
    },
    /// `unix:/run/redis/redis.sock`.
    Unix(PathBuf),
}

impl RedisUrl {
    /// Returns whether what is sent there can be read by others on the way.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Tcp { tls: true, .. } | Self::Unix(_) => false,
            Self::Tcp { host, .. } => {
                let address = host.parse::<std::net::IpAddr>();
                host != "localhost" && !address.is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
        }
    }
}

/// `records`: the decision records.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// `to`: `stdout` (default), `off`, or a file that is appended to.
    pub to: RecordSink,
    /// `queueBytes`: what may wait to be written; default 8 MiB.
    pub queue_bytes: usize,
    /// `overflow`: what happens when the queue is full.
    pub overflow: Overflow,
}

/// Where decision records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordSink {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// A file, appended to; opened again when it was moved away.
    File(PathBuf),
}

/// What happens to a record for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// `drop` (default): it is dropped and counted.
    Drop,
    /// `deny`: its check is denied `record_unavailable`.
    Deny,
}

/// `log`.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// `format`.
    pub format: LogFormat,
    /// `level`: a tracing filter such as `info` or `symbolon::trust=debug`; default `info`.
    pub level: String,
}

/// How logs look. They go to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `auto` (default): human on a terminal, JSON elsewhere.
    Auto,
    /// `json`.
    Json,
    /// `human`.
    Human,
}

/// `metrics`.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// `listen`; default `127.0.0.1:9192`. Holds no identities, so it may be opened to the cluster.
    pub listen: Endpoint,
}

/// `admin`.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// `listen`: loopback or a Unix socket only; default `127.0.0.1:9193`.
    pub listen: Endpoint,
}

/// `drain`: what SIGTERM starts.
#[derive(Clone, Debug)]
pub struct DrainSettings {
    /// `grace`: how long checks are still accepted after readiness is withdrawn; default 10 s.
    pub grace: Duration,
    /// `timeout`: how long checks in flight may take after that; default 10 s.
    pub timeout: Duration,
}

const fn loopback(port: u16) -> Endpoint {
    Endpoint::Tcp(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port))
}

impl Default for GrpcSettings {
    fn default() -> Self {
        Self {
            listen: vec![loopback(9191)],
            allow_plaintext: false,
            allow_any_caller: false,
            tls: None,
            max_message_bytes: 1 << 20,
            max_concurrent_streams: 1024,
            max_connections: 4096,
            max_connection_age: Duration::from_secs(30 * 60),
        }
    }
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            deadline_margin: Duration::from_millis(10),
            max_concurrent: 4096,
            drill_panic_path: None,
        }
    }
}

impl Default for ReloadSettings {
    fn default() -> Self {
        Self { poll: Duration::from_secs(5) }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { tokens: 50_000, certificates: 10_000 }
    }
}

impl Default for DpopSettings {
    fn default() -> Self {
        Self {
            algorithms: ["ES256", "EdDSA", "PS256"].map(str::to_owned).to_vec(),
            past: Duration::from_secs(60),
            future: Duration::from_secs(10),
            replay: None,
            replay_entries: 1_000_000,
            redis: RedisSettings::default(),
            nonce_keys_file: None,
        }
    }
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: None,
            username_file: None,
            password_file: None,
            ca_file: None,
            timeout: Duration::from_millis(50),
            allow_plaintext: false,
        }
    }
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self { to: RecordSink::Stdout, queue_bytes: 8 << 20, overflow: Overflow::Drop }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { listen: loopback(9192) }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: loopback(9193) }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), timeout: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests;
