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
use self::progress::Progress;
use self::sweep::{Swept, Watch, sweep};
use self::target::Target;
use self::visit::Visit;
use super::{EXIT_CONFIG, EXIT_INTERRUPTED};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::config::settings::Settings;
use crate::planner::EngineFit;

/// Measures, writes the measurements, and prints what follows; the exit code is 1 when no backend could be measured.
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
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let measuring = measure(&args, &settings, &clock);
    let (found, skipped) = tokio::select! {
        done = measuring => done?,
        _ = tokio::signal::ctrl_c() => {
            writeln!(io::stderr().lock(), "\ninterrupted: nothing is written")?;
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
    };
    let nothing = found.iter().all(|one| one.points.iter().all(|point| point.samples.is_empty()));
    let path = (!args.no_write && !nothing).then(|| write::path(&args, &settings));
    if let Some(path) = &path {
        write::write(path, &found, &*clock)?;
    }
    let findings = Findings::of(found, skipped, &settings, &args);
    let mut out = io::stdout().lock();
    match args.format {
        Format::Table => table::print(&findings, &mut out)?,
        Format::Json => writeln!(out, "{:#}", json::of(&findings))?,
    }
    if let Some(path) = path {
        tell(&path, &settings)?;
    }
    Ok(if nothing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

type Skipped = Vec<(Arc<str>, String)>;

/// One backend after the other.
async fn measure(
    args: &CalibrateArgs,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Vec<Found>, Skipped)> {
    let visit = Visit::begin(settings, clock)?;
    let mut progress = Progress::new();
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for (place, backend) in settings.backends.iter().enumerate() {
        if !args.backends.is_empty() && !args.backends.iter().any(|name| **name == *backend.name) {
            continue;
        }
        let guard = Guard { visit: &visit, settings, place, off: args.in_service };
        match one(args, &guard, clock, &mut progress).await {
            Ok(one) => found.push(one),
            Err(why) => skipped.push((Arc::clone(&backend.name), format!("{why:#}"))),
        }
    }
    progress.end()?;
    Ok((found, skipped))
}

async fn one(
    args: &CalibrateArgs,
    guard: &Guard<'_>,
    clock: &Arc<dyn Clock>,
    progress: &mut Progress,
) -> anyhow::Result<Found> {
    let Guard { visit, settings, place, .. } = *guard;
    let backend = visit.ready(place).await.map_err(|why| anyhow::anyhow!("it is not ready: {why}"))?;
    guard.may_go_on().await?;
    let target = Target::meet(&backend, settings, args.model.as_deref(), (args.seed, clock)).await?;
    let Swept { points, stopped } = sweep(&target, args, clock, progress, guard).await?;
    let kv_cache_tokens = visit.engine(place).await.and_then(|load| load.kv_capacity);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of tokens")]
    let kv_cache_tokens = kv_cache_tokens.map(|tokens| tokens as u64);
    let fit = EngineFit::of(&points);
    Ok(Found { target, points, fit, kv_cache_tokens, stopped })
}

/// Watches over one backend's users.
struct Guard<'a> {
    visit: &'a Visit,
    settings: &'a Settings,
    place: usize,
    off: bool,
}

impl Watch for Guard<'_> {
    async fn may_go_on(&self) -> anyhow::Result<()> {
        if self.off { Ok(()) } else { guard::idle(self.visit, self.settings, self.place).await }
    }
}
