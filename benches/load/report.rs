//! What was seen: medians, ratios and their spread, for people and as JSON.

use std::fmt;

/// One server in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Microseconds of CPU per check.
    pub(crate) cpu: f64,
    /// Checks per second.
    pub(crate) rate: f64,
    /// Microseconds, few checks in flight.
    pub(crate) p50: f64,
    /// Microseconds, few checks in flight.
    pub(crate) p99: f64,
    /// Microseconds, at full load.
    pub(crate) loaded_p50: f64,
    /// Microseconds, at full load.
    pub(crate) loaded_p99: f64,
}

/// Both servers in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// What is measured.
    pub(crate) subject: Sample,
    /// What it is measured against.
    pub(crate) noop: Sample,
}

/// All that one run saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// What is measured.
    pub(crate) subject: &'static str,
    /// Rules in the policy set.
    pub(crate) rules: u32,
    /// Microseconds of CPU per check while nothing was cached.
    pub(crate) cold: f64,
    /// The rounds, at least one.
    pub(crate) rounds: Vec<Round>,
}

/// A figure of the report: its name, its key in the JSON object and where it is in a sample.
struct Figure {
    name: &'static str,
    key: &'static str,
    of: fn(&Sample) -> f64,
}

const FIGURES: [Figure; 6] = [
    Figure { name: "CPU per check, µs", key: "cpu", of: |sample| sample.cpu },
    Figure { name: "checks per second", key: "rps", of: |sample| sample.rate },
    Figure { name: "p50, µs", key: "p50", of: |sample| sample.p50 },
    Figure { name: "p99, µs", key: "p99", of: |sample| sample.p99 },
    Figure { name: "p50 at full load, µs", key: "loaded_p50", of: |sample| sample.loaded_p50 },
    Figure { name: "p99 at full load, µs", key: "loaded_p99", of: |sample| sample.loaded_p99 },
];

impl Report {
    fn summary(&self, of: impl Fn(&Round) -> f64) -> Summary {
        Summary::of(self.rounds.iter().map(of).collect())
    }

    /// Returns the ratios and the figures behind them.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        let mut put = |key: String, value: f64| {
            // Three decimals say more than the spread allows to believe.
            object.insert(key, ((value * 1000.0).round() / 1000.0).into());
        };
        for Figure { key, of, .. } in &FIGURES {
            let ratio = self.summary(|round| of(&round.subject) / of(&round.noop));
            put(format!("{key}_ratio"), ratio.median);
            put(format!("{key}_ratio_low"), ratio.low);
            put(format!("{key}_ratio_high"), ratio.high);
            put(format!("{key}_subject"), self.summary(|round| of(&round.subject)).median);
            put(format!("{key}_noop"), self.summary(|round| of(&round.noop)).median);
        }
        put("cold_cpu_us".to_owned(), self.cold);
        put("rules".to_owned(), self.rules.into());
        object.into()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rounds, {} rules\n", self.rounds.len(), self.rules)?;
        writeln!(f, "{:22} {:>28} {:>28} {:>24}", "", self.subject, "no-op", "ratio")?;
        for Figure { name, of, .. } in &FIGURES {
            let subject = self.summary(|round| of(&round.subject));
            let noop = self.summary(|round| of(&round.noop));
            let ratio = self.summary(|round| of(&round.subject) / of(&round.noop));
            writeln!(f, "{name:22} {subject:>28.1} {noop:>28.1} {ratio:>24.3}")?;
        }
        write!(f, "\ncold: {:.1} µs of CPU per check at first sight", self.cold)
    }
}

/// The median of some values and how far they spread.
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Summary {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // The mean of the two middle ones, which are one where the number is odd.
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, low: at(0), high: at(last) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let text =
            format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.low, self.high);
        // `pad` would take the precision for a maximum width.
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}
