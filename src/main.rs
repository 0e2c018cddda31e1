//! Parses the arguments, runs the command, returns its exit code.

use std::process::ExitCode;

use clap::Parser;
use headway::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // pingora's connector, our listeners and clients all use the one provider there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    headway::commands::run(Cli::parse())
}
