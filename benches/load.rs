//! The load bench: symbolon's whole decision beside a server that decides nothing.
//!
//! ```text
//! cargo bench --bench load -- [--json] [--rules N] [--checks N] [--rounds N]
//! ```
//!
//! One run starts two servers, each in a process of its own: symbolon as released (metrics on,
//! decision records written to a file), and a no-op server (tonic and envoy-types, default setup,
//! answers OK to everything). It asks both the same checks in turn, round by round, so that
//! whatever else the machine does meets both alike, and prints for both, and as symbolon over
//! no-op:
//!
//! - **CPU per check**: what the server's threads used in the window, user and system, by the
//!   checks in it. The main figure: client and server share the machine, and this alone leaves the
//!   client out.
//! - **checks per second**, closed loop, [`Options::in_flight`] in flight on two connections. On a
//!   machine of few cores the client's own share bounds it, and with it the ratio.
//! - **p50, p99** of a check's latency, closed loop with [`LATENCY_IN_FLIGHT`] in flight: where a
//!   server is kept full, latency only says throughput again.
//!
//! Figures are medians over the rounds, ratios medians of the rounds' ratios; behind each stands
//! its spread, the lowest and the highest round.
//!
//! The checks come from 1,024 callers with a certificate and an access token each and 4,096 paths,
//! no caller twice in a row; Envoy's metadata and some twenty headers go with each. Before anything
//! is measured, both servers must allow all of them, symbolon with its upstream headers and
//! metadata, and symbolon must deny what was tampered with; in the windows every answer is looked
//! at again. One that is wrong fails the bench. `cold` is symbolon's CPU per check on the first
//! sight of each token and certificate.
//!
//! With `--dpop` it measures something else: checks with a DPoP proof each, new every time, beside
//! what no such check can be below, the verification of one ES256 signature and a check with warm
//! caches. See `load/dpop.rs`.
//!
//! With `--json` the last line is one JSON object with `cpu_ratio`, `rps_ratio`, `p50_ratio`,
//! `p99_ratio` and the figures behind them.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench reads nothing from outside, and prints what it measured"
)]

#[path = "load/client.rs"]
mod client;
#[path = "load/corpus.rs"]
mod corpus;
#[path = "load/dpop.rs"]
mod dpop;
#[path = "load/report.rs"]
mod report;
#[path = "load/server.rs"]
mod server;

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, ValueEnum};
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, check_response::HttpResponse};
use tokio::task::LocalSet;

use crate::{
    client::Client,
    corpus::Corpus,
    report::{Report, Round, Sample},
    server::Server,
};

/// Checks in flight while latency is measured: as many as keep neither server idle nor full.
const LATENCY_IN_FLIGHT: usize = 8;

/// How long the servers may take until they answer; reading ten thousand rules is the longest part.
const START: Duration = Duration::from_secs(60);

/// After this the bench gives up, whatever it was told to do.
const LIMIT: Duration = Duration::from_secs(600);

/// Measures symbolon beside a no-op server.
#[derive(Parser)]
struct Options {
    /// Ends with one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Rules in the policy set.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rules: u32,
    /// Checks in one window.
    #[arg(
        long,
        default_value_t = 30_000,
        value_parser = clap::value_parser!(u32).range(1_000..=10_000_000)
    )]
    checks: u32,
    /// Rounds; each has two windows of either server.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Checks in flight while CPU and throughput are measured.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// Measures checks with a fresh DPoP proof each, over one bare signature verification and a warm check.
    #[arg(long)]
    dpop: bool,
    /// What is measured; `noop` shows what the method makes of two equal servers.
    #[arg(long, value_enum, default_value_t = Subject::Symbolon)]
    subject: Subject,
    /// Serves as the no-op server at this address.
    #[arg(long, hide = true)]
    serve_noop: Option<SocketAddr>,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured beside the no-op server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// symbolon.
    Symbolon,
    /// A second no-op server.
    Noop,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(address) = options.serve_noop {
        return server::serve_noop(address);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (text, json) = LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            told = tokio::time::timeout(LIMIT, told(&options)) => told.context("too slow")?,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    println!("{text}");
    if options.json {
        println!("{json}");
    }
    Ok(())
}

/// Measures, and returns what to print for people and as JSON.
async fn told(options: &Options) -> anyhow::Result<(String, serde_json::Value)> {
    if options.dpop {
        let report = dpop::measure(options).await?;
        return Ok((report.to_string(), report.json()));
    }
    let report = measure(options).await?;
    Ok((report.to_string(), report.json()))
}

/// Starts both servers, proves that they answer as they must, and measures them in turn.
async fn measure(options: &Options) -> anyhow::Result<Report> {
    let scratch = tempfile::tempdir()?;
    // A folder down: the one that holds the policy directory is watched, and no place for a log.
    let policies = scratch.path().join("mount/policies");
    std::fs::create_dir_all(&policies)?;
    let corpus = Corpus::create(&policies, options.rules.try_into()?, "certificate")?;
    let mut servers = [
        match options.subject {
            Subject::Symbolon => Server::symbolon(&policies, scratch.path())?,
            Subject::Noop => Server::noop()?,
        },
        Server::noop()?,
    ];
    for server in &mut servers {
        await_ready(server, &corpus).await?;
    }
    let checks = Rc::new(corpus.checks.clone());
    let mut cold = Vec::new();
    for server in &servers {
        // The first check of each caller, one server after the other: nothing is warm yet.
        cold.push(window(server, &checks, 0, Corpus::callers(), options).await?.1);
    }
    if options.subject == Subject::Symbolon {
        prove(&servers[0], &corpus).await?;
    }
    for server in &servers {
        window(server, &checks, 0, checks.len() * 2, options).await?;
    }
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let first = number as usize * 1013;
        let subject = sample(&servers[0], &checks, first, options).await?;
        let noop = sample(&servers[1], &checks, first, options).await?;
        rounds.push(Round { subject, noop });
    }
    Ok(Report { subject: servers[0].name, rules: options.rules, cold: cold[0], rounds })
}

/// Measures one server in one round: a window at full load, then one of latency.
async fn sample(
    server: &Server,
    checks: &Rc<Vec<bytes::Bytes>>,
    first: usize,
    options: &Options,
) -> anyhow::Result<Sample> {
    let count = options.checks as usize;
    let (load, cpu) = window(server, checks, first, count, options).await?;
    let client = Client::connect(server.address).await?;
    let latency = client.run(checks, first, count / 2, LATENCY_IN_FLIGHT).await?;
    Ok(Sample {
        cpu,
        rate: load.rate(),
        p50: latency.percentile(50),
        p99: latency.percentile(99),
        loaded_p50: load.percentile(50),
        loaded_p99: load.percentile(99),
    })
}

/// Asks `count` checks on new connections and returns what the client saw and the server's CPU time
/// per check in microseconds.
async fn window(
    server: &Server,
    checks: &Rc<Vec<bytes::Bytes>>,
    first: usize,
    count: usize,
    options: &Options,
) -> anyhow::Result<(client::Window, f64)> {
    let client = Client::connect(server.address).await?;
    let before = server.cpu()?;
    let window = client.run(checks, first, count, options.in_flight as usize).await?;
    let used = server.cpu()?.saturating_sub(before);
    let per_check = used.as_secs_f64() * 1e6 / window.checks as f64;
    Ok((window, per_check))
}

/// Waits until a server allows a check.
async fn await_ready(server: &mut Server, corpus: &Corpus) -> anyhow::Result<()> {
    let check = corpus.checks.last().context("a check")?;
    let start = Instant::now();
    loop {
        ensure!(server.is_running()?, "{} ended instead of serving", server.name);
        let answer = match Client::connect(server.address).await {
            Ok(client) => client.ask(check.clone()).await,
            Err(refused) => Err(refused),
        };
        match answer {
            Ok(answer) if code(&answer) == Some(0) => return Ok(()),
            answer if start.elapsed() > START => {
                bail!("{} does not allow its checks: {answer:?}", server.name)
            }
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Proves that symbolon decides: allows each check with the headers and metadata that its rule
/// sets, and denies what was tampered with.
async fn prove(server: &Server, corpus: &Corpus) -> anyhow::Result<()> {
    let client = Client::connect(server.address).await?;
    for (check, identity) in corpus.checks.iter().zip(&corpus.identities) {
        let answer = client.ask(check.clone()).await?;
        ensure!(code(&answer) == Some(0), "a check was denied: {answer:?}");
        let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else {
            bail!("an allow without an OK response: {answer:?}");
        };
        let named = ok.headers.iter().filter_map(|option| option.header.as_ref());
        ensure!(
            named.clone().any(|header| header.key == "x-caller" && header.value == *identity)
                && named.clone().any(|header| header.key == "x-client"),
            "an allow without the headers its rule sets: {answer:?}"
        );
        ensure!(
            answer.dynamic_metadata.as_ref().is_some_and(|metadata| !metadata.fields.is_empty()),
            "an allow without metadata: {answer:?}"
        );
    }
    for (what, check) in &corpus.tampered {
        let answer = client.ask(check.clone()).await?;
        ensure!(code(&answer).is_some_and(|code| code != 0), "{what} was not denied: {answer:?}");
    }
    Ok(())
}

/// Returns the code that decides; `None` where Envoy would find none and allow.
fn code(answer: &CheckResponse) -> Option<i32> {
    answer.status.as_ref().map(|status| status.code)
}
