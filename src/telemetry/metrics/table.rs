//! The metrics as data: what the documentation is checked against.

/// A metric: a stable name that dashboards and alerts rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub meaning: &'static str,
}

const fn metric(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, labels, meaning }
}

/// Every metric of our own, in the order of the documentation. `process_*` come beside them (Linux).
pub const METRICS: &[Metric] = &[
    metric("symbolon_checks_total", "counter", &["decision", "reason"], "Checks answered."),
    metric(
        "symbolon_check_duration_seconds",
        "histogram",
        &[],
        "Time from a check's arrival to its answer.",
    ),
    metric("symbolon_checks_in_flight", "gauge", &[], "Checks that are being answered."),
    metric("symbolon_panics_total", "counter", &[], "Panics caught; each denied its check."),
    metric(
        "symbolon_policy_generation",
        "gauge",
        &[],
        "Number of the policy load that is live, from 1 in each process; 0 is none.",
    ),
    metric(
        "symbolon_policy_loaded_timestamp_seconds",
        "gauge",
        &[],
        "When the live policy load went live; its age is time() minus this.",
    ),
    metric(
        "symbolon_policy_info",
        "gauge",
        &["hash", "commit"],
        "Content hash and Git commit of the live policy load; always 1.",
    ),
    metric("symbolon_policy_rules", "gauge", &[], "Rules of the live policy load."),
    metric(
        "symbolon_policy_reloads_total",
        "counter",
        &["outcome"],
        "Policy contents that went live (loaded) or could not (failed).",
    ),
    metric(
        "symbolon_policy_reload_failing",
        "gauge",
        &[],
        "1 while what lies on disk is not live because it cannot be loaded.",
    ),
    metric("symbolon_issuer_keys", "gauge", &["issuer"], "Usable keys of an issuer."),
    metric(
        "symbolon_issuer_keys_age_seconds",
        "gauge",
        &["issuer"],
        "Time since an issuer's keys were last had; absent before the first time.",
    ),
    metric(
        "symbolon_issuer_fetch_failures_total",
        "counter",
        &["issuer"],
        "Fetches of an issuer's keys that failed.",
    ),
    metric(
        "symbolon_issuer_keys_unsaved",
        "gauge",
        &["issuer"],
        "1 while an issuer's keys cannot be saved to `stateDir`.",
    ),
    metric(
        "symbolon_introspections_total",
        "counter",
        &["issuer", "outcome"],
        "Questions to an issuer about a token: it is active or inactive, or there was no answer (unavailable).",
    ),
    metric(
        "symbolon_introspection_paused",
        "gauge",
        &["issuer"],
        "1 while an issuer that did not answer about tokens is left alone, and they are denied.",
    ),
    metric("symbolon_cache_entries", "gauge", &["cache"], "Entries of a cache."),
    metric(
        "symbolon_cache_requests_total",
        "counter",
        &["cache", "outcome"],
        "Look-ups in a cache that it answered (hit) or not (miss).",
    ),
    metric(
        "symbolon_replay_store_up",
        "gauge",
        &[],
        "1 while uses of DPoP proofs can be recorded; while it is 0 what needs that is denied.",
    ),
    metric(
        "symbolon_replay_store_errors_total",
        "counter",
        &[],
        "Uses of DPoP proofs that could not be recorded, for want of an answer or of room; each denied its check.",
    ),
    metric(
        "symbolon_records_total",
        "counter",
        &["outcome"],
        "Decision records written, or dropped for want of room.",
    ),
    metric(
        "symbolon_record_write_failures_total",
        "counter",
        &[],
        "Attempts to write decision records that failed; they are repeated.",
    ),
    metric("symbolon_connections", "gauge", &[], "Connections of callers."),
    metric(
        "symbolon_connections_refused_total",
        "counter",
        &["cause"],
        "Connections not taken: too many (limit), no TLS (tls), not on the list (caller).",
    ),
    metric("symbolon_build_info", "gauge", &["version"], "The version that runs; always 1."),
];
