use std::{collections::BTreeSet, io::Write};

use super::*;
use crate::diagnostic::{Diagnostic, Diagnostics};

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Diagnostics> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Settings::load(
        Some(file.path()),
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn mistakes(text: &str, environment: &[(&str, &str)]) -> Vec<Diagnostic> {
    load(text, environment).map_or_else(|error| error.all, |_| Vec::new())
}

#[track_caller]
fn one(text: &str, line: usize, column: usize, field: &str, message: &str) -> Option<String> {
    let found = mistakes(text, &[]);
    let places: Vec<_> = found
        .iter()
        .map(|d| (d.at.line, d.at.column, d.at.field.to_string(), d.message.clone()))
        .collect();
    assert_eq!(places, [(line, column, field.to_owned(), message.to_owned())]);
    found.into_iter().next().and_then(|d| d.help)
}

fn shown(settings: &Settings) -> String {
    format!("{settings:?}")
}

/// A value other than the default for each setting, as in the environment.
const OTHERS: &[(&str, &str)] = &[
    ("policies", "/p"),
    ("workers", "3"),
    ("grpc.listen", "127.0.0.1:1,unix:/run/s.sock"),
    ("grpc.allowPlaintext", "true"),
    ("grpc.allowAnyCaller", "true"),
    ("grpc.tls.certFile", "/c"),
    ("grpc.tls.keyFile", "/k"),
    ("grpc.tls.clientCaFile", "/a"),
    ("grpc.tls.allowedCallers", "spiffe://a/b,spiffe://a/c"),
    ("grpc.maxMessageBytes", "65536"),
    ("grpc.maxConcurrentStreams", "7"),
    ("grpc.maxConnections", "8"),
    ("grpc.maxConnectionAge", "1h"),
    ("check.timeout", "2s"),
    ("check.deadlineMargin", "20ms"),
    ("check.maxConcurrent", "9"),
    ("check.drillPanicPath", "/drill/panic"),
    ("reload.poll", "1s"),
    ("outbound.hosts", "a.example, *.b.example"),
    ("outbound.caFile", "/o"),
    ("outbound.credentialsDir", "/x"),
    ("outbound.proxy", "http://proxy.example:3128"),
    ("stateDir", "/var/lib/symbolon"),
    ("cache.tokens", "10"),
    ("cache.certificates", "11"),
    ("dpop.algorithms", "ES256,PS384"),
    ("dpop.past", "30s"),
    ("dpop.future", "5s"),
    ("dpop.replay", "memory"),
    ("dpop.replayEntries", "12"),
    ("dpop.redis.url", "rediss://redis.example"),
    ("dpop.redis.usernameFile", "/u"),
    ("dpop.redis.passwordFile", "/p"),
    ("dpop.redis.caFile", "/ca"),
    ("dpop.redis.timeout", "20ms"),
    ("dpop.redis.allowPlaintext", "true"),
    ("dpop.nonceKeysFile", "/n"),
    ("records.to", "/var/log/records"),
    ("records.queueBytes", "65536"),
    ("records.overflow", "deny"),
    ("log.format", "json"),
    ("log.level", "debug"),
    ("metrics.listen", "0.0.0.0:9"),
    ("admin.listen", "[::1]:10"),
    ("drain.grace", "0s"),
    ("drain.timeout", "1s"),
    ("ownedHeaders", "x-caller"),
];

#[test]
fn the_path_of_a_drill_is_one_that_a_request_can_have() {
    for path in ["drill", "/drill?x", "/a/../drill", "/a//drill", "/dr%69ll", "/dr;ill"] {
        one(
            &format!("check:\n  drillPanicPath: {path}\n"),
            2,
            19,
            "check.drillPanicPath",
            &format!("`{path}` is no path in canonical form"),
        );
    }
}

#[test]
fn a_redis_is_named_whole_and_without_its_password() {
    let needs = "dpop:\n  replay: redis\n";
    one(
        needs,
        0,
        1,
        "dpop.redis.url",
        "`dpop.redis.url` is missing: `dpop.replay: redis` needs it",
    );
    for (redis, line, column, field, message) in [
        (
            "url: redis://u:p@127.0.0.1",
            4,
            10,
            "url",
            "no user name or password belongs in this address",
        ),
        ("url: http://127.0.0.1", 4, 10, "url", "this is no address of a Redis"),
        ("url: redis://127.0.0.1/2", 4, 10, "url", "this is no address of a Redis"),
        (
            "url: unix:redis.sock",
            4,
            10,
            "url",
            "a Unix socket has an absolute path of at most 107 bytes",
        ),
        (
            "url: redis://redis.example",
            4,
            10,
            "url",
            "plaintext to a Redis that is not on this machine",
        ),
        (
            "{url: rediss://a.example, usernameFile: /u}",
            3,
            50,
            "usernameFile",
            "`dpop.redis.usernameFile` needs `dpop.redis.passwordFile`",
        ),
        (
            "{url: redis://localhost, caFile: /u}",
            3,
            43,
            "caFile",
            "`dpop.redis.caFile` needs `rediss://`",
        ),
    ] {
        let redis =
            if redis.starts_with('{') { format!(" {redis}") } else { format!("\n    {redis}") };
        let text = format!("{needs}  redis:{redis}\n");
        one(&text, line, column, &format!("dpop.redis.{field}"), message);
    }
    let unused = "dpop:\n  redis:\n    url: unix:/r\n";
    one(unused, 3, 10, "dpop.redis.url", "`dpop.redis.url` has no effect here");
    let open = load(
        "",
        &[
            ("SYMBOLON_DPOP_REPLAY", "redis"),
            ("SYMBOLON_DPOP_REDIS_URL", "redis://redis.example"),
            ("SYMBOLON_DPOP_REDIS_ALLOW_PLAINTEXT", "true"),
        ],
    );
    let host = "redis.example".to_owned();
    let url = RedisUrl::Tcp { host, port: 6379, tls: false };
    assert_eq!(open.unwrap().dpop.redis.url, Some(url));
}

#[test]
fn a_proxy_is_an_address_alone_and_what_is_written_is_not_shown() {
    for proxy in [
        "http://user:secret@proxy.example:3128",
        "socks5://proxy.example",
        "secret",
        "http://a/secret",
    ] {
        let mistakes = load(&format!("outbound:\n  proxy: {proxy}\n"), &[]).unwrap_err();
        assert_eq!(mistakes.all.len(), 1);
        assert!(!mistakes.all[0].message.contains("secret"), "{mistakes:?}");
        assert_eq!(&*mistakes.all[0].at.field, "outbound.proxy");
    }
}

#[test]
fn without_a_file_and_environment_settings_are_the_defaults() {
    let settings = Settings::load(None, []).unwrap();
    assert_eq!(shown(&settings), shown(&Settings::default()));
}

#[test]
fn documented_defaults_are_the_defaults() {
    for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
        let value = setting.default.trim_matches(['[', ']']);
        let settings = Settings::load(None, [(setting.variable(), value.to_owned())]).unwrap();
        assert_eq!(shown(&settings), shown(&Settings::default()), "{}", setting.key);
    }
}

#[test]
fn every_setting_can_be_given_in_the_file_and_in_the_environment_alike() {
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(keys, OTHERS.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let mut seen = BTreeSet::from([shown(&Settings::default())]);
    for ((key, value), setting) in OTHERS.iter().zip(SETTINGS) {
        let whole = [
            ("grpc.tls.", "SYMBOLON_GRPC_TLS_CERT_FILE", "/x"),
            ("grpc.tls.", "SYMBOLON_GRPC_TLS_KEY_FILE", "/x"),
            ("grpc.tls.", "SYMBOLON_GRPC_TLS_CLIENT_CA_FILE", "/x"),
            ("dpop.redis.", "SYMBOLON_DPOP_REPLAY", "redis"),
            ("dpop.redis.", "SYMBOLON_DPOP_REDIS_URL", "rediss://x"),
            ("dpop.redis.username", "SYMBOLON_DPOP_REDIS_PASSWORD_FILE", "/x"),
        ];
        let beside: Vec<_> = whole
            .into_iter()
            .filter(|(of, name, _)| key.starts_with(of) && *name != setting.variable())
            .map(|(_, name, value)| (name, value))
            .collect();
        let variable = setting.variable();
        let mut environment = beside.clone();
        environment.push((&variable, value));
        let by_environment = load("", &environment).unwrap_or_else(|e| panic!("{key}: {e:?}"));
        assert!(seen.insert(shown(&by_environment)), "{key} has no effect");
        let value = match setting.kind {
            table::Kind::ListenAll(_) | table::Kind::Texts(..) => {
                let items: Vec<_> = value.split(',').map(|v| format!("\"{}\"", v.trim())).collect();
                format!("[{}]", items.join(", "))
            }
            table::Kind::Number(..) | table::Kind::Flag(_) => (*value).to_owned(),
            table::Kind::Time(..)
            | table::Kind::File(_)
            | table::Kind::RequestPath(_)
            | table::Kind::Listen(_)
            | table::Kind::Filter(_)
            | table::Kind::Records(_)
            | table::Kind::Overflow(_)
            | table::Kind::LogFormat(_)
            | table::Kind::Replay(_)
            | table::Kind::Redis(_)
            | table::Kind::Proxy(_) => format!("\"{value}\""),
        };
        let mut text = String::new();
        for (depth, step) in key.split('.').enumerate() {
            text.extend(["\n", &"  ".repeat(depth), step, ":"]);
        }
        let by_file = load(&format!("{text} {value}\n"), &beside).unwrap();
        assert_eq!(shown(&by_file), shown(&by_environment), "{key}");
    }
}

#[test]
fn variables_are_keys_in_upper_snake_case() {
    let names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    assert!(names.contains(&"SYMBOLON_GRPC_MAX_MESSAGE_BYTES".to_owned()));
    assert!(names.contains(&"SYMBOLON_GRPC_TLS_CLIENT_CA_FILE".to_owned()));
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn the_environment_wins_over_the_file() {
    let settings =
        load("cache: {tokens: 5}\n", &[("SYMBOLON_CACHE_TOKENS", "6"), ("PATH", "/bin")]).unwrap();
    assert_eq!(settings.cache.tokens, 6);
}

#[test]
fn all_mistakes_of_file_and_environment_come_out_of_one_run() {
    let text = "workers: 0\ngrcp: {}\ngrpc:\n  maxMessageByte: 1\ncheck: {}\nlog: {level: \"a=b=c\"}\nworkers: 2\n";
    let found = mistakes(text, &[("SYMBOLON_WORKERS", "many"), ("SYMBOLON_GRPC_LISTN", "x")]);
    let places: Vec<_> =
        found.iter().map(|d| (d.at.line, &*d.at.field, d.message.as_str())).collect();
    assert_eq!(
        places,
        [
            (0, "SYMBOLON_GRPC_LISTN", "`SYMBOLON_GRPC_LISTN`: no setting has this name"),
            (0, "SYMBOLON_WORKERS", "`SYMBOLON_WORKERS`: expected a whole number, found a text"),
            (1, "workers", "expected a whole number from 1 to 1024"),
            (2, "grcp", "unknown field `grcp`"),
            (4, "grpc.maxMessageByte", "unknown field `maxMessageByte`"),
            (5, "check", "an empty map"),
            (6, "log.level", "`a=b=c` is no log filter"),
            (7, "workers", "`workers` is given twice"),
        ]
    );
    let helps: Vec<_> = found.iter().filter_map(|d| d.help.as_deref()).collect();
    for near in ["SYMBOLON_GRPC_LISTEN", "grpc", "maxMessageBytes"] {
        assert!(helps.contains(&format!("did you mean `{near}`?").as_str()), "{helps:?}");
    }
}

#[test]
fn wrong_values_are_placed() {
    for (text, line, column, field, message) in [
        (
            "grpc:\n  listen: [localhost:1]\n",
            2,
            12,
            "grpc.listen[0]",
            "`localhost:1` is no place to listen at",
        ),
        ("grpc:\n  listen: 127.0.0.1:1\n", 2, 11, "grpc.listen", "expected a list, found a text"),
        (
            "grpc:\n  listen: ['unix:s']\n",
            2,
            12,
            "grpc.listen[0]",
            "a Unix socket has an absolute path of at most 107 bytes",
        ),
        (
            "reload:\n  poll: 5\n",
            2,
            9,
            "reload.poll",
            "expected a duration such as `30s`, found a number",
        ),
        ("reload:\n  poll: 1ms\n", 2, 9, "reload.poll", "expected a duration from 100ms to 1h"),
        (
            "records:\n  to: stdot\n",
            2,
            7,
            "records.to",
            "expected `stdout`, `off` or the path of a file, found `stdot`",
        ),
        (
            "records:\n  overflow: block\n",
            2,
            13,
            "records.overflow",
            "expected `drop` or `deny`, found `block`",
        ),
        (
            "cache:\n  tokens: 0\n",
            2,
            11,
            "cache.tokens",
            "expected a whole number from 1 to 10000000",
        ),
        (
            "ownedHeaders: [X-Caller]\n",
            1,
            16,
            "ownedHeaders[0]",
            "expected the name of a header, in lower case, found `X-Caller`",
        ),
        (
            "outbound: {hosts: ['a:1']}\n",
            1,
            20,
            "outbound.hosts[0]",
            "expected a host such as `login.example` or `*.login.example`, in lower case, without port, found `a:1`",
        ),
        ("policies:\n", 1, 1, "policies", "expected a text, found null"),
        (
            "a: [\n",
            2,
            1,
            "",
            "not valid YAML: while parsing a node, did not find expected node content",
        ),
        ("- a\n", 1, 1, "", "expected a map, found a list"),
        ("workers: 1\n---\nreload: {poll: 1s}\n", 3, 1, "", "a config file has one document"),
        (
            "check: {timeout: 10ms, deadlineMargin: 10ms}\n",
            1,
            40,
            "check.deadlineMargin",
            "`check.deadlineMargin` leaves no time: it must be shorter than `check.timeout`",
        ),
        (
            "admin: {listen: '0.0.0.0:1'}\n",
            1,
            17,
            "admin.listen",
            "the admin endpoint shows identities: it listens on loopback or a Unix socket only",
        ),
        (
            "admin: {listen: '127.0.0.1:9191'}\n",
            1,
            17,
            "admin.listen",
            "`admin.listen` listens where `grpc.listen` does",
        ),
    ] {
        one(text, line, column, field, message);
    }
}

#[test]
fn who_may_ask_over_a_network_is_written_out() {
    let tls = "  tls: {certFile: /c, keyFile: /k}\n";
    let help = one(
        "grpc:\n  listen: ['0.0.0.0:1']\n",
        2,
        11,
        "grpc.listen",
        "plaintext on `0.0.0.0:1`, which others can reach",
    );
    assert!(help.unwrap().contains("grpc.allowPlaintext"));
    one(
        &format!("grpc:\n  listen: ['0.0.0.0:1']\n{tls}"),
        2,
        11,
        "grpc.listen",
        "anybody who reaches `0.0.0.0:1` may ask",
    );
    one(
        "grpc:\n  tls: {certFile: /c, keyFile: /k, allowedCallers: ['spiffe://a/b']}\n",
        2,
        52,
        "grpc.tls.allowedCallers",
        "`grpc.tls.allowedCallers` needs `grpc.tls.clientCaFile`",
    );
    one(
        "grpc:\n  tls: {certFile: /c}\n",
        0,
        1,
        "grpc.tls.keyFile",
        "`grpc.tls.keyFile` is missing: TLS needs it",
    );
    for good in [
        "grpc:\n  listen: ['0.0.0.0:1']\n  allowPlaintext: true\n".to_owned(),
        format!("grpc:\n  listen: ['0.0.0.0:1']\n  allowAnyCaller: true\n{tls}"),
        "grpc:\n  listen: ['0.0.0.0:1']\n  tls: {certFile: /c, keyFile: /k, clientCaFile: /a, allowedCallers: ['spiffe://a/b']}\n".to_owned(),
        format!("grpc:\n{tls}"),
    ] {
        assert_eq!(mistakes(&good, &[]), [], "{good}");
    }
}

#[test]
fn a_caller_pattern_that_is_none_is_reported_where_it_stands() {
    let file = "grpc:\n  tls: {certFile: /c, keyFile: /k, clientCaFile: /a, allowedCallers: ['spiffe://*/b']}\n";
    let found = mistakes(file, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let environment = [
        ("SYMBOLON_SERVICE_HOST", "10.0.0.1"),
        ("SYMBOLON_SERVICE_PORT", "9191"),
        ("SYMBOLON_SERVICE_PORT_GRPC", "9191"),
        ("SYMBOLON_PORT", "tcp://10.0.0.1:9191"),
        ("SYMBOLON_PORT_9191_TCP", "tcp://10.0.0.1:9191"),
        ("SYMBOLON_PORT_9191_TCP_PROTO", "tcp"),
        ("SYMBOLON_METRICS_PORT_9192_TCP_ADDR", "10.0.0.1"),
        ("SYMBOLON_CONFIG", "/etc/symbolon.yaml"),
    ];
    assert_eq!(mistakes("", &environment), []);
    assert_eq!(mistakes("", &[("SYMBOLON_PORT", "9191")]).len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Settings::load(Some(std::path::Path::new("/nowhere/x.yaml")), []).unwrap_err();
    assert_eq!(&*error.all[0].at.file, "/nowhere/x.yaml");
    assert!(error.all[0].message.starts_with("the config file cannot be read: "));
}
