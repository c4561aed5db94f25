//! The rows: what is called, and what must come of it. The data is `deploy/demo/rows.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cli::demo::issuer::TokenSpec;

/// All rows and what they name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Workloads and their SPIFFE IDs.
    pub workloads: BTreeMap<String, String>,
    /// Tokens.
    pub tokens: BTreeMap<String, TokenSpec>,
    /// The calls, in the order they are made.
    pub rows: Vec<Row>,
}

/// One call and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What it shows.
    pub name: String,
    /// The workload whose certificate is used; none: no certificate.
    pub who: Option<String>,
    /// The token presented as a Bearer token.
    pub token: Option<String>,
    /// The method.
    #[serde(default = "default_method")]
    pub method: String,
    /// The host.
    #[serde(default = "default_host")]
    pub host: String,
    /// The path, sent as it is.
    pub path: String,
    /// Further headers.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// What must come of it.
    pub expect: Expected,
    /// Headers that the service must receive once with this value or, where null, not at all.
    #[serde(default)]
    pub upstream: BTreeMap<String, Option<String>>,
}

/// What a row must come to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// `allow` or `deny`.
    pub decision: String,
    /// The reason's code.
    pub reason: String,
    /// The HTTP status.
    pub status: u16,
}

/// What a row came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What it shows.
    pub name: String,
    /// Who called.
    pub who: Option<String>,
    /// With which token.
    pub token: Option<String>,
    /// The method.
    pub method: String,
    /// The host.
    pub host: String,
    /// The path.
    pub path: String,
    /// From the decision record.
    pub decision: Option<String>,
    /// From the decision record.
    pub reason: Option<String>,
    /// From the decision record.
    pub rule: Option<String>,
    /// From the decision record.
    pub generation: Option<u64>,
    /// The decision's id.
    pub decision_id: Option<String>,
    /// From the HTTP answer.
    pub status: Option<u16>,
    /// What was expected.
    pub expected: Expected,
    /// What is not as it must be; empty where all is.
    pub problems: Vec<String>,
}

impl Scenario {
    /// Reads the rows that are part of the program.
    ///
    /// # Errors
    /// Where they are not as [`Scenario`] says, or a row names what is not defined.
    pub fn shipped() -> Result<Self> {
        let scenario: Self =
            serde_yaml::from_str(ROWS).context("deploy/demo/rows.yaml cannot be read")?;
        for row in &scenario.rows {
            let known = |defined: bool, what: &str| {
                defined.then_some(()).with_context(|| format!("row `{}`: unknown {what}", row.name))
            };
            known(row.who.as_ref().is_none_or(|who| scenario.workloads.contains_key(who)), "who")?;
            known(row.token.as_ref().is_none_or(|t| scenario.tokens.contains_key(t)), "token")?;
        }
        for token in scenario.tokens.values() {
            let bound = token.bound_to.as_ref();
            bound
                .is_none_or(|who| scenario.workloads.contains_key(who))
                .then_some(())
                .context("a token is bound to an unknown workload")?;
        }
        Ok(scenario)
    }
}

impl Outcome {
    /// Starts the outcome of a row, with nothing known yet.
    #[must_use]
    pub fn new(row: &Row) -> Self {
        Self {
            name: row.name.clone(),
            who: row.who.clone(),
            token: row.token.clone(),
            method: row.method.clone(),
            host: row.host.clone(),
            path: row.path.clone(),
            decision: None,
            reason: None,
            rule: None,
            generation: None,
            decision_id: None,
            status: None,
            expected: row.expect.clone(),
            problems: Vec::new(),
        }
    }

    /// Compares what was found with what was expected.
    pub fn compare(&mut self) {
        let expected = &self.expected;
        let found = self.status.map(|status| status.to_string());
        for (what, expected, found) in [
            ("decision", expected.decision.as_str(), self.decision.as_deref()),
            ("reason", expected.reason.as_str(), self.reason.as_deref()),
            ("status", expected.status.to_string().as_str(), found.as_deref()),
        ] {
            if found != Some(expected) {
                let found = found.unwrap_or("none");
                self.problems.push(format!("{what} is {found}, expected {expected}"));
            }
        }
    }
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_host() -> String {
    "payments.demo.example".to_owned()
}

const ROWS: &str = include_str!("../../../deploy/demo/rows.yaml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn every_expected_reason_exists_and_its_status_is_the_one_clients_are_told() {
        for row in Scenario::shipped().unwrap().rows {
            let reason = Reason::ALL.iter().find(|reason| reason.as_str() == row.expect.reason);
            let reason = reason.unwrap_or_else(|| panic!("{}: {}", row.name, row.expect.reason));
            if *reason == Reason::Allowed {
                assert_eq!((row.expect.decision.as_str(), row.expect.status), ("allow", 200));
            } else {
                assert_eq!(row.expect.decision, "deny", "{}", row.name);
                assert_eq!(row.expect.status, reason.outcome().status(), "{}", row.name);
            }
        }
    }

    #[test]
    fn an_outcome_that_differs_in_anything_says_in_what() {
        let scenario = Scenario::shipped().unwrap();
        let mut outcome = Outcome::new(scenario.rows.first().unwrap());
        outcome.decision = Some("allow".to_owned());
        outcome.status = Some(403);
        outcome.compare();
        assert_eq!(
            outcome.problems,
            ["reason is none, expected allowed", "status is 403, expected 200"]
        );
    }
}
