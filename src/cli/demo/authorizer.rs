//! symbolon itself, as `serve` runs it, with a configuration of the demo's own, and its records.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cli::demo::{client, envoy::end_of};

/// A running symbolon; it is killed when this is dropped.
#[derive(Debug)]
pub struct Authorizer {
    process: Child,
    socket: PathBuf,
    records: PathBuf,
    metrics: SocketAddr,
    log: PathBuf,
}

/// What the demo reads of a decision record.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// The decision's id.
    pub decision_id: String,
    /// `allow` or `deny`.
    pub decision: String,
    /// The reason's code.
    pub reason: String,
    /// The deciding rule.
    pub rule: Option<String>,
    /// The policy set that decided.
    pub policy: Option<PolicyRecord>,
}

/// The policy set of a decision record.
#[derive(Clone, Debug, Deserialize)]
pub struct PolicyRecord {
    /// Counts the loads of the process. A number or, as proto3's JSON mapping writes 64 bits, a text.
    pub generation: Value,
}

impl Record {
    /// Returns the generation that decided.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        let generation = &self.policy.as_ref()?.generation;
        generation.as_u64().or_else(|| generation.as_str()?.parse().ok())
    }
}

impl Authorizer {
    /// Starts `program serve` on `policies` and waits until it is ready; its files go to `folder`.
    ///
    /// # Errors
    /// Where it does not become ready; the error has the end of its log.
    pub async fn start(program: &Path, policies: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(program, policies, folder, json!({})).await
    }

    /// As [`Authorizer::start`], with `settings` beside the demo's own, or in their place.
    ///
    /// # Errors
    /// Where it does not become ready; the error has the end of its log.
    pub async fn start_with(
        program: &Path,
        policies: &Path,
        folder: &Path,
        mut settings: Value,
    ) -> Result<Self> {
        let socket = folder.join("grpc.sock");
        let records = folder.join("records.jsonl");
        let log = folder.join("symbolon.log");
        let metrics = free_port()?;
        // JSON is YAML.
        let mut configuration = json!({
            "grpc": {"listen": [format!("unix:{}", socket.display())]},
            "metrics": {"listen": metrics.to_string()},
            "admin": {"listen": format!("unix:{}", folder.join("admin.sock").display())},
            "records": {"to": records},
            "reload": {"poll": "1s"},
            "drain": {"grace": "3s", "timeout": "3s"},
            "log": {"format": "json"},
        });
        if let (Some(all), Some(given)) = (configuration.as_object_mut(), settings.as_object_mut())
        {
            all.append(given);
        }
        let file = folder.join("symbolon.yaml");
        fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
        let mut process = Command::new(program)
            .arg("serve")
            .arg("--policies")
            .arg(policies)
            .arg("--config")
            .arg(&file)
            // Settings of the user's own environment would change what is shown.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let ready = client::until("symbolon to be ready", START, async || {
            let answer = client::get(metrics, "/readyz").await.ok()?;
            (answer.status == 200).then_some(())
        });
        tokio::select! {
            ready = ready => ready,
            ended = process.wait() => Err(anyhow::anyhow!("symbolon ended at once: {ended:?}")),
        }
        .with_context(|| end_of(&log))?;
        Ok(Self { process, socket, records, metrics, log })
    }

    /// Returns the Unix socket it is asked on.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns where `/metrics` is.
    #[must_use]
    pub const fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Returns its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns its decision records' file.
    #[must_use]
    pub fn records_file(&self) -> &Path {
        &self.records
    }

    /// Returns the process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// Where the system does not let it.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Waits until it ends by itself and returns how.
    ///
    /// # Errors
    /// Where the system does not say.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.process.wait().await?)
    }

    /// Returns all records written so far, by decision id.
    #[must_use]
    pub fn records(&self) -> HashMap<String, Record> {
        let text = fs::read_to_string(&self.records).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Record>(line).ok())
            .map(|record| (record.decision_id.clone(), record))
            .collect()
    }

    /// Waits for the record of one decision.
    ///
    /// # Errors
    /// Where there is none in time.
    pub async fn record(&self, decision_id: &str) -> Result<Record> {
        client::until("a decision record", RECORD, async || self.records().remove(decision_id))
            .await
    }
}

/// Returns a port that is free now. Another process may take it before it is used; symbolon then says so.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

const START: Duration = Duration::from_secs(20);
/// Records are written behind the answer.
const RECORD: Duration = Duration::from_secs(5);
