//! Reads the config file and the environment: all mistakes at once.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    Endpoint, LogFormat, Overflow, RecordSink, RedisUrl, ReplayKind, Settings, check,
    table::{Kind, SETTINGS, Setting, Shape},
};
use crate::{
    diagnostic::{At, Diagnostic, Diagnostics},
    evidence::path::Path,
    policy::{
        decode::{Decoded, Decoder, text},
        pattern::SpiffePattern,
        yaml::{self, Node, Value},
    },
};

/// Names the config file where the command line does not.
const CONFIG_VARIABLE: &str = "SYMBOLON_CONFIG";

/// A Unix socket's path has this many bytes at most (`sun_path` less the closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// Where a Redis listens unless it is told otherwise.
const REDIS_PORT: u16 = 6379;

/// What proofs may be signed with.
const PROOF_ALGORITHMS: [&str; 7] = ["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512"];

/// Where each setting that was given stands.
pub(super) type Places = BTreeMap<&'static str, At>;

impl Settings {
    /// Reads the settings: defaults, then `file`, then `environment`.
    ///
    /// It does not look whether the files that are named exist.
    ///
    /// # Errors
    /// Every mistake of the file, with its line and field, and of the environment, with the variable; a
    /// variable `SYMBOLON_…` that is no setting; settings that contradict each other.
    pub fn load(
        file: Option<&std::path::Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Diagnostics> {
        let mut loading = Loading {
            settings: Self::default(),
            decoder: Decoder::default(),
            places: Places::new(),
        };
        let mut sources = Vec::new();
        let name: Arc<str> =
            file.map_or_else(|| Arc::from("settings"), |f| Arc::from(f.to_string_lossy()));
        let whole = At { line: 0, ..yaml::start_of(&name) };
        if let Some(path) = file {
            match std::fs::read(path) {
                Ok(bytes) => {
                    loading.file(&name, &bytes);
                    sources.push((Arc::clone(&name), Arc::from(String::from_utf8_lossy(&bytes))));
                }
                Err(error) => {
                    loading
                        .decoder
                        .wrong(&whole, format!("the config file cannot be read: {error}"));
                }
            }
        }
        loading.environment(environment);
        let Loading { settings, mut decoder, places } = loading;
        check::check(&settings, &places, &whole, &mut decoder);
        if decoder.diagnostics.is_empty() {
            return Ok(settings);
        }
        let mut all = decoder.diagnostics;
        all.sort_by_key(|mistake| (mistake.at.line, mistake.at.column));
        Err(Diagnostics { all, sources, root: PathBuf::new() })
    }

    /// Reads the settings with the environment of the process; without `file` from the one that
    /// `SYMBOLON_CONFIG` names, if it names any.
    ///
    /// # Errors
    /// As [`Self::load`]. A variable that is not UTF-8 is taken with replacement characters, which no
    /// setting takes.
    pub fn from_process(file: Option<&std::path::Path>) -> Result<Self, Diagnostics> {
        let named = std::env::vars_os().find(|(name, _)| name == CONFIG_VARIABLE);
        let named = named.map(|(_, path)| PathBuf::from(path));
        Self::load(
            file.or(named.as_deref()),
            std::env::vars_os().map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            }),
        )
    }
}

struct Loading {
    settings: Settings,
    decoder: Decoder,
    places: Places,
}

impl Loading {
    fn file(&mut self, name: &Arc<str>, bytes: &[u8]) {
        let yaml::File { documents, unreadable } = yaml::read(name, bytes);
        self.decoder.diagnostics.extend(unreadable);
        for (index, document) in documents.into_iter().enumerate() {
            if index > 0 {
                self.decoder.wrong(&document.root.at, "a config file has one document");
            }
            self.decoder.diagnostics.extend(document.mistakes);
            // A file in which every line is commented out asks for the defaults.
            if !document.restricted && document.root.value != Value::Null {
                self.part("", &document.root);
            }
        }
    }

    /// Reads a map of settings and of further parts.
    fn part(&mut self, prefix: &str, node: &Node) {
        let Ok(entries) = self.decoder.entries(node) else { return };
        for entry in entries {
            let key = format!("{prefix}{}", entry.key.value);
            let inner = format!("{key}.");
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
                if !self.places.contains_key(setting.key) {
                    self.set(setting, &entry.node);
                }
            } else if SETTINGS.iter().any(|setting| setting.key.starts_with(&inner)) {
                self.part(&inner, &entry.node);
            } else {
                self.unknown(prefix, &entry.key.value, &entry.key.at);
            }
        }
    }

    fn unknown(&mut self, prefix: &str, key: &str, at: &At) {
        let mut known: Vec<&str> = SETTINGS
            .iter()
            .filter_map(|setting| setting.key.strip_prefix(prefix))
            .map(|rest| rest.split('.').next().unwrap_or(rest))
            .collect();
        known.dedup();
        let mistake = Diagnostic::new(at, format!("unknown field `{key}`"));
        self.decoder.report(match text::nearest(key, &known) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake.help(format!("known here: {}", text::and(&known))),
        });
    }

    fn environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let names: BTreeMap<String, &Setting> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        let given: BTreeMap<String, String> =
            environment.into_iter().filter(|(name, _)| name.starts_with("SYMBOLON_")).collect();
        for (name, value) in given {
            let at = At {
                file: Arc::from("environment"),
                field: Arc::from(name.as_str()),
                ..At::default()
            };
            let before = self.decoder.diagnostics.len();
            if let Some(setting) = names.get(&name) {
                self.set(setting, &node_of(setting.kind, &value, &at));
            } else if name != CONFIG_VARIABLE && !is_service_link(&name, &value) {
                let known: Vec<&str> = names.keys().map(String::as_str).collect();
                let mistake = Diagnostic::new(&at, "no setting has this name");
                self.decoder.report(match text::nearest(&name, &known) {
                    Some(near) => mistake.help(format!("did you mean `{near}`?")),
                    None => mistake.help("take it out of the environment"),
                });
            }
            for mistake in self.decoder.diagnostics.iter_mut().skip(before) {
                mistake.message = format!("`{name}`: {}", mistake.message);
            }
        }
    }

    fn set(&mut self, setting: &Setting, node: &Node) {
        self.places.insert(setting.key, node.at.clone());
        // What is wrong is reported, and then the settings are not used.
        let _reported = read(&mut self.decoder, &mut self.settings, setting.kind, node);
    }
}

/// Says whether Kubernetes put a variable there: a Service called `symbolon` or `symbolon-…` gives every
/// pod beside it names that look like settings.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT")
            && ["tcp", "udp", "sctp"].iter().any(|protocol| {
                value.starts_with(&format!("{protocol}://"))
                    || name.contains(&format!("_{}_", protocol.to_ascii_uppercase()))
            }))
}

/// Returns the value of a variable as it would stand in the file.
fn node_of(kind: Kind, text: &str, at: &At) -> Node {
    let as_text = |text: &str| Value::Text(text.to_owned());
    let value = match kind {
        Kind::Number(..) => text
            .parse::<u64>()
            .map_or_else(|_not_a_number| as_text(text), |number| Value::Number(number.into())),
        Kind::Flag(_) => match text {
            "true" => Value::Flag(true),
            "false" => Value::Flag(false),
            _ => as_text(text),
        },
        Kind::ListenAll(_) | Kind::Texts(..) => Value::List(
            text.split(',')
                .map(|item| Node { at: at.clone(), value: as_text(item.trim()) })
                .collect(),
        ),
        Kind::Time(..)
        | Kind::File(_)
        | Kind::RequestPath(_)
        | Kind::Listen(_)
        | Kind::Filter(_)
        | Kind::Records(_)
        | Kind::Overflow(_)
        | Kind::LogFormat(_)
        | Kind::Replay(_)
        | Kind::Redis(_)
        | Kind::Proxy(_) => as_text(text),
    };
    Node { at: at.clone(), value }
}

fn read(decoder: &mut Decoder, settings: &mut Settings, kind: Kind, node: &Node) -> Decoded<()> {
    match kind {
        Kind::Number(least, most, set) => set(settings, decoder.integer(node, &(least..=most))?),
        Kind::Time(least, most, set) => {
            let bounds = Duration::from_millis(least)..=Duration::from_millis(most);
            set(settings, decoder.duration(node, &bounds)?);
        }
        Kind::Flag(set) => set(settings, decoder.flag(node)?),
        Kind::File(set) => set(settings, PathBuf::from(decoder.text(node)?.value)),
        Kind::RequestPath(set) => set(settings, request_path(decoder, node)?),
        Kind::Listen(set) => set(settings, endpoint(decoder, node)?),
        Kind::ListenAll(set) => set(settings, decoder.list(node, endpoint)?),
        Kind::Texts(shape, set) => {
            let texts = decoder.list(node, |decoder, item| shaped(decoder, shape, item))?;
            set(settings, texts);
        }
        Kind::Filter(set) => {
            let filter = decoder.text(node)?.value;
            if tracing_subscriber::EnvFilter::try_new(&filter).is_err() {
                return Err(decoder.report(
                    Diagnostic::new(&node.at, format!("`{filter}` is no log filter"))
                        .help("such as `info` or `warn,symbolon::trust=debug`"),
                ));
            }
            set(settings, filter);
        }
        Kind::Records(set) => {
            let sink = decoder.text(node)?.value;
            set(
                settings,
                match sink.as_str() {
                    "stdout" => RecordSink::Stdout,
                    "off" => RecordSink::Off,
                    // A misspelt word must not become a file's name.
                    path if path.contains('/') => RecordSink::File(PathBuf::from(path)),
                    _ => {
                        return Err(decoder.report(
                            Diagnostic::new(
                                &node.at,
                                format!(
                                    "expected `stdout`, `off` or the path of a file, found `{sink}`"
                                ),
                            )
                            .help("write a file as `/path/to/it` or `./it`"),
                        ));
                    }
                },
            );
        }
        Kind::Overflow(set) => {
            let words = [("drop", Overflow::Drop), ("deny", Overflow::Deny)];
            set(settings, decoder.word(node, &words)?);
        }
        Kind::LogFormat(set) => {
            let words =
                [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("human", LogFormat::Human)];
            set(settings, decoder.word(node, &words)?);
        }
        Kind::Replay(set) => {
            let words = [("memory", ReplayKind::Memory), ("redis", ReplayKind::Redis)];
            set(settings, decoder.word(node, &words)?);
        }
        Kind::Redis(set) => set(settings, redis_url(decoder, node)?),
        Kind::Proxy(set) => set(settings, proxy_url(decoder, node)?),
    }
    Ok(())
}

/// The address alone: a password in a setting is soon in a log.
fn redis_url(decoder: &mut Decoder, node: &Node) -> Decoded<RedisUrl> {
    let text = decoder.text(node)?.value;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.starts_with('/') && path.len() <= MAX_SOCKET_PATH {
            return Ok(RedisUrl::Unix(PathBuf::from(path)));
        }
        return Err(decoder.wrong(
            &node.at,
            format!("a Unix socket has an absolute path of at most {MAX_SOCKET_PATH} bytes"),
        ));
    }
    let url = text.parse::<reqwest::Url>().ok();
    if url.as_ref().is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
        return Err(decoder.report(
            Diagnostic::new(&node.at, "no user name or password belongs in this address").help(
                "name the files that hold them by `dpop.redis.usernameFile` and `dpop.redis.passwordFile`",
            ),
        ));
    }
    let read = url.and_then(|url| {
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return None,
        };
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port().unwrap_or(REDIS_PORT);
        let is_whole = bare && url.fragment().is_none() && !host.is_empty();
        is_whole.then_some(RedisUrl::Tcp { host, port, tls })
    });
    read.ok_or_else(|| {
        decoder.report(
            // Not shown: it may hold what should not be in it.
            Diagnostic::new(&node.at, "this is no address of a Redis").help(
                "write it as `rediss://redis.example:6379`, `redis://127.0.0.1:6379` or `unix:/path`",
            ),
        )
    })
}

/// The address alone, as with Redis.
fn proxy_url(decoder: &mut Decoder, node: &Node) -> Decoded<String> {
    let text = decoder.text(node)?.value;
    let is_bare = text.parse::<reqwest::Url>().is_ok_and(|url| {
        url.scheme() == "http"
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if is_bare {
        return Ok(text);
    }
    Err(decoder.report(
        Diagnostic::new(&node.at, "this is no address of a proxy")
            .help("write it as `http://proxy.example:3128`, without user name, password and path"),
    ))
}

fn endpoint(decoder: &mut Decoder, node: &Node) -> Decoded<Endpoint> {
    let text = decoder.text(node)?.value;
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') || path.len() > MAX_SOCKET_PATH {
            return Err(decoder.wrong(
                &node.at,
                format!("a Unix socket has an absolute path of at most {MAX_SOCKET_PATH} bytes"),
            ));
        }
        return Ok(Endpoint::Unix(PathBuf::from(path)));
    }
    text.parse::<SocketAddr>().map(Endpoint::Tcp).map_err(|_not_an_address| {
        decoder.report(
            Diagnostic::new(&node.at, format!("`{text}` is no place to listen at"))
                .help("write it as `127.0.0.1:9191`, `[::1]:9191`, `0.0.0.0:9191` or `unix:/path`"),
        )
    })
}

/// A path that is not canonical would match no request's.
fn request_path(decoder: &mut Decoder, node: &Node) -> Decoded<String> {
    let text = decoder.text(node)?.value;
    let path = Path::read(&text, "GET");
    if path.forms.is_empty() && path.canonical == text {
        return Ok(text);
    }
    Err(decoder.report(
        Diagnostic::new(&node.at, format!("`{text}` is no path in canonical form"))
            .help("write it as `/drill/panic`: a slash first, no query"),
    ))
}

fn shaped(decoder: &mut Decoder, shape: Shape, node: &Node) -> Decoded<String> {
    let text = decoder.text(node)?.value;
    let (is_good, what) = match shape {
        Shape::Host => (
            is_host(&text),
            "a host such as `login.example` or `*.login.example`, in lower case, without port",
        ),
        Shape::Header => (
            http::HeaderName::from_lowercase(text.as_bytes()).is_ok(),
            "the name of a header, in lower case",
        ),
        // RFC 9449 §11.6: asymmetric ones; those of PKCS #1 v1.5 only for what is signed already.
        Shape::ProofAlgorithm => (
            PROOF_ALGORITHMS.contains(&text.as_str()),
            "one of `ES256`, `ES384`, `ES512`, `EdDSA`, `PS256`, `PS384` and `PS512`",
        ),
        Shape::Spiffe => (
            SpiffePattern::parse(&text).is_ok(),
            "a SPIFFE pattern such as `spiffe://prod.example/ns/*/sa/gateway`",
        ),
    };
    if is_good {
        return Ok(text);
    }
    Err(decoder.wrong(&node.at, format!("expected {what}, found `{text}`")))
}

fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        });
    is_name || text.parse::<std::net::Ipv6Addr>().is_ok()
}
