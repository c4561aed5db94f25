//! What a check with a DPoP proof costs (RFC 9449), beside what it cannot be below.
//!
//! Each proof is new, made shortly before by the client, and used once: so its signature is verified and its
//! use recorded in memory every time, while its key has been seen before. In the same rounds the same server
//! is asked warm checks with a token bound to a certificate, and this process verifies signatures by such
//! keys with the library and the form of key that the server uses.

use std::{fmt, fs, hint::black_box, rc::Rc, time::Duration};

use anyhow::{Context as _, ensure};
use symbolon::trust::jwks::{Algorithm, PublicKey};

use crate::{Options, await_ready, corpus::Corpus, report::Summary, server::Server, window};

/// Signatures verified in one round.
const BARE: u32 = 5_000;

/// One round, in microseconds of CPU.
struct Round {
    proven: f64,
    warm: f64,
    bare: f64,
}

/// All that one run saw.
pub(crate) struct Report {
    /// Checks whose key was never seen before.
    cold: f64,
    rounds: Vec<Round>,
}

/// Starts symbolon and measures, round by round.
pub(crate) async fn measure(options: &Options) -> anyhow::Result<Report> {
    let scratch = tempfile::tempdir()?;
    let policies = scratch.path().join("mount/policies");
    fs::create_dir_all(&policies)?;
    let corpus = Corpus::create(&policies, options.rules.try_into()?, "certificate, dpop")?;
    let mut server = Server::symbolon(&policies, scratch.path())?;
    await_ready(&mut server, &corpus).await?;
    // Proofs that are older than the server are refused.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let warm = Rc::new(corpus.checks.clone());
    window(&server, &warm, 0, warm.len() * 2, options).await?;
    let unseen = Rc::new(corpus.proven(0, Corpus::callers())?);
    let cold = window(&server, &unseen, 0, unseen.len(), options).await?.1;
    let count = options.checks as usize;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let first = number as usize * 1013;
        let fresh = Rc::new(corpus.proven(first, count)?);
        let (warm, proven) = (
            window(&server, &warm, first, count, options).await?.1,
            window(&server, &fresh, 0, count, options).await?.1,
        );
        rounds.push(Round { proven, warm, bare: bare(&corpus)? });
    }
    Ok(Report { cold, rounds })
}

/// Returns the CPU time of one signature verification.
fn bare(corpus: &Corpus) -> anyhow::Result<f64> {
    let (jwk, message, signature) = corpus.signed();
    let key = PublicKey::read(&jwk, Algorithm::ES256).ok().context("a key")?;
    ensure!(key.verifies(message.as_bytes(), &signature), "the signature does not verify");
    let before = own_cpu()?;
    for _ in 0..BARE {
        black_box(key.verifies(black_box(message.as_bytes()), black_box(&signature)));
    }
    Ok(own_cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(BARE))
}

/// Returns the CPU time of this thread.
fn own_cpu() -> anyhow::Result<Duration> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = schedstat.split(' ').next().context("schedstat has fields")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

impl Report {
    fn summary(&self, of: impl Fn(&Round) -> f64) -> Summary {
        Summary::of(self.rounds.iter().map(of).collect())
    }

    fn ratio(&self) -> Summary {
        self.summary(|round| round.proven / (round.bare + round.warm))
    }

    /// Returns the ratio and the figures behind it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        let Summary { median, low, high } = self.ratio();
        serde_json::json!({
            "dpop_over_bare": rounded(median),
            "dpop_over_bare_low": rounded(low),
            "dpop_over_bare_high": rounded(high),
            "dpop_cpu_us": rounded(self.summary(|round| round.proven).median),
            "dpop_cold_cpu_us": rounded(self.cold),
            "warm_cpu_us": rounded(self.summary(|round| round.warm).median),
            "bare_cpu_us": rounded(self.summary(|round| round.bare).median),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rounds, CPU in µs\n", self.rounds.len())?;
        for (name, summary) in [
            ("check with a fresh proof", self.summary(|round| round.proven)),
            ("warm check", self.summary(|round| round.warm)),
            ("one ES256 verification", self.summary(|round| round.bare)),
        ] {
            writeln!(f, "{name:26} {summary:>28.1}")?;
        }
        writeln!(f, "{:26} {:>28.3}", "fresh proof over both", self.ratio())?;
        write!(
            f,
            "\ncold: {:.1} µs of CPU per check whose token and key were never seen",
            self.cold
        )
    }
}
