//! What came of the calls, for people.

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use crate::cli::demo::{edit::Edited, scenario::Outcome, stage::Stage};

/// Returns the rows as a table, coloured where `colour` says so.
#[must_use]
pub(super) fn rows(outcomes: &[Outcome], colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "what", "who", "token", "for", "decision", "reason", "HTTP"]);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for outcome in outcomes {
        let good = outcome.problems.is_empty();
        let decision = outcome.decision.as_deref().unwrap_or("none");
        let tint = if decision == "allow" { Color::Green } else { Color::Yellow };
        let mark = if good { Cell::new("✓") } else { Cell::new("✗").fg(Color::Red) };
        let host = match outcome.host.as_str() {
            crate::cli::demo::client::SERVER_NAME => "",
            other => other,
        };
        table.add_row([
            mark,
            Cell::new(&outcome.name),
            Cell::new(outcome.who.as_deref().unwrap_or("nobody")),
            Cell::new(outcome.token.as_deref().unwrap_or("none")),
            Cell::new(format!("{} {host}{}", outcome.method, outcome.path)),
            Cell::new(decision).fg(tint),
            Cell::new(outcome.reason.as_deref().unwrap_or("none")),
            Cell::new(outcome.status.map_or_else(|| "none".to_owned(), |s| s.to_string()))
                .add_attribute(Attribute::Bold),
        ]);
    }
    let mut lines = vec![table.to_string()];
    for outcome in outcomes.iter().filter(|outcome| !outcome.problems.is_empty()) {
        let id = outcome.decision_id.as_deref().unwrap_or("none");
        lines.push(format!("✗ {} (decision {id}):", outcome.name));
        lines.extend(outcome.problems.iter().map(|problem| format!("    {problem}")));
    }
    let good = outcomes.iter().filter(|outcome| outcome.problems.is_empty()).count();
    lines.push(format!("{good} of {} calls came out as expected", outcomes.len()));
    lines.join("\n")
}

/// Returns what came of the edit, in a few lines.
#[must_use]
pub(super) fn edited(edited: &Edited) -> String {
    let generations: Vec<String> = edited.generations.iter().map(u64::to_string).collect();
    let mut lines = vec![format!(
        "{} calls while the policy changed twice, {} failed; generation {}",
        edited.calls,
        edited.failed,
        generations.join(" → ")
    )];
    lines.extend(edited.problems.iter().map(|problem| format!("✗ {problem}")));
    lines.join("\n")
}

/// Returns `curl` lines to try by hand.
#[must_use]
pub(super) fn by_hand(stage: &Stage) -> String {
    let folder = stage.folder().display();
    let port = stage.envoy.address().port();
    let server = crate::cli::demo::client::SERVER_NAME;
    let curl = |who: Option<&str>, token: Option<&str>, path: &str| {
        let identity = who.map_or_else(String::new, |who| {
            format!(" --cert {folder}/tls/{who}.crt --key {folder}/tls/{who}.key")
        });
        let token = token.map_or_else(String::new, |token| {
            format!(" -H \"authorization: Bearer $(cat {folder}/tokens/{token})\"")
        });
        format!(
            "curl -i --path-as-is --cacert {folder}/tls/ca.crt \
             --resolve {server}:{port}:127.0.0.1{identity}{token} https://{server}:{port}{path}"
        )
    };
    let bold = Style::new().bold();
    let title = |text: &str| format!("{bold}# {text}{bold:#}");
    let link = AnsiColor::Cyan.on_default();
    [
        title("a bound token with its own certificate"),
        curl(Some("checkout"), Some("bound"), "/v1/payments/42"),
        title("the same token, stolen by another workload"),
        curl(Some("reports"), Some("bound"), "/v1/payments/42"),
        title("a token that is not bound"),
        curl(Some("checkout"), Some("unbound"), "/v1/payments/42"),
        title("no certificate"),
        curl(None, Some("bound"), "/v1/payments/42"),
        title("a path that two parsers read differently"),
        curl(Some("checkout"), Some("bound"), "/v1/payments/42/../export"),
        title("what was decided, and why"),
        format!("tail -n 5 {}", stage.authorizer.records_file().display()),
        title("metrics"),
        format!("curl {link}http://{}/metrics{link:#}", stage.authorizer.metrics()),
        title("edit a policy, and call again"),
        format!("${{EDITOR:-vi}} {}", stage.policies().join("payments/policy.yaml").display()),
    ]
    .join("\n")
}
