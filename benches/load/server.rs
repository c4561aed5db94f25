//! What is asked of: symbolon and the no-op server, each in a process of its own, and their CPU
//! time.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use envoy_types::ext_authz::v3::{
    CheckResponseExt as _,
    pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse},
};
use tonic::{Request, Response, Status, transport};

/// A server under measurement; killed when dropped.
pub(crate) struct Server {
    /// What it is called in the report.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Server {
    /// Starts the no-op server: this program again, told so.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn noop() -> anyhow::Result<Self> {
        let address = free_address()?;
        let program = std::env::current_exe()?;
        let process = Command::new(program)
            .args(["--serve-noop", &address.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("starting the no-op server")?;
        Ok(Self { name: "no-op", address, process })
    }

    /// Starts symbolon on `policies`, with metrics, and decision records written to a file in
    /// `scratch`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn symbolon(policies: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let config = scratch.join("symbolon.yaml");
        let records = scratch.join("records.jsonl");
        fs::write(
            &config,
            format!(
                "grpc: {{listen: [\"{address}\"]}}
metrics: {{listen: \"{}\"}}
admin: {{listen: \"{}\"}}
records: {{to: \"{}\"}}
log: {{level: warn}}
",
                free_address()?,
                free_address()?,
                records.display(),
            ),
        )?;
        let process = Command::new(env!("CARGO_BIN_EXE_symbolon"))
            .arg("serve")
            .arg("--policies")
            .arg(policies)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting symbolon")?;
        Ok(Self { name: "symbolon", address, process })
    }

    /// Returns whether the process still runs.
    ///
    /// # Errors
    /// When that cannot be known.
    pub(crate) fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Returns the CPU time that the process's threads have used so far, user and system.
    ///
    /// The first field of `schedstat` counts nanoseconds, where `utime` and `stime` count ticks of
    /// 10 ms. A thread that ended in between is missed: both servers keep theirs.
    ///
    /// # Errors
    /// When the process has ended, or the kernel does not count.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = schedstat.split(' ').next().context("schedstat has fields")?.parse()?;
            total = total.saturating_add(Duration::from_nanos(nanos));
        }
        Ok(total)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Asks the system for a port that is free now.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Serves as the process that symbolon is measured against: tonic and envoy-types as their
/// documentation starts a server, on the runtime and allocator that a program gets without asking.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn serve_noop(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let service = AuthorizationServer::new(Noop);
    Ok(runtime.block_on(transport::Server::builder().add_service(service).serve(address))?)
}

/// Answers OK to everything.
struct Noop;

#[tonic::async_trait]
impl Authorization for Noop {
    async fn check(
        &self,
        _request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse::with_status(Status::ok(""))))
    }
}
