//! Everything of one run, started: certificates, issuer, service, symbolon and Envoy.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{
    cli::demo::{
        authorizer::Authorizer,
        client::{Client, SERVER_NAME},
        envoy::{Envoy, Places},
        issuer::TokenIssuer,
        loopback::{self, Loopback},
        pki::{Authority, Identity},
        scenario::Scenario,
    },
    clock::{Clock, SystemClock},
};

/// All that runs. Dropping it ends the children and removes the files.
///
/// The fields drop in this order: Envoy first, so that it never asks a symbolon that is gone.
#[derive(Debug)]
pub struct Stage {
    /// Envoy.
    pub envoy: Envoy,
    /// symbolon.
    pub authorizer: Authorizer,
    /// The token issuer.
    pub tokens: TokenIssuer,
    authority: Authority,
    identities: BTreeMap<String, Identity>,
    _issuer: Loopback,
    _upstream: Loopback,
    folder: TempDir,
}

impl Stage {
    /// Starts everything: `program` as symbolon, `envoy` as Envoy, with the workloads of `scenario`.
    ///
    /// # Errors
    /// Where a part does not start.
    pub async fn start(program: &Path, envoy: &Path, scenario: &Scenario) -> Result<Self> {
        Self::start_with(program, envoy, scenario, |configuration| configuration).await
    }

    /// As [`Stage::start`], with Envoy's configuration changed by `change`.
    ///
    /// # Errors
    /// Where a part does not start.
    pub async fn start_with(
        program: &Path,
        envoy: &Path,
        scenario: &Scenario,
        change: impl FnOnce(String) -> String,
    ) -> Result<Self> {
        // Only its owner can read the folder: it holds keys and tokens.
        let folder = tempfile::Builder::new().prefix("symbolon-demo-").tempdir()?;
        let authority = Authority::new(SystemClock.now())?;
        let tls = folder.path().join("tls");
        fs::create_dir(&tls)?;
        fs::write(tls.join("ca.crt"), authority.pem())?;
        authority.issue(SERVICE, &[SERVER_NAME, "localhost"])?.write(&tls, "tls")?;
        let mut identities = BTreeMap::new();
        for (name, spiffe) in &scenario.workloads {
            let identity = authority.issue(spiffe, &[])?;
            identity.write(&tls, name)?;
            identities.insert(name.clone(), identity);
        }
        let tokens = TokenIssuer::new()?;
        let issuer = loopback::issuer(tokens.jwks()?).await?;
        let upstream = loopback::upstream().await?;
        let policies = folder.path().join("policies");
        write_policies(&policies, &format!("http://{}/jwks.json", issuer.address()))?;
        let authorizer = Authorizer::start(program, &policies, folder.path()).await?;
        let access_log = folder.path().join("access.jsonl");
        let places = Places {
            tls: &tls,
            authorizer: authorizer.socket(),
            upstream: upstream.address(),
            access_log: &access_log,
        };
        let configuration = change(places.configuration()?);
        let envoy = Envoy::start(envoy, folder.path(), &configuration, &access_log).await?;
        Ok(Self {
            envoy,
            authorizer,
            tokens,
            authority,
            identities,
            _issuer: issuer,
            _upstream: upstream,
            folder,
        })
    }

    /// Returns a client that calls as `who`, or without a certificate.
    ///
    /// # Errors
    /// Where no such workload is defined.
    pub fn client(&self, who: Option<&str>) -> Result<Client> {
        let identity = who.map(|who| self.identity(who)).transpose()?;
        Client::new(&self.authority, identity, self.envoy.address())
    }

    /// Returns a workload's certificate and key.
    ///
    /// # Errors
    /// Where no such workload is defined.
    pub fn identity(&self, who: &str) -> Result<&Identity> {
        self.identities.get(who).with_context(|| format!("no workload `{who}`"))
    }

    /// Mints the token that `scenario` calls `name`.
    ///
    /// # Errors
    /// Where no such token is defined.
    pub fn token(&self, scenario: &Scenario, name: &str) -> Result<String> {
        let spec = scenario.tokens.get(name).with_context(|| format!("no token `{name}`"))?;
        let bound_to = spec.bound_to.as_deref().map(|who| self.identity(who)).transpose()?;
        self.tokens.mint(spec, bound_to.map(Identity::thumbprint), SystemClock.now())
    }

    /// Returns the folder with all files of this run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the policy directory that symbolon watches.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }
}

/// Writes the example repository with the address of this run's issuer in it.
fn write_policies(folder: &Path, jwks: &str) -> Result<()> {
    let mut replaced = false;
    for (name, text) in POLICIES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        replaced |= text.contains(SHIPPED_JWKS);
        fs::write(path, text.replace(SHIPPED_JWKS, jwks))?;
    }
    ensure!(replaced, "policies/ lost `{SHIPPED_JWKS}`");
    Ok(())
}

/// The service that Envoy stands for.
pub const SERVICE: &str = "spiffe://demo.example/ns/payments/sa/payments";

const SHIPPED_JWKS: &str = "http://127.0.0.1:9180/jwks.json";

/// The example repository, so that the program needs no files beside it.
const POLICIES: [(&str, &str); 5] = [
    ("trust/domain.yaml", include_str!("../../../policies/trust/domain.yaml")),
    ("trust/login.yaml", include_str!("../../../policies/trust/login.yaml")),
    ("trust/mesh.yaml", include_str!("../../../policies/trust/mesh.yaml")),
    ("payments/policy.yaml", include_str!("../../../policies/payments/policy.yaml")),
    ("refunds/policy.yaml", include_str!("../../../policies/refunds/policy.yaml")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_example_repository_is_part_of_the_program() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let mut on_disk = Vec::new();
        for folder in fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
            // What begins with a dot is not loaded.
            let is_loaded = !folder.file_name().unwrap().to_string_lossy().starts_with('.');
            if folder.is_dir() && is_loaded {
                on_disk.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        let mut embedded: Vec<_> = POLICIES.iter().map(|(name, _)| root.join(name)).collect();
        on_disk.sort();
        embedded.sort();
        assert_eq!(on_disk, embedded);
    }

    #[test]
    fn the_policies_are_written_with_the_issuers_address_in_place() {
        let folder = tempfile::tempdir().unwrap();
        write_policies(folder.path(), "http://127.0.0.1:4711/jwks.json").unwrap();
        let text = fs::read_to_string(folder.path().join("trust/login.yaml")).unwrap();
        assert!(text.contains("http://127.0.0.1:4711/jwks.json") && !text.contains(":9180"));
    }
}
