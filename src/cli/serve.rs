//! `symbolon serve`: the server.

use std::{
    fmt::Write as _,
    io::{ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use anstyle::Style;
use anyhow::Context as _;
use tokio::time::{interval, timeout};

use crate::{
    app::{self, Live, RunningApp, Signals},
    clock::SystemClock,
    config::{Endpoint, LogFormat, Settings},
    diagnostic::Format,
    snapshot::Generation,
    telemetry,
    transport::server::Shown,
};

/// Answers Envoy's checks, by the policies of a directory that it watches.
///
/// Without a config file it listens on this machine only: for checks on 127.0.0.1:9191, for metrics and
/// readiness on 127.0.0.1:9192, for status on 127.0.0.1:9193. SIGTERM drains, SIGHUP reloads.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The policy directory; it is watched, and what lies in it last is live.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The config file (YAML): listeners, TLS, limits, logs. Policies are not in it. Without it, the one
    /// that the variable `SYMBOLON_CONFIG` names.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  symbolon serve --policies policies/
  symbolon serve --policies /etc/symbolon/policies --config /etc/symbolon/symbolon.yaml
  SYMBOLON_LOG_LEVEL=debug symbolon serve --policies policies/
                                             each setting can be given as a variable
  curl '127.0.0.1:9192/readyz?verbose'       is it ready, and if not, why";

/// Serves until a signal ends it. Returns 0 after a drain.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let settings = match Settings::from_process(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(mistakes) => {
            let colour = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
            // With standard error gone there is nobody left to tell.
            drop(anstream::stderr().write_all(mistakes.render(Format::Human, colour).as_bytes()));
            return Ok(ExitCode::FAILURE);
        }
    };
    telemetry::log::init(&settings.log)?;
    telemetry::log::panics();
    let policies =
        arguments.policies.clone().or_else(|| settings.policies.clone()).context(
            "no policy directory: give `--policies DIR`, or `policies` in the config file",
        )?;
    serve(&settings, &policies)
}

fn serve(settings: &Settings, policies: &Path) -> anyhow::Result<ExitCode> {
    let background = app::background()?;
    let code = background.block_on(async {
        // First, so that a signal during the start is not lost.
        let signals = Signals::take()?;
        let services =
            app::compose(settings, policies, Arc::new(SystemClock), background.handle())?;
        let live = Arc::clone(&services.live);
        let app = RunningApp::start(settings, services, background.handle()).await?;
        let announcement = Announcement::of(settings, policies, &app);
        tokio::spawn(announce(announcement, policies.to_owned(), live));
        Ok(signals.steer(app).await)
    });
    // What reads files or waits for the network at this moment is of no use any more.
    background.shutdown_timeout(SHUTDOWN);
    code
}

/// What people want to know of a server that starts.
#[derive(Debug)]
struct Announcement {
    human: bool,
    policies: String,
    checks: Vec<String>,
    metrics: String,
    status: String,
}

impl Announcement {
    fn of(settings: &Settings, policies: &Path, app: &RunningApp) -> Self {
        let human = match settings.log.format {
            LogFormat::Human => true,
            LogFormat::Json => false,
            LogFormat::Auto => std::io::stderr().is_terminal(),
        };
        let tls = settings.grpc.tls.as_ref();
        let protection = |endpoint: &Endpoint| match (endpoint, tls) {
            (Endpoint::Unix(_), _) => "for the socket's owner and group",
            (Endpoint::Tcp(_), None) => "plaintext",
            (Endpoint::Tcp(_), Some(tls)) if tls.client_ca_file.is_none() => "TLS",
            (Endpoint::Tcp(_), Some(_)) => "mutual TLS",
        };
        let check = |endpoint| format!("{} ({})", Shown(endpoint), protection(endpoint));
        Self {
            human,
            policies: app::shown(policies),
            checks: app.grpc().iter().map(check).collect(),
            metrics: page(app.metrics(), "/metrics"),
            status: page(app.admin(), "/status"),
        }
    }

    fn block(&self, generation: &str) -> String {
        let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
        let mut text = format!("{bold}symbolon {}{bold:#}\n", env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, value: &str, note: &str| {
            // Writing to a String cannot fail.
            writeln!(text, "  {dim}{name:<10}{dim:#}{value}{dim}{note}{dim:#}").unwrap_or_default();
        };
        line("policies", &self.policies, "");
        line("", generation, "");
        for (check, name) in
            self.checks.iter().zip(std::iter::once("checks").chain(std::iter::repeat("")))
        {
            line(name, check, "");
        }
        line("metrics", &self.metrics, "  /livez /readyz?verbose");
        line("status", &self.status, "");
        text
    }
}

/// Says where the server is, once the first policies are live or it is clear that they take their time.
async fn announce(announcement: Announcement, policies: PathBuf, live: Live) {
    let first = async {
        let mut ticks = interval(FIRST_LOAD_POLL);
        loop {
            ticks.tick().await;
            if let Some(generation) = live() {
                return generation;
            }
        }
    };
    let generation = timeout(FIRST_LOAD_WAIT, first).await.ok();
    let generation = match &generation {
        Some(generation) => describe(generation),
        None => waiting(&policies).await,
    };
    if announcement.human {
        // With standard error gone there is nobody left to tell.
        drop(anstream::stderr().write_all(announcement.block(&generation).as_bytes()));
    } else {
        let Announcement { human: _, policies, checks, metrics, status } = announcement;
        tracing::info!(policies, generation, ?checks, metrics, status, "serving");
    }
}

/// Says why nothing is live and what to do. A directory that is not there yet is no error: what brings the
/// policies, such as git-sync, may start later than this.
async fn waiting(policies: &Path) -> String {
    let help = match tokio::fs::metadata(policies).await {
        Ok(found) if found.is_dir() => {
            "the log says what is wrong in it, and so does `symbolon policy check`"
        }
        Ok(_) => "that is no directory: correct `--policies`",
        Err(error) if error.kind() == ErrorKind::NotFound => {
            "there is no such directory; waiting for it. If the name is wrong, correct `--policies`"
        }
        Err(_) => "it cannot be read: the log says why",
    };
    format!("nothing loaded yet, every check is denied: {help}")
}

fn describe(generation: &Generation) -> String {
    let Generation { number, hash, commit, .. } = generation;
    let short = hash.get(..12).unwrap_or(hash);
    let commit = commit.as_ref().map(|commit| format!(", commit {commit}"));
    format!("generation {number}, content {short}{}", commit.unwrap_or_default())
}

fn page(endpoint: &Endpoint, path: &str) -> String {
    match endpoint {
        Endpoint::Tcp(address) => format!("http://{address}{path}"),
        Endpoint::Unix(_) => format!("{} {path}", Shown(endpoint)),
    }
}

/// A policy directory of usual size is loaded in well under a second.
const FIRST_LOAD_WAIT: Duration = Duration::from_secs(3);

/// Soon enough for people.
const FIRST_LOAD_POLL: Duration = Duration::from_millis(20);

/// For threads to leave what they are in.
const SHUTDOWN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;

    fn generation(commit: Option<&str>) -> Generation {
        Generation {
            number: 7,
            hash: "0123456789abcdef".into(),
            commit: commit.map(Into::into),
            loaded: UnixTime::from_secs(0),
        }
    }

    #[test]
    fn generation_is_described_by_number_content_and_commit() {
        assert_eq!(describe(&generation(None)), "generation 7, content 0123456789ab");
        assert_eq!(
            describe(&generation(Some("abc"))),
            "generation 7, content 0123456789ab, commit abc"
        );
    }

    #[tokio::test]
    async fn directory_that_is_not_there_is_told_from_one_that_does_not_load() {
        let here = tempfile::tempdir().unwrap();
        let missing = waiting(&here.path().join("policiez")).await;
        assert!(missing.contains("there is no such directory; waiting for it"), "{missing}");
        assert!(missing.contains("correct `--policies`"), "{missing}");
        let file = here.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(waiting(&file).await.contains("no directory"));
        assert!(waiting(here.path()).await.contains("`symbolon policy check`"));
    }

    #[test]
    fn block_names_every_listener() {
        let announcement = Announcement {
            human: true,
            policies: "/policies".to_owned(),
            checks: vec!["127.0.0.1:9191 (plaintext)".to_owned(), "unix:/run/s".to_owned()],
            metrics: "http://127.0.0.1:9192/metrics".to_owned(),
            status: "http://127.0.0.1:9193/status".to_owned(),
        };
        let block = anstream::adapter::strip_str(&announcement.block("generation 7")).to_string();
        assert_eq!(
            block,
            format!(
                "symbolon {}\n  \
                 policies  /policies\n            generation 7\n  \
                 checks    127.0.0.1:9191 (plaintext)\n            unix:/run/s\n  \
                 metrics   http://127.0.0.1:9192/metrics  /livez /readyz?verbose\n  \
                 status    http://127.0.0.1:9193/status\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn missing_policy_directory_is_named() {
        let error = run(&Arguments { policies: None, config: None }).unwrap_err();
        assert!(error.to_string().contains("--policies DIR"), "{error}");
    }
}
