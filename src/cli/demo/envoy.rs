//! A real Envoy, run on `deploy/envoy/envoy.yaml` with this run's ports and paths put in.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cli::demo::client;

/// A running Envoy; it is killed when this is dropped.
#[derive(Debug)]
pub struct Envoy {
    _process: Child,
    address: SocketAddr,
    access_log: PathBuf,
}

/// One line of the access log.
#[derive(Clone, Debug, Deserialize)]
pub struct Access {
    /// The HTTP status that was sent.
    pub status: u16,
    /// Why Envoy answered itself, where it did.
    pub details: Option<String>,
    /// Names the call.
    pub user_agent: Option<String>,
    /// What the authorizer said about its decision.
    pub authz: Option<Value>,
}

impl Access {
    /// Returns the decision's id, as symbolon's dynamic metadata names it.
    #[must_use]
    pub fn decision_id(&self) -> Option<&str> {
        self.authz.as_ref()?.get("decision_id")?.as_str()
    }
}

/// What the shipped configuration names that is different in this run.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Folder with `tls.crt`, `tls.key` and `ca.crt`.
    pub tls: &'a Path,
    /// The Unix socket that symbolon listens on.
    pub authorizer: &'a Path,
    /// The service behind Envoy.
    pub upstream: SocketAddr,
    /// The access log.
    pub access_log: &'a Path,
}

impl Places<'_> {
    /// Returns the shipped configuration with these places put in, on free ports of loopback.
    ///
    /// # Errors
    /// Where the shipped configuration no longer has one of the texts that are replaced.
    pub fn configuration(&self) -> Result<String> {
        let upstream = format!("port_value: {}", self.upstream.port());
        let replacements = [
            ("address: 0.0.0.0, port_value: 8443", "address: 127.0.0.1, port_value: 0".to_owned()),
            (
                "address: 127.0.0.1, port_value: 9901",
                "address: 127.0.0.1, port_value: 0".to_owned(),
            ),
            ("port_value: 8080", upstream),
            // A laptop that is busy with something else shall show decisions, not timeouts.
            ("timeout: 0.25s", "timeout: 5s".to_owned()),
            ("/etc/envoy/tls", text(self.tls)?.to_owned()),
            ("/run/symbolon/grpc.sock", text(self.authorizer)?.to_owned()),
            ("/dev/stdout", text(self.access_log)?.to_owned()),
        ];
        let mut configuration = SHIPPED.to_owned();
        for (shipped, here) in &replacements {
            ensure!(configuration.contains(shipped), "deploy/envoy/envoy.yaml lost `{shipped}`");
            configuration = configuration.replace(shipped, here);
        }
        Ok(configuration)
    }
}

impl Envoy {
    /// Starts `binary` on `configuration` and waits until it listens; its files go to `folder`.
    ///
    /// # Errors
    /// Where it does not start; the error has the end of its log.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        configuration: &str,
        access_log: &Path,
    ) -> Result<Self> {
        let file = folder.join("envoy.yaml");
        let log = folder.join("envoy.log");
        let admin = folder.join("envoy-admin");
        fs::write(&file, configuration)?;
        let mut process = Command::new(binary)
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .arg("--log-path")
            .arg(&log)
            // Hot restart would claim shared memory by a number that another Envoy may have.
            .args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "20"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let listening = client::until("Envoy to listen", START, || listener(&admin));
        let address = tokio::select! {
            address = listening => address,
            ended = process.wait() => Err(anyhow::anyhow!("Envoy ended at once: {ended:?}")),
        }
        .with_context(|| end_of(&log))?;
        Ok(Self { _process: process, address, access_log: access_log.to_owned() })
    }

    /// Returns where its mTLS listener is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the access log's line about the call with this `user-agent`.
    ///
    /// # Errors
    /// Where there is none in time.
    pub async fn access(&self, user_agent: &str) -> Result<Access> {
        client::until("Envoy's access log", START, async || {
            let log = fs::read_to_string(&self.access_log).ok()?;
            log.lines()
                .filter_map(|line| serde_json::from_str::<Access>(line).ok())
                .find(|access| access.user_agent.as_deref() == Some(user_agent))
        })
        .await
    }
}

/// Asks the admin interface where the listener is; `None` while it does not say.
async fn listener(admin: &Path) -> Option<SocketAddr> {
    let admin = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    let ready = client::get(admin, "/ready").await.ok()?;
    let listeners = client::get(admin, "/listeners?format=json").await.ok()?;
    if ready.status != 200 {
        return None;
    }
    let listeners: Value = serde_json::from_slice(&listeners.body).ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    let port = u16::try_from(address.get("port_value")?.as_u64()?).ok()?;
    (port != 0).then_some(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Returns the last lines of a log, for an error.
#[must_use]
pub fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    format!("{} ends with:\n{}", log.display(), lines.get(from..).unwrap_or_default().join("\n"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

const SHIPPED: &str = include_str!("../../../deploy/envoy/envoy.yaml");
/// A cold start from a slow disk takes seconds.
const START: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_takes_this_runs_places() {
        let places = Places {
            tls: Path::new("/t/tls"),
            authorizer: Path::new("/t/grpc.sock"),
            upstream: SocketAddr::from(([127, 0, 0, 1], 4711)),
            access_log: Path::new("/t/access.log"),
        };
        let configuration = places.configuration().unwrap();
        let yaml: Value = serde_yaml::from_str(&configuration).unwrap();
        assert!(yaml.get("static_resources").is_some());
        for gone in ["0.0.0.0", "/etc/envoy", "/run/symbolon", "8080", "9901"] {
            assert!(!configuration.contains(gone), "{gone}");
        }
    }
}
