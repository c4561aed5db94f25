//! The `symbolon` binary.

use std::process::ExitCode;

use clap::Parser as _;
use symbolon::cli::{self, Cli};

// Checks allocate small and short-lived: the system's allocator takes a fifth more CPU for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(&Cli::parse()).unwrap_or_else(|error| {
        cli::print_error(&error);
        ExitCode::FAILURE
    })
}
