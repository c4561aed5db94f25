//! What settings must hold together.

use super::{Endpoint, RedisUrl, ReplayKind, Settings, load::Places};
use crate::{
    diagnostic::{At, Diagnostic},
    policy::decode::Decoder,
};

/// Reports settings that contradict each other or open more than was written out. `whole` stands for
/// settings that were left out.
pub(super) fn check(settings: &Settings, places: &Places, whole: &At, decoder: &mut Decoder) {
    let place = |key: &str| {
        places.get(key).cloned().unwrap_or_else(|| At { field: key.into(), ..whole.clone() })
    };
    tls(settings, &place, decoder);
    callers(settings, &place, decoder);
    if !settings.admin.listen.is_local() {
        decoder.report(
            Diagnostic::new(
                &place("admin.listen"),
                "the admin endpoint shows identities: it listens on loopback or a Unix socket only",
            )
            .help("write it as `127.0.0.1:9193` or `unix:/run/symbolon/admin.sock`"),
        );
    }
    if settings.check.deadline_margin >= settings.check.timeout {
        decoder.wrong(
            &place("check.deadlineMargin"),
            "`check.deadlineMargin` leaves no time: it must be shorter than `check.timeout`",
        );
    }
    redis(settings, places, &place, decoder);
    collisions(settings, &place, decoder);
}

fn redis(settings: &Settings, places: &Places, place: &impl Fn(&str) -> At, decoder: &mut Decoder) {
    let redis = &settings.dpop.redis;
    if settings.dpop.replay != Some(ReplayKind::Redis) {
        // Whoever names a Redis means to use it. A wrong `dpop.replay` is reported already.
        let is_wrong = settings.dpop.replay.is_none() && places.contains_key("dpop.replay");
        if let Some(at) = places.get("dpop.redis.url").filter(|_| !is_wrong) {
            let mistake = Diagnostic::new(at, "`dpop.redis.url` has no effect here");
            decoder.report(mistake.help("it needs `dpop.replay: redis`"));
        }
        return;
    }
    let at = place("dpop.redis.url");
    match &redis.url {
        None if !places.contains_key("dpop.redis.url") => {
            decoder.wrong(&at, "`dpop.redis.url` is missing: `dpop.replay: redis` needs it");
        }
        Some(url) if url.is_exposed() && !redis.allow_plaintext => {
            let mistake = Diagnostic::new(&at, "plaintext to a Redis that is not on this machine");
            decoder.report(mistake.help(
                "write it as `rediss://`, or permit it by `dpop.redis.allowPlaintext: true`",
            ));
        }
        None | Some(_) => {}
    }
    if redis.username_file.is_some() && redis.password_file.is_none() {
        decoder.wrong(
            &place("dpop.redis.usernameFile"),
            "`dpop.redis.usernameFile` needs `dpop.redis.passwordFile`",
        );
    }
    if redis.ca_file.is_some()
        && matches!(redis.url, Some(RedisUrl::Tcp { tls: false, .. } | RedisUrl::Unix(_)))
    {
        decoder.wrong(&place("dpop.redis.caFile"), "`dpop.redis.caFile` needs `rediss://`");
    }
}

fn tls(settings: &Settings, place: &impl Fn(&str) -> At, decoder: &mut Decoder) {
    let Some(tls) = &settings.grpc.tls else { return };
    for (key, file) in [("grpc.tls.certFile", &tls.cert_file), ("grpc.tls.keyFile", &tls.key_file)]
    {
        let at = place(key);
        // One that was given and is wrong is reported already.
        if file.as_os_str().is_empty() && at.field.as_ref() == key && at.line == 0 {
            decoder.wrong(&at, format!("`{key}` is missing: TLS needs it"));
        }
    }
    if tls.client_ca_file.is_none() && !tls.allowed_callers.is_empty() {
        decoder.report(
            Diagnostic::new(
                &place("grpc.tls.allowedCallers"),
                "`grpc.tls.allowedCallers` needs `grpc.tls.clientCaFile`",
            )
            .help("without it no caller is asked for a certificate"),
        );
    }
}

/// Whoever can ask can assert any peer: on a network that is Envoy only if it is written down.
fn callers(settings: &Settings, place: &impl Fn(&str) -> At, decoder: &mut Decoder) {
    let grpc = &settings.grpc;
    let Some(open) = grpc.listen.iter().find(|endpoint| !endpoint.is_local()) else { return };
    let at = place("grpc.listen");
    let Endpoint::Tcp(open) = open else { return };
    match &grpc.tls {
        None if !grpc.allow_plaintext => {
            decoder.report(
                Diagnostic::new(&at, format!("plaintext on `{open}`, which others can reach"))
                    .help("give `grpc.tls`, or permit it by `grpc.allowPlaintext: true`"),
            );
        }
        Some(tls) if tls.allowed_callers.is_empty() && !grpc.allow_any_caller => {
            decoder.report(
                Diagnostic::new(&at, format!("anybody who reaches `{open}` may ask"))
                    .help("name the Envoys by `grpc.tls.clientCaFile` and `grpc.tls.allowedCallers`, or permit it by `grpc.allowAnyCaller: true`"),
            );
        }
        None | Some(_) => {}
    }
}

/// Two servers cannot have one address.
fn collisions(settings: &Settings, place: &impl Fn(&str) -> At, decoder: &mut Decoder) {
    let mut seen: Vec<(&str, &Endpoint)> = Vec::new();
    let grpc = settings.grpc.listen.iter().map(|endpoint| ("grpc.listen", endpoint));
    let others =
        [("metrics.listen", &settings.metrics.listen), ("admin.listen", &settings.admin.listen)];
    for (key, endpoint) in grpc.chain(others) {
        // The system chooses another port each time.
        if matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0) {
            continue;
        }
        if let Some((first, _)) = seen.iter().find(|(_, other)| *other == endpoint) {
            let message = format!("`{key}` listens where `{first}` does");
            decoder.wrong(&place(key), message);
        }
        seen.push((key, endpoint));
    }
}
