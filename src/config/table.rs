//! The table of settings, which drives reading and is what the documentation is checked against.

use std::{path::PathBuf, time::Duration};

use super::{
    Endpoint, LogFormat, Overflow, RecordSink, RedisUrl, ReplayKind, Settings, TlsSettings,
};

/// A setting of the process.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the config file, such as `grpc.maxMessageBytes`.
    pub key: &'static str,
    /// Its value where it is left out, as it is written; empty where it then has none.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What values it takes, and where they are put.
    pub(super) kind: Kind,
}

impl Setting {
    /// Returns the environment variable that overrides it: `SYMBOLON_GRPC_MAX_MESSAGE_BYTES`.
    #[must_use]
    pub fn variable(&self) -> String {
        let mut name = String::from("SYMBOLON_");
        for character in self.key.chars() {
            match character {
                '.' => name.push('_'),
                c if c.is_ascii_uppercase() => {
                    name.push('_');
                    name.push(c);
                }
                c => name.push(c.to_ascii_uppercase()),
            }
        }
        name
    }
}

/// What values a setting takes, and where they are put.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A whole number from the first to the second.
    Number(u64, u64, fn(&mut Settings, u64)),
    /// A duration; the bounds are in milliseconds.
    Time(u64, u64, fn(&mut Settings, Duration)),
    Flag(fn(&mut Settings, bool)),
    File(fn(&mut Settings, PathBuf)),
    /// The path of a request, in canonical form.
    RequestPath(fn(&mut Settings, String)),
    Listen(fn(&mut Settings, Endpoint)),
    ListenAll(fn(&mut Settings, Vec<Endpoint>)),
    Texts(Shape, fn(&mut Settings, Vec<String>)),
    Filter(fn(&mut Settings, String)),
    Records(fn(&mut Settings, RecordSink)),
    Overflow(fn(&mut Settings, Overflow)),
    LogFormat(fn(&mut Settings, LogFormat)),
    Replay(fn(&mut Settings, ReplayKind)),
    Redis(fn(&mut Settings, RedisUrl)),
    Proxy(fn(&mut Settings, String)),
}

/// What each text of a list is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Host,
    Header,
    ProofAlgorithm,
    Spiffe,
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// All settings, in the order in which they are documented.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "policies",
        default: "",
        meaning: "the policy directory; the `--policies` flag wins",
        kind: Kind::File(|s, v| s.policies = Some(v)),
    },
    Setting {
        key: "workers",
        default: "",
        meaning: "threads that answer checks; left out, one for each core",
        // More threads than any machine has cores only cost memory.
        kind: Kind::Number(1, 1024, |s, v| s.workers = Some(size(v))),
    },
    Setting {
        key: "grpc.listen",
        default: "[127.0.0.1:9191]",
        meaning: "where Envoy asks: `address:port` or `unix:/path`, one or more",
        kind: Kind::ListenAll(|s, v| s.grpc.listen = v),
    },
    Setting {
        key: "grpc.allowPlaintext",
        default: "false",
        meaning: "permits plaintext on other than loopback and Unix sockets, where whoever reaches the port can assert any identity",
        kind: Kind::Flag(|s, v| s.grpc.allow_plaintext = v),
    },
    Setting {
        key: "grpc.allowAnyCaller",
        default: "false",
        meaning: "permits TLS without `allowedCallers` on other than loopback and Unix sockets, where whoever reaches the port can assert any identity",
        kind: Kind::Flag(|s, v| s.grpc.allow_any_caller = v),
    },
    Setting {
        key: "grpc.tls.certFile",
        default: "",
        meaning: "our certificate chain in PEM, leaf first; read again when it changes",
        kind: Kind::File(|s, v| tls(s).cert_file = v),
    },
    Setting {
        key: "grpc.tls.keyFile",
        default: "",
        meaning: "its private key in PEM",
        kind: Kind::File(|s, v| tls(s).key_file = v),
    },
    Setting {
        key: "grpc.tls.clientCaFile",
        default: "",
        meaning: "certificate authorities in PEM; callers are then asked for a certificate, which is verified",
        kind: Kind::File(|s, v| tls(s).client_ca_file = Some(v)),
    },
    Setting {
        key: "grpc.tls.allowedCallers",
        default: "",
        meaning: "SPIFFE patterns of the Envoys that may ask; needs `clientCaFile`",
        kind: Kind::Texts(Shape::Spiffe, |s, v| tls(s).allowed_callers = v),
    },
    Setting {
        key: "grpc.maxMessageBytes",
        default: "1048576",
        meaning: "the largest check that is read; a larger one is denied",
        // Envoy's headers alone may have 60 KiB; 64 MiB for each stream would be a way to use up memory.
        kind: Kind::Number(64 << 10, 64 << 20, |s, v| s.grpc.max_message_bytes = size(v)),
    },
    Setting {
        key: "grpc.maxConcurrentStreams",
        default: "1024",
        meaning: "checks in flight on one connection",
        // Fewer than Envoy expects queue up; more than 2^16 on one connection is an attack.
        kind: Kind::Number(1, 1 << 16, |s, v| s.grpc.max_concurrent_streams = count(v)),
    },
    Setting {
        key: "grpc.maxConnections",
        default: "4096",
        meaning: "connections that are kept open",
        // Each takes a file descriptor.
        kind: Kind::Number(1, 1 << 20, |s, v| s.grpc.max_connections = size(v)),
    },
    Setting {
        key: "grpc.maxConnectionAge",
        default: "30m",
        meaning: "after which a connection is asked to end, with a jitter of a tenth, so that callers spread over replicas",
        // Shorter ones spend more on handshakes than on checks.
        kind: Kind::Time(10_000, 24 * HOUR, |s, v| s.grpc.max_connection_age = v),
    },
    Setting {
        key: "check.timeout",
        default: "1s",
        meaning: "after which a check is denied, whatever Envoy's deadline",
        // Below 10 ms a pause of the machine denies; beyond a minute nobody waits.
        kind: Kind::Time(10, MINUTE, |s, v| s.check.timeout = v),
    },
    Setting {
        key: "check.deadlineMargin",
        default: "10ms",
        meaning: "how long before Envoy's deadline a check is answered",
        // It must leave time within `check.timeout`.
        kind: Kind::Time(0, 10_000, |s, v| s.check.deadline_margin = v),
    },
    Setting {
        key: "check.maxConcurrent",
        default: "4096",
        meaning: "checks in flight in the process; more are denied",
        // Each may hold a message of `grpc.maxMessageBytes`.
        kind: Kind::Number(1, 1 << 20, |s, v| s.check.max_concurrent = size(v)),
    },
    Setting {
        key: "check.drillPanicPath",
        default: "",
        meaning: "a check for this path panics, to show that a panic is a denial; leave it out in production",
        kind: Kind::RequestPath(|s, v| s.check.drill_panic_path = Some(v)),
    },
    Setting {
        key: "reload.poll",
        default: "5s",
        meaning: "how often the policy directory is read again even if nobody said it changed",
        // Below 100 ms reading never ends; beyond an hour a missed change stays too long.
        kind: Kind::Time(100, HOUR, |s, v| s.reload.poll = v),
    },
    Setting {
        key: "outbound.hosts",
        default: "",
        meaning: "hosts that may be contacted for keys and about tokens, exact or `*.suffix`; loopback always may",
        kind: Kind::Texts(Shape::Host, |s, v| s.outbound.hosts = v),
    },
    Setting {
        key: "outbound.caFile",
        default: "",
        meaning: "certificate authorities in PEM for those hosts, instead of the system's",
        kind: Kind::File(|s, v| s.outbound.ca_file = Some(v)),
    },
    Setting {
        key: "outbound.credentialsDir",
        default: "",
        meaning: "our credentials at issuers: for the Issuer `NAME` the files `NAME/client-secret`, `NAME/client-key.pem` (PKCS#8) and `NAME/tls.crt` with `NAME/tls.key`, as its `introspection` needs them; the certificate is presented in every request to that issuer. Read when they are needed",
        kind: Kind::File(|s, v| s.outbound.credentials_dir = Some(v)),
    },
    Setting {
        key: "outbound.proxy",
        default: "",
        meaning: "`http://host:port` of the proxy through which these hosts are contacted (`CONNECT`), but for loopback. The proxy finds their addresses, and has to refuse what is not to be contacted, such as a cloud's metadata service",
        kind: Kind::Proxy(|s, v| s.outbound.proxy = Some(v)),
    },
    Setting {
        key: "stateDir",
        default: "",
        meaning: "a folder of the process's own in which the issuers' last good keys outlive a restart, no longer than their `maxKeyAge`; one for each replica. Who can write to it can add keys",
        kind: Kind::File(|s, v| s.state_dir = Some(v)),
    },
    Setting {
        key: "cache.tokens",
        default: "50000",
        meaning: "verified tokens that are kept",
        // Some 1 KiB each: beyond ten million the cache is larger than the machine.
        kind: Kind::Number(1, 10_000_000, |s, v| s.cache.tokens = size(v)),
    },
    Setting {
        key: "cache.certificates",
        default: "10000",
        meaning: "parsed certificates that are kept",
        // As for tokens.
        kind: Kind::Number(1, 10_000_000, |s, v| s.cache.certificates = size(v)),
    },
    Setting {
        key: "dpop.algorithms",
        default: "[ES256, EdDSA, PS256]",
        meaning: "algorithms of DPoP proofs that are accepted, and named in challenges",
        kind: Kind::Texts(Shape::ProofAlgorithm, |s, v| s.dpop.algorithms = v),
    },
    Setting {
        key: "dpop.past",
        default: "60s",
        meaning: "how old a proof may be, or the nonce in it",
        // Below a second only clocks that agree pass; beyond ten minutes a proof is a password.
        kind: Kind::Time(1_000, 10 * MINUTE, |s, v| s.dpop.past = v),
    },
    Setting {
        key: "dpop.future",
        default: "10s",
        meaning: "how far ahead a proof may be dated",
        // Clocks that are further apart than a minute are wrong.
        kind: Kind::Time(0, MINUTE, |s, v| s.dpop.future = v),
    },
    Setting {
        key: "dpop.replay",
        default: "",
        meaning: "where used proofs are remembered: `memory`, each replica for itself, so that a proof passes once at each, or `redis`, which replicas share. Left out it is `memory`, and the log warns of it where proofs are used",
        kind: Kind::Replay(|s, v| s.dpop.replay = Some(v)),
    },
    Setting {
        key: "dpop.replayEntries",
        default: "1000000",
        meaning: "used proofs that are remembered in memory, some 130 bytes each; when it is full, new ones are denied",
        // Fewer do not hold a minute of one busy client.
        kind: Kind::Number(1, 100_000_000, |s, v| s.dpop.replay_entries = size(v)),
    },
    Setting {
        key: "dpop.redis.url",
        default: "",
        meaning: "`rediss://host:port`, `redis://host:port` or `unix:/path`: one primary of Redis 7 or later (or Valkey), whose `maxmemory-policy` is `noeviction`; no cluster",
        kind: Kind::Redis(|s, v| s.dpop.redis.url = Some(v)),
    },
    Setting {
        key: "dpop.redis.usernameFile",
        default: "",
        meaning: "the name of the ACL user; read again at each connection",
        kind: Kind::File(|s, v| s.dpop.redis.username_file = Some(v)),
    },
    Setting {
        key: "dpop.redis.passwordFile",
        default: "",
        meaning: "the password; read again at each connection",
        kind: Kind::File(|s, v| s.dpop.redis.password_file = Some(v)),
    },
    Setting {
        key: "dpop.redis.caFile",
        default: "",
        meaning: "certificate authorities in PEM for `rediss://`, instead of the system's; read again at each connection",
        kind: Kind::File(|s, v| s.dpop.redis.ca_file = Some(v)),
    },
    Setting {
        key: "dpop.redis.timeout",
        default: "50ms",
        meaning: "how long a check waits for Redis; then it is denied. Never longer than the check itself may take",
        // No network answers within less; the check itself ends within a second.
        kind: Kind::Time(1, 10_000, |s, v| s.dpop.redis.timeout = v),
    },
    Setting {
        key: "dpop.redis.allowPlaintext",
        default: "false",
        meaning: "permits `redis://` to other than loopback, where whoever is on the way reads the password and can have used proofs forgotten",
        kind: Kind::Flag(|s, v| s.dpop.redis.allow_plaintext = v),
    },
    Setting {
        key: "dpop.nonceKeysFile",
        default: "",
        meaning: "secrets of nonces, shared by replicas: lines of at least 32 random bytes in base64url, the first of which makes nonces while all recognise them; read again when it changes. Left out, each process has its own",
        kind: Kind::File(|s, v| s.dpop.nonce_keys_file = Some(v)),
    },
    Setting {
        key: "records.to",
        default: "stdout",
        meaning: "where decision records go: `stdout`, `off` or the path of a file",
        kind: Kind::Records(|s, v| s.records.to = v),
    },
    Setting {
        key: "records.queueBytes",
        default: "8388608",
        meaning: "what may wait to be written",
        // Less than 64 KiB does not hold one burst; more than 1 GiB is memory the checks need.
        kind: Kind::Number(64 << 10, 1 << 30, |s, v| s.records.queue_bytes = size(v)),
    },
    Setting {
        key: "records.overflow",
        default: "drop",
        meaning: "what happens when there is no room: `drop` the record and count it, or `deny` its check",
        kind: Kind::Overflow(|s, v| s.records.overflow = v),
    },
    Setting {
        key: "log.format",
        default: "auto",
        meaning: "`json`, `human`, or `auto`: human on a terminal",
        kind: Kind::LogFormat(|s, v| s.log.format = v),
    },
    Setting {
        key: "log.level",
        default: "info",
        meaning: "a filter such as `info` or `warn,symbolon::trust=debug`",
        kind: Kind::Filter(|s, v| s.log.level = v),
    },
    Setting {
        key: "metrics.listen",
        default: "127.0.0.1:9192",
        meaning: "where `/metrics`, `/livez` and `/readyz` are served, without identities",
        kind: Kind::Listen(|s, v| s.metrics.listen = v),
    },
    Setting {
        key: "admin.listen",
        default: "127.0.0.1:9193",
        meaning: "where `/status` is served: loopback or a Unix socket only",
        kind: Kind::Listen(|s, v| s.admin.listen = v),
    },
    Setting {
        key: "drain.grace",
        default: "10s",
        meaning: "how long checks are still accepted after SIGTERM has withdrawn readiness",
        // Kubernetes kills after 30 s unless told otherwise; an hour is beyond any load balancer.
        kind: Kind::Time(0, HOUR, |s, v| s.drain.grace = v),
    },
    Setting {
        key: "drain.timeout",
        default: "10s",
        meaning: "how long checks in flight may take after that",
        // As for `drain.grace`; zero would cut answers off.
        kind: Kind::Time(1, HOUR, |s, v| s.drain.timeout = v),
    },
    Setting {
        key: "ownedHeaders",
        default: "",
        meaning: "headers that stay symbolon's own though no policy sets them any more",
        kind: Kind::Texts(Shape::Header, |s, v| s.owned_headers = v),
    },
];

/// The bounds above fit every machine this runs on.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn tls(settings: &mut Settings) -> &mut TlsSettings {
    settings.grpc.tls.get_or_insert_default()
}
