//! `symbolon policy`: work on a policy directory, without network.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anstream::{AutoStream, ColorChoice};
use clap::{Args, Subcommand};

use crate::{
    diagnostic::{At, Diagnostic, Diagnostics, Format},
    policy::load::{self, Loaded},
    snapshot::source::{self, SourceTree},
};

/// The policies are wrong.
const WRONG: u8 = 1;

/// The command was misused: there is no such directory.
const MISUSED: u8 = 2;

/// `symbolon policy …`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  symbolon policy check policies/")]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands on a policy directory.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Load a policy directory as the server would, and report every mistake
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
}

const CHECK_EXAMPLES: &str = "\
Examples:
  symbolon policy check policies/
  symbolon policy check policies/ --format github          in a GitHub workflow, beside the lines
  symbolon policy check policies/ --format sarif > s.sarif  for code scanning

Exit codes: 0 the policies hold, 1 they are wrong, 2 the directory cannot be read.";

/// `symbolon policy check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The policy directory
    pub directory: PathBuf,
    /// How mistakes are shown
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// A header that stays symbolon's own though no policy sets it, as in the process's `ownedHeaders`
    #[arg(long = "owned-header", value_name = "NAME")]
    pub owned_headers: Vec<String>,
}

/// Runs the command. It ends with 0 where the policies hold, 1 where they are wrong, 2 where the directory
/// cannot be read.
///
/// # Errors
/// Output that cannot be written.
pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Check(args) => {
            let choice = AutoStream::choice(&std::io::stderr());
            check(
                args,
                choice != ColorChoice::Never,
                &mut anstream::stdout(),
                &mut anstream::stderr(),
            )
        }
    }
}

/// Checks a directory. What programs read goes to `out`, what people read about mistakes to `err`.
fn check(
    args: &CheckArgs,
    colour: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    if !args.directory.is_dir() {
        writeln!(err, "error: `{}` is not a directory", args.directory.display())?;
        return Ok(ExitCode::from(MISUSED));
    }
    let tree = match source::read(&args.directory) {
        Ok(tree) => tree,
        // Whether it holds cannot be said.
        Err(error) if error.is_busy() => {
            writeln!(err, "error: {error}")?;
            return Ok(ExitCode::from(MISUSED));
        }
        Err(error) => {
            let mistake =
                Diagnostic::new(&At::default(), format!("{:#}", anyhow::Error::new(error)));
            let root = args.directory.clone();
            let diagnostics = Diagnostics { all: vec![mistake], root, ..Diagnostics::default() };
            return wrong(args.format, &diagnostics, colour, out, err);
        }
    };
    match load::load(&tree, &args.owned_headers) {
        Ok(loaded) => {
            holds(args.format, &tree, &loaded, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(diagnostics) => wrong(args.format, &diagnostics, colour, out, err),
    }
}

fn wrong(
    format: Format,
    diagnostics: &Diagnostics,
    colour: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let text = diagnostics.render(format, colour);
    if format == Format::Human {
        write!(err, "{text}")?;
    } else {
        write!(out, "{text}")?;
    }
    writeln!(err, "error: the policies do not hold: {}", diagnostics.summary())?;
    Ok(ExitCode::from(WRONG))
}

fn holds(
    format: Format,
    tree: &SourceTree,
    loaded: &Loaded,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let documents = &loaded.documents;
    match format {
        Format::Human => {}
        Format::Github => return Ok(()),
        Format::Json | Format::Sarif => {
            let none = Diagnostics::default();
            return write!(out, "{}", none.render(format, false));
        }
    }
    let rules: usize = documents.policies.iter().map(|policy| policy.rules.len()).sum();
    for (number, one) in [
        (documents.policies.len(), "policies"),
        (rules, "rules"),
        (documents.issuers.len(), "issuers"),
        (documents.trust_domains.len(), "trust domains"),
    ] {
        writeln!(out, "{number:>6} {one}")?;
    }
    for file in &loaded.skipped {
        writeln!(out, "skipped, as it has no symbolon document: {}", file.escape_debug())?;
    }
    if let Some(commit) = &tree.commit {
        writeln!(out, "commit {commit}")?;
    }
    writeln!(out, "generation {}", tree.hash)?;
    writeln!(out, "the policies hold")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    const TRUST: &str = "apiVersion: symbolon/v1\nkind: TrustDomain\nmetadata: {name: a.example}\n";

    fn run_check(files: &[(&str, &str)], more: &[&str]) -> (ExitCode, String, String) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().to_str().unwrap();
        let args = ["symbolon", "check", path].into_iter().chain(more.iter().copied());
        let PolicyCommand::Check(args) = Cli::parse_from(args).policy.command;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&args, false, &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn policies_that_hold_are_counted() {
        let (code, out, err) = run_check(&[("a.yaml", TRUST), ("b.yaml", "x: 1\n")], &[]);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""), "{out}");
        assert!(
            out.contains("     1 trust domains\n") && out.contains("     0 policies\n"),
            "{out}"
        );
        assert!(out.contains("no symbolon document: b.yaml\n") && out.contains("generation "));
    }

    #[test]
    fn every_mistake_is_shown_and_summed_up() {
        let wrong = TRUST.replace("kind", "knd: x\nkind");
        let (code, out, err) = run_check(&[("a.yaml", &wrong), ("b.yaml", &wrong)], &[]);
        assert_eq!((code, out.as_str()), (ExitCode::from(1), ""));
        assert!(err.contains("a.yaml:2:1") && err.contains("b.yaml:2:1"), "{err}");
        assert!(err.ends_with("error: the policies do not hold: 3 mistakes in 2 files\n"), "{err}");
    }

    #[test]
    fn programs_read_mistakes_from_standard_output() {
        let files = [("a.yaml", "apiVersion: symbolon/v2\n")];
        let (code, out, _) = run_check(&files, &["--format", "json"]);
        assert_eq!(code, ExitCode::from(1));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()[0]["line"], 1);
        let (_, out, _) = run_check(&files, &["--format", "github"]);
        assert!(out.starts_with("::error file=") && out.contains("a.yaml,line=1,col=13"), "{out}");
        let (code, out, err) = run_check(&[("a.yaml", TRUST)], &["--format", "json"]);
        assert_eq!((code, out.as_str(), err.as_str()), (ExitCode::SUCCESS, "[]\n", ""));
    }

    #[test]
    fn what_cannot_be_read_does_not_hold() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("a.yaml")).unwrap();
        let args = CheckArgs {
            directory: folder.path().to_owned(),
            format: Format::Json,
            owned_headers: Vec::new(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&args, false, &mut out, &mut err).unwrap();
        assert_eq!(code, ExitCode::from(1));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(value[0]["message"].as_str().unwrap().contains("leads out"), "{value}");
    }

    #[test]
    fn a_directory_that_is_none_is_misuse() {
        let args = CheckArgs {
            directory: PathBuf::from("/nowhere/at/all"),
            format: Format::Human,
            owned_headers: Vec::new(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&args, false, &mut out, &mut err).unwrap();
        assert_eq!((code, out.len()), (ExitCode::from(2), 0));
        assert_eq!(err, b"error: `/nowhere/at/all` is not a directory\n");
    }
}
