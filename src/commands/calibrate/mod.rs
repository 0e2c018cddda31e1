//! `headway calibrate`: measures every backend of a configuration, gently, and says what to use for what.
//!
//! What it measures is what the router starts from; what it concludes (the engine behind each backend, the highest load
//! of each promise, the profile for each route, the cheapest fleet) is [`planner`](crate::planner)'s.

mod args;
mod findings;
mod guard;
mod json;
mod progress;
mod sweep;
mod table;
mod target;
mod visit;
mod write;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;

pub use self::args::{CalibrateArgs, Demand, Format};
use self::findings::{Findings, Found};
use self::guard::Guard;
use self::progress::Progress;
use self::sweep::{Swept, sweep};
use self::target::Target;
use self::visit::Visit;
use self::write::Measurements;
use super::{EXIT_CONFIG, EXIT_INTERRUPTED};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::config::settings::Settings;
use crate::planner::EngineFit;

/// What all of a run shares.
struct Run<'a> {
    args: &'a CalibrateArgs,
    clock: &'a Arc<dyn Clock>,
    /// What the prompts are drawn from.
    seed: u64,
}

/// Measures, prints what follows, and writes the measurements; the exit code is 1 when no backend could be measured.
///
/// # Errors
/// When an argument names what the configuration does not, or a file cannot be written.
pub async fn run(args: CalibrateArgs) -> anyhow::Result<ExitCode> {
    let settings = match config::load_before_baselines(&args.config) {
        Ok(loaded) => loaded.settings,
        Err(report) => {
            writeln!(io::stderr().lock(), "{report}")?;
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    known(&args, &settings)?;
    let file = (!args.no_write).then(|| Measurements::open(write::path(&args, &settings))).transpose()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let unix = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or_else(|| u64::try_from(unix.as_nanos()).unwrap_or_default());
    let run = Run { args: &args, clock: &clock, seed };
    let mut done = Done::default();
    let interrupted = tokio::select! {
        measured = measure(&run, &settings, &mut done) => { measured?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    let Done { found, skipped } = done;
    if interrupted && found.is_empty() {
        writeln!(io::stderr().lock(), "\ninterrupted: nothing is written")?;
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    if interrupted {
        let names: Vec<&str> = found.iter().map(|one| one.target.name()).collect();
        writeln!(io::stderr().lock(), "\ninterrupted: this is of {} alone", names.join(", "))?;
    }
    let findings = Findings::of(found, skipped, &settings, &args);
    let mut out = io::stdout().lock();
    match args.format {
        Format::Table => table::print(&findings, &mut out)?,
        Format::Json => writeln!(out, "{:#}", json::of(&findings))?,
    }
    let nothing = findings.backends.iter().all(|one| one.points.iter().all(|point| point.answers() == 0));
    if let Some(file) = file.filter(|_| !nothing) {
        file.write(&findings.backends, &*clock)?;
        tell(file.path(), &settings)?;
    }
    Ok(match () {
        () if interrupted => ExitCode::from(EXIT_INTERRUPTED),
        () if nothing => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

/// Where the measurements are, and how the router gets them.
fn tell(path: &std::path::Path, settings: &Settings) -> io::Result<()> {
    let mut out = io::stderr().lock();
    writeln!(out, "Measurements: {}", path.display())?;
    if settings.baselines.as_ref().is_none_or(|baselines| baselines.path != *path) {
        writeln!(out, "For headway to start from them, add to the configuration: baselines: {}", path.display())?;
    }
    Ok(())
}

/// Refuses names that the configuration does not have.
fn known(args: &CalibrateArgs, settings: &Settings) -> anyhow::Result<()> {
    let list = |names: Vec<&str>| names.join(", ");
    for name in &args.backends {
        if !settings.backends.iter().any(|backend| *backend.name == **name) {
            let all = settings.backends.iter().map(|backend| &*backend.name).collect();
            bail!("--backend {name}: no backend is called so; there are {}", list(all));
        }
    }
    for demand in &args.demand {
        if !settings.routes.iter().any(|route| *route.name == *demand.route) {
            let all = settings.routes.iter().map(|route| &*route.name).collect();
            bail!("--demand {}: no route is called so; there are {}", demand.route, list(all));
        }
    }
    Ok(())
}

/// What is done with.
#[derive(Default)]
struct Done {
    found: Vec<Found>,
    skipped: Vec<(Arc<str>, String)>,
}

/// One backend after the other.
async fn measure(run: &Run<'_>, settings: &Settings, done: &mut Done) -> anyhow::Result<()> {
    let visit = Visit::begin(settings, run.clock)?;
    let mut progress = Progress::new();
    let wanted = &run.args.backends;
    for (place, backend) in settings.backends.iter().enumerate() {
        if !wanted.is_empty() && !wanted.iter().any(|name| **name == *backend.name) {
            continue;
        }
        match one(run, settings, (&visit, place), &mut progress).await {
            Ok(one) => done.found.push(one),
            Err(why) => done.skipped.push((Arc::clone(&backend.name), format!("{why:#}"))),
        }
    }
    Ok(progress.end()?)
}

async fn one(
    run: &Run<'_>,
    settings: &Settings,
    (visit, place): (&Visit, usize),
    progress: &mut Progress,
) -> anyhow::Result<Found> {
    let backend = visit.ready(place).await.map_err(anyhow::Error::msg)?;
    let guard = Guard::of(visit, settings, place, run.args.in_service).await;
    guard.may_go_on().await?;
    let target = Target::meet(&backend, settings, run.args.model.as_deref(), run).await?;
    let Swept { points, stopped, too_long } = sweep(&target, run, progress, &guard).await?;
    let kv_cache_tokens = guard.kv_cache_tokens().await;
    let fit = EngineFit::of(&points);
    Ok(Found { target, points, fit, kv_cache_tokens, stopped, too_long })
}
