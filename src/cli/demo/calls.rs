//! Makes the calls of the rows and finds out what came of each: from the answer, from Envoy's access
//! log and from symbolon's decision record, never from what was expected.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    cli::demo::{
        client::{self, Answer, Call},
        fetch::hex,
        scenario::{Outcome, Row, Scenario},
        stage::Stage,
    },
    reason::Reason,
};

/// Makes one row's call. A call that fails is an outcome too, with the problem in it.
pub async fn run(stage: &Stage, scenario: &Scenario, row: &Row, number: usize) -> Outcome {
    let mut outcome = Outcome::new(row);
    if let Err(error) = observe(stage, scenario, row, number, &mut outcome).await {
        outcome.problems.push(format!("{error:#}"));
    }
    outcome.compare();
    outcome
}

/// Waits until symbolon has the issuer's keys: only then do the rows mean what they say.
///
/// # Errors
/// Where it has none in time.
pub async fn wait_for_keys(stage: &Stage, scenario: &Scenario) -> Result<()> {
    let client = stage.client(Some("checkout"))?;
    let call = bearer_call(&stage.token(scenario, "bound")?, "symbolon-demo/keys");
    client::until("symbolon to have the issuer's keys", KEYS, async || {
        let answer = client.call(&call).await.ok()?;
        (answer.status != Reason::IssuerKeysUnavailable.outcome().status()).then_some(())
    })
    .await
}

/// Returns the call of the first row, with a name of its own in Envoy's log.
#[must_use]
pub fn bearer_call(token: &str, user_agent: &str) -> Call {
    Call {
        method: "GET".to_owned(),
        host: client::SERVER_NAME.to_owned(),
        path: "/v1/payments/42".to_owned(),
        headers: vec![
            ("user-agent".to_owned(), user_agent.to_owned()),
            ("authorization".to_owned(), format!("Bearer {token}")),
        ],
    }
}

async fn observe(
    stage: &Stage,
    scenario: &Scenario,
    row: &Row,
    number: usize,
    outcome: &mut Outcome,
) -> Result<()> {
    let user_agent = format!("symbolon-demo/{number}");
    let mut headers = vec![("user-agent".to_owned(), user_agent.clone())];
    if let Some(token) = &row.token {
        let token = stage.token(scenario, token)?;
        headers.push(("authorization".to_owned(), format!("Bearer {token}")));
    }
    for (name, value) in &row.headers {
        headers.push((name.clone(), fill(stage, scenario, value)?));
    }
    let call = Call {
        method: row.method.clone(),
        host: row.host.clone(),
        path: row.path.clone(),
        headers,
    };
    let answer = stage.client(row.who.as_deref())?.call(&call).await?;
    outcome.status = Some(answer.status);
    check_upstream(row, &answer, outcome);
    let access = stage.envoy.access(&user_agent).await?;
    if access.status != answer.status {
        outcome.problems.push(format!("Envoy logged status {}", access.status));
    }
    let named = answer.headers.get(DECISION_HEADER).and_then(|id| id.to_str().ok());
    if let (Some(named), Some(logged)) = (named, access.decision_id())
        && named != logged
    {
        outcome.problems.push(format!("the answer names decision {named}, Envoy logged {logged}"));
    }
    let id = access.decision_id().or(named).with_context(|| {
        let details = access.details.as_deref().unwrap_or_default();
        format!("no decision of symbolon's: neither answer nor access log names one ({details})")
    })?;
    outcome.decision_id = Some(id.to_owned());
    let record = stage.authorizer.record(id).await?;
    outcome.generation = record.generation();
    outcome.decision = Some(record.decision);
    outcome.reason = Some(record.reason);
    outcome.rule = record.rule.filter(|rule| !rule.is_empty());
    Ok(())
}

/// Puts the thumbprints of workloads in, in XFCC's form.
fn fill(stage: &Stage, scenario: &Scenario, value: &str) -> Result<String> {
    let mut value = value.to_owned();
    for who in scenario.workloads.keys() {
        let thumbprint = hex(stage.identity(who)?.thumbprint().as_bytes());
        value = value.replace(&format!("{{thumbprint.{who}}}"), &thumbprint);
    }
    Ok(value)
}

/// Compares what the service received with what the row says of it.
fn check_upstream(row: &Row, answer: &Answer, outcome: &mut Outcome) {
    if row.upstream.is_empty() {
        return;
    }
    let received: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Some(headers) = received.get("headers") else {
        outcome.problems.push("the service did not answer".to_owned());
        return;
    };
    for (name, expected) in &row.upstream {
        let values = headers.get(name);
        let as_expected = match expected {
            None => values.is_none(),
            Some(expected) => values == Some(&serde_json::json!([expected])),
        };
        if !as_expected {
            let found = values.map_or_else(|| "nothing".to_owned(), Value::to_string);
            outcome.problems.push(format!("the service received {found} as {name}"));
        }
    }
}

/// Where a denial names its decision.
pub const DECISION_HEADER: &str = "x-symbolon-decision";
const KEYS: Duration = Duration::from_secs(15);
