//! Metrics are an interface: their names, labels and counting.

use std::time::Duration;

use super::{
    CacheSample, IntrospectionSample, IssuerSample, METRICS, Metrics, RefusedConnection,
    ReloadOutcome,
};
use crate::{clock::UnixTime, reason::Reason, snapshot::Generation};

fn filled() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.policy_live(&Generation {
        number: 3,
        hash: "abc".into(),
        commit: Some("def".into()),
        loaded: UnixTime::from_secs(1_700_000_000),
    });
    metrics.set_issuer_source(Box::new(|| {
        let age = Some(Duration::from_secs(7));
        let outcomes = [("active", 7), ("inactive", 8), ("unavailable", 9)];
        let introspection = Some(IntrospectionSample { outcomes, paused: true });
        let (issuer, unsaved) = ("corp".into(), true);
        vec![IssuerSample { issuer, keys: 2, age, failures: 5, unsaved, introspection }]
    }));
    metrics.set_cache_source(Box::new(|| {
        vec![CacheSample { cache: "tokens", entries: 4, hits: 9, misses: 1 }]
    }));
    metrics
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn every_metric_is_in_the_table_with_its_type_and_labels() {
    let metrics = filled();
    let mut seen = Vec::new();
    let _first = metrics.encode();
    for family in metrics.registry.gather() {
        if family.name().starts_with("process_") {
            continue;
        }
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let mut labels: Vec<_> =
            family.get_metric()[0].get_label().iter().map(|l| l.name().to_owned()).collect();
        labels.sort_unstable();
        let metric = METRICS.iter().find(|metric| metric.name == family.name());
        let metric = metric.unwrap_or_else(|| panic!("{} is not in the table", family.name()));
        let mut expected = metric.labels.to_vec();
        expected.sort_unstable();
        assert_eq!(
            (kind.as_str(), labels),
            (metric.kind, expected.iter().map(|l| (*l).to_owned()).collect())
        );
        assert_eq!(family.help(), metric.meaning);
        seen.push(metric.name);
    }
    assert_eq!(seen.len(), METRICS.len(), "{seen:?}");
}

#[test]
fn each_check_adds_one_to_one_counter_and_to_the_histogram() {
    for reason in Reason::ALL {
        let metrics = Metrics::new().unwrap();
        metrics.check(*reason, Duration::from_micros(7));
        let text = metrics.encode();
        let decision = if *reason == Reason::Allowed { "allow" } else { "deny" };
        let series =
            format!("symbolon_checks_total{{decision=\"{decision}\",reason=\"{reason}\"}}");
        assert!((value(&text, &series) - 1.0).abs() < f64::EPSILON);
        let checks = text.lines().filter(|line| line.starts_with("symbolon_checks_total{"));
        let (mut sum, mut number) = (0.0, 0);
        for line in checks {
            sum += line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
            number += 1;
        }
        assert_eq!(number, Reason::ALL.len());
        assert!((sum - 1.0).abs() < f64::EPSILON);
        assert!(
            (value(&text, "symbolon_check_duration_seconds_bucket{le=\"0.000005\"}")).abs() < 0.1
        );
        assert!(
            (value(&text, "symbolon_check_duration_seconds_bucket{le=\"0.00001\"}") - 1.0).abs()
                < 0.1
        );
    }
}

#[test]
fn what_is_asked_at_a_scrape_is_set_and_not_added_up() {
    let metrics = filled();
    let _first = metrics.encode();
    let text = metrics.encode();
    for (series, expected) in [
        ("symbolon_issuer_keys{issuer=\"corp\"}", 2.0),
        ("symbolon_issuer_keys_age_seconds{issuer=\"corp\"}", 7.0),
        ("symbolon_issuer_fetch_failures_total{issuer=\"corp\"}", 5.0),
        ("symbolon_introspections_total{issuer=\"corp\",outcome=\"inactive\"}", 8.0),
        ("symbolon_introspection_paused{issuer=\"corp\"}", 1.0),
        ("symbolon_cache_entries{cache=\"tokens\"}", 4.0),
        ("symbolon_cache_requests_total{cache=\"tokens\",outcome=\"hit\"}", 9.0),
        ("symbolon_policy_generation", 3.0),
        ("symbolon_policy_loaded_timestamp_seconds", 1_700_000_000.0),
        ("symbolon_policy_info{commit=\"def\",hash=\"abc\"}", 1.0),
    ] {
        assert!((value(&text, series) - expected).abs() < f64::EPSILON, "{series}");
    }
    metrics.set_issuer_source(Box::new(Vec::new));
    assert!(!metrics.encode().contains("issuer=\"corp\""));
}

#[test]
fn a_new_generation_takes_the_place_of_the_old_one() {
    let metrics = filled();
    let loaded = UnixTime::from_secs(1);
    metrics.policy_live(&Generation { number: 4, hash: "new".into(), commit: None, loaded });
    let text = metrics.encode();
    assert!(!text.contains("abc"));
    assert!((value(&text, "symbolon_policy_info{commit=\"\",hash=\"new\"}") - 1.0).abs() < 0.1);
}

#[test]
fn what_is_held_is_counted_until_it_is_dropped() {
    let metrics = Metrics::new().unwrap();
    let held = (metrics.check_started(), metrics.connection());
    let text = metrics.encode();
    assert!((value(&text, "symbolon_checks_in_flight") - 1.0).abs() < 0.1);
    assert!((value(&text, "symbolon_connections") - 1.0).abs() < 0.1);
    drop(held);
    let text = metrics.encode();
    assert!(value(&text, "symbolon_checks_in_flight").abs() < 0.1);
    assert!(value(&text, "symbolon_connections").abs() < 0.1);
}

#[test]
fn counters_go_to_their_own_label() {
    let metrics = Metrics::new().unwrap();
    metrics.reload(ReloadOutcome::Failed);
    metrics.connection_refused(RefusedConnection::Caller);
    metrics.records_written(5);
    metrics.records_dropped(2);
    metrics.record_write_failed();
    metrics.panic();
    metrics.policy_rules(12);
    let text = metrics.encode();
    for (series, expected) in [
        ("symbolon_policy_reloads_total{outcome=\"loaded\"}", 0.0),
        ("symbolon_policy_reloads_total{outcome=\"failed\"}", 1.0),
        ("symbolon_connections_refused_total{cause=\"caller\"}", 1.0),
        ("symbolon_connections_refused_total{cause=\"tls\"}", 0.0),
        ("symbolon_records_total{outcome=\"written\"}", 5.0),
        ("symbolon_records_total{outcome=\"dropped\"}", 2.0),
        ("symbolon_record_write_failures_total", 1.0),
        ("symbolon_panics_total", 1.0),
        ("symbolon_policy_rules", 12.0),
    ] {
        assert!((value(&text, series) - expected).abs() < f64::EPSILON, "{series}");
    }
}
