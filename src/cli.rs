//! The commands.

pub mod demo;
pub mod policy;
pub mod serve;

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use anstyle::{AnsiColor, Style};
use clap::{Parser, Subcommand};

/// Decides, for Envoy and Istio, which calls in a mesh go through.
///
/// The caller's certificate and its access token must belong together, and a policy must allow the pair.
#[derive(Debug, Parser)]
#[command(
    name = "symbolon",
    version,
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers Envoy's checks, by the policies of a directory that it watches.
    Serve(serve::Arguments),
    /// Shows it at work: a real Envoy, symbolon behind it, and calls with good and bad credentials.
    Demo(demo::DemoArgs),
    /// Works on a policy directory, without network.
    Policy(policy::PolicyArgs),
}

/// Runs the command. Misuse has ended the process before, with 2.
///
/// # Errors
/// What stops the command, for [`print_error`].
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Policy(arguments) => policy::run(arguments),
    }
}

/// Prints an error and its causes on standard error.
pub fn print_error(error: &anyhow::Error) {
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let mut text = format!("{red}error{red:#}: {error}\n");
    for cause in error.chain().skip(1) {
        // Writing to a String cannot fail.
        writeln!(text, "  because: {cause}").unwrap_or_default();
    }
    // With standard error gone there is nobody left to tell.
    drop(anstream::stderr().write_all(text.as_bytes()));
}

const EXAMPLES: &str = "\
Examples:
  symbolon demo                              see it at work, with a real Envoy
  symbolon policy check policies/            what is wrong in a policy directory
  symbolon serve --policies policies/        answer checks on 127.0.0.1:9191

`symbolon COMMAND --help` says more about a command.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_has_examples() {
        assert!(Cli::command().render_help().to_string().contains("symbolon serve --policies"));
    }

    #[test]
    fn version_is_known() {
        let error = Cli::try_parse_from(["symbolon", "--version"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::DisplayVersion);
    }
}
