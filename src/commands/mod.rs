//! One file per command.

mod ask;
pub mod bench;
pub mod calibrate;
pub mod check;
pub mod completions;
pub mod conformance;
pub mod demo;
pub mod explain;
pub mod init;
pub mod man;
pub mod nim;
pub mod profiles;
pub mod schema;
pub mod serve;
pub mod simulate;
pub mod top;
mod words;

pub use self::ask::AdminArgs;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::nim_simulator::SimulatorError;
use crate::proxy::BindError;

/// The configuration is wrong (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;
/// An address cannot be bound (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Interrupted by SIGINT (128 and its number).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Runs the command that the arguments name. Whatever kept it from its job is said in full on standard error.
#[allow(clippy::print_stderr, reason = "the command line is where errors are read")]
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    execute(cli).unwrap_or_else(|error| {
        eprintln!("headway: {error:#}");
        failure(&error)
    })
}

/// The exit code of an error.
fn failure(error: &anyhow::Error) -> ExitCode {
    let unbound = error
        .chain()
        .any(|cause| cause.is::<BindError>() || matches!(cause.downcast_ref(), Some(SimulatorError::Bind { .. })));
    if unbound { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => print(|out| check::run(&args, out)),
        Command::Init(args) => print(|out| init::run(&args, out)),
        Command::Profiles(args) => print(|out| profiles::run(&args, out)),
        Command::Schema(args) => print(|out| schema::run(&args, out)),
        Command::Simulate(args) => print(|out| simulate::run(&args, out)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Calibrate(args) => block_on(calibrate::run(args)),
        Command::Conformance(args) => block_on(conformance::run(args)),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Explain(args) => print(|out| explain::run(&args, out)),
        Command::Top(args) => top::run(&args),
        Command::Completions(args) => print(|out| completions::run(&args, out)),
        Command::Man(args) => print(|out| man::run(&args, out)),
        Command::Nim(args) => block_on(nim::run(args)).map(|()| ExitCode::SUCCESS),
    }
}

/// Runs a command that writes to standard output; a closed pipe is its end, not an error.
fn print(command: impl FnOnce(&mut dyn Write) -> anyhow::Result<u8>) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match command(&mut out) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
