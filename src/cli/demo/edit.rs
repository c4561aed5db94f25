//! A policy is edited while calls flow: the answer changes, and no call fails in between.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::demo::{
    authorizer::Record, calls::bearer_call, client, client::Client, scenario::Scenario,
    stage::Stage,
};

/// What the edit came to.
#[derive(Clone, Debug, Serialize)]
pub struct Edited {
    /// Calls made while the policy was edited twice.
    pub calls: usize,
    /// Those without an answer, or with another status than the two policies give.
    pub failed: usize,
    /// The generation at the start, after the edit and after it was taken back.
    pub generations: Vec<u64>,
    /// What is not as it must be; empty where all is.
    pub problems: Vec<String>,
}

#[derive(Debug, Default)]
struct Flow {
    statuses: Mutex<Vec<Option<u16>>>,
    over: AtomicBool,
}

/// Adds a deny rule to the payments policy and takes it back, with calls flowing all the while.
///
/// # Errors
/// Where the policy cannot be edited or an edit never shows.
pub async fn run(stage: &Stage, scenario: &Scenario, say: impl Fn(&str)) -> Result<Edited> {
    let path = stage.policies().join("payments/policy.yaml");
    let before = fs::read_to_string(&path)?;
    let seen: HashSet<String> = stage.authorizer.records().into_keys().collect();
    let flow = Arc::new(Flow::default());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = stage.client(Some("checkout"))?;
        let token = stage.token(scenario, "bound")?;
        let flow = Arc::clone(&flow);
        callers.spawn(async move { flow.keep_calling(&client, &token).await });
    }
    flow.wait_for(200).await?;
    say("calls flow; adding a deny rule for /v1/payments/42 to policies/payments/policy.yaml");
    replace(stage, &path, &format!("{before}{ADDED}"))?;
    flow.wait_for(403).await?;
    say("the answer is 403 now; taking the rule out again");
    replace(stage, &path, &before)?;
    flow.wait_for(200).await?;
    flow.over.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let statuses = flow.statuses();
    // The last record follows its answer; wait until as many are there as answers came.
    let records = client::until("the records of the calls", Duration::from_secs(5), async || {
        let records: Vec<Record> = stage.authorizer.records().into_values().collect();
        let new: Vec<_> =
            records.into_iter().filter(|record| !seen.contains(&record.decision_id)).collect();
        (new.len() >= statuses.iter().flatten().count()).then_some(new)
    })
    .await?;
    Ok(judge(&statuses, &records))
}

/// Compares what callers saw and what was recorded. One generation must have given one answer only.
fn judge(statuses: &[Option<u16>], records: &[Record]) -> Edited {
    let failed = statuses.iter().filter(|status| !matches!(status, Some(200 | 403))).count();
    let mut problems = Vec::new();
    if failed > 0 {
        problems.push(format!("{failed} calls failed while the policy was edited"));
    }
    let mut answers: Vec<(u64, &str)> = records
        .iter()
        .filter_map(|record| Some((record.generation()?, record.reason.as_str())))
        .collect();
    answers.sort_unstable();
    answers.dedup();
    let generations: Vec<u64> = answers.iter().map(|(generation, _)| *generation).collect();
    let reasons: Vec<&str> = answers.iter().map(|(_, reason)| *reason).collect();
    if reasons != ["allowed", "explicit_deny", "allowed"] {
        problems.push(format!("by generation the reasons were {answers:?}"));
    }
    if !generations.is_sorted_by(|one, next| one.checked_add(1) == Some(*next)) {
        problems.push(format!("generations are {generations:?}, not one after the other"));
    }
    Edited { calls: statuses.len(), failed, generations, problems }
}

impl From<anyhow::Error> for Edited {
    /// An edit that could not be made or never showed: nothing but a problem.
    fn from(error: anyhow::Error) -> Self {
        Self { calls: 0, failed: 0, generations: Vec::new(), problems: vec![format!("{error:#}")] }
    }
}

impl Flow {
    async fn keep_calling(&self, client: &Client, token: &str) {
        let call = bearer_call(token, "symbolon-demo/flow");
        let mut connection = None;
        while !self.over.load(Ordering::Relaxed) {
            if connection.is_none() {
                connection = client.connect().await.ok();
            }
            let answer = match &mut connection {
                Some(open) => open.call(&call).await.ok(),
                None => None,
            };
            if answer.is_none() {
                connection = None;
            }
            self.lock().push(answer.map(|answer| answer.status));
            tokio::time::sleep(BETWEEN_CALLS).await;
        }
    }

    /// Waits until all callers get `status`.
    async fn wait_for(&self, status: u16) -> Result<()> {
        client::until(
            &format!("calls to be answered {status}"),
            Duration::from_secs(20),
            async || {
                let statuses = self.lock();
                let last: Vec<_> = statuses.iter().rev().take(CALLERS.saturating_mul(2)).collect();
                (last.len() > CALLERS && last.iter().all(|seen| **seen == Some(status)))
                    .then_some(())
            },
        )
        .await
    }

    fn statuses(&self) -> Vec<Option<u16>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<u16>>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file at once, by renaming another over it. That one is written outside the watched
/// directory: inside, it would be a change of its own, with a generation of its own.
fn replace(stage: &Stage, path: &Path, text: &str) -> Result<()> {
    let outside = stage.folder().join("edited-policy");
    fs::write(&outside, text)?;
    fs::rename(&outside, path)?;
    Ok(())
}

/// What is added at the end of the payments policy, where its rules are.
const ADDED: &str = "
  # Added by the demo.
  - name: not-this-one
    effect: deny
    to: {paths: [\"/v1/payments/42\"]}
";

const CALLERS: usize = 4;
/// Some two hundred calls a second: enough to fall into every moment of a reload.
const BETWEEN_CALLS: Duration = Duration::from_millis(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64, reason: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "decision_id": "d", "decision": "deny", "reason": reason,
            "policy": {"generation": generation.to_string()},
        }))
        .unwrap()
    }

    #[test]
    fn one_generation_with_two_answers_is_a_problem() {
        let good = [record(1, "allowed"), record(2, "explicit_deny"), record(3, "allowed")];
        assert!(judge(&[Some(200), Some(403)], &good).problems.is_empty());
        let mixed = [&good[..], &[record(2, "allowed")]].concat();
        assert!(!judge(&[Some(200)], &mixed).problems.is_empty());
    }

    #[test]
    fn a_call_that_fails_during_the_edit_is_a_problem() {
        let good = [record(1, "allowed"), record(2, "explicit_deny"), record(3, "allowed")];
        assert_eq!(judge(&[Some(200), None, Some(503)], &good).failed, 2);
        assert!(!judge(&[Some(200), None], &good).problems.is_empty());
    }
}
