//! Parses the arguments, runs the command, returns its exit code.

use std::process::ExitCode;

use clap::Parser;
use headway::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stderr, reason = "the command line is where errors are read")]
fn main() -> ExitCode {
    // pingora's connector, our listeners and clients all use the one provider there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match headway::commands::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
