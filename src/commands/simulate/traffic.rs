//! What is simulated: the traces that were named, and the games that follow from the arguments.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::SimulateArgs;
use super::configured::Configured;
use crate::policy_simulator::access_log::{self, Logged};
use crate::policy_simulator::excerpts;
use crate::policy_simulator::frozen::Evaluation;
use crate::policy_simulator::scenario::Scenario;
use crate::policy_simulator::scene::Scene;
use crate::policy_simulator::workload::{Source, Sources};
use crate::trace::{RecordedPrompt, read_prompts};

/// Answers of Azure's code trace are this short, in the median; those of its conversations are ten times as long.
const CODE_ANSWERS: u32 = 50;
/// Mooncake's conversations come in steps of 3 s; its synthetic trace does not.
const STEP_MS: u128 = 3000;
/// How far from a step a row may be.
const STEP_DRIFT_MS: u128 = 5;

/// What the files hold, and where it came from.
#[derive(Debug)]
pub(super) struct Files {
    sources: Sources,
    log: Option<Vec<Logged>>,
    about: Vec<String>,
}

/// One scenario or evaluation to play.
pub(super) struct Game {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) scenes: Vec<Scene>,
}

/// The arguments with what they name.
pub(super) struct Plan<'a> {
    pub(super) args: &'a SimulateArgs,
    pub(super) files: &'a Files,
    pub(super) configured: Option<&'a Configured>,
}

/// What a file is, by its content.
enum Content {
    Chat(Source),
    Code(Source),
    Conversation(Source),
    Synthetic(Source),
    Log(Vec<Logged>),
}

impl Files {
    /// Reads the files; what none of them holds comes from the excerpts.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut files = Self { sources: excerpts::sources()?, log: None, about: Vec::new() };
        let mut whole = [false; 4];
        for path in paths.iter().map(|path| expanded(path)).collect::<anyhow::Result<Vec<_>>>()?.iter().flatten() {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let content = content(&text).with_context(|| format!("{} is no trace", path.display()))?;
            let (place, kind) = files.take(content);
            let seen = place.and_then(|place| whole.get_mut(place));
            if seen.is_some_and(|seen| std::mem::replace(seen, true)) {
                bail!("{} is a second trace of {kind}", path.display());
            }
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            files.about.push(format!("trace {name}: {kind}"));
        }
        if files.log.is_none() && whole.iter().any(|whole| !whole) {
            let names = ["chat", "code", "batch and conversations", "synthetic"];
            let missing = names.iter().zip(whole).filter(|(_, whole)| !whole).map(|(name, _)| *name);
            let missing = missing.collect::<Vec<_>>().join(", ");
            files.about.push(format!("from the built-in excerpts, over and over: {missing}"));
        }
        Ok(files)
    }

    fn take(&mut self, content: Content) -> (Option<usize>, &'static str) {
        match content {
            Content::Chat(source) => {
                self.sources.chat = source;
                (Some(0), "chat (Azure conversations)")
            }
            Content::Code(source) => {
                self.sources.code = source;
                (Some(1), "code (Azure code)")
            }
            Content::Conversation(source) => {
                self.sources.conversation = source;
                (Some(2), "batch and conversations (Mooncake conversations)")
            }
            Content::Synthetic(source) => {
                self.sources.synthetic = source;
                (Some(3), "synthetic (Mooncake synthetic)")
            }
            Content::Log(log) => {
                self.log = Some(log);
                (None, "headway's access log")
            }
        }
    }
}

/// The file itself, or the traces in a folder in the order of their names.
fn expanded(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = || format!("cannot read {}", path.display());
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        if file.extension().is_some_and(|extension| extension == "csv" || extension == "jsonl") {
            inside.push(file);
        }
    }
    inside.sort();
    if inside.is_empty() {
        bail!("there is no .csv or .jsonl file in {}", path.display());
    }
    Ok(inside)
}

fn content(text: &str) -> anyhow::Result<Content> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.trim_start().starts_with('{') && first.contains("\"request_id\"") {
        return Ok(Content::Log(access_log::read(text)?));
    }
    let rows = read_prompts(text)?;
    let json = first.trim_start().starts_with('{');
    Ok(match (json, if json { in_steps(&rows) } else { has_short_answers(&rows) }) {
        (true, true) => Content::Conversation(Source::new(rows)),
        (true, false) => Content::Synthetic(Source::new(rows)),
        (false, true) => Content::Code(Source::new(rows)),
        (false, false) => Content::Chat(Source::new(rows)),
    })
}

/// Most of them: the steps of the whole trace drift by a millisecond now and then.
fn in_steps(rows: &[RecordedPrompt]) -> bool {
    let off = |row: &RecordedPrompt| row.row.at.as_millis() % STEP_MS;
    let near = rows.iter().filter(|row| off(row) <= STEP_DRIFT_MS || off(row) >= STEP_MS - STEP_DRIFT_MS).count();
    2 * near > rows.len()
}

fn has_short_answers(rows: &[RecordedPrompt]) -> bool {
    let short = rows.iter().filter(|row| row.row.output_tokens < CODE_ANSWERS).count();
    2 * short > rows.len()
}

impl Plan<'_> {
    /// Everything to play.
    pub(super) fn games(&self) -> anyhow::Result<Vec<Game>> {
        let mut games = match (&self.files.log, self.args.evaluation) {
            (Some(log), _) => vec![self.replay(log)?],
            (None, Some(name)) => vec![self.evaluation(name.into())],
            (None, None) => self.scenarios(),
        };
        for scene in games.iter_mut().flat_map(|game| &mut game.scenes) {
            scene.state = scene.state.wrapping_add(self.args.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        Ok(games)
    }

    /// What a reader must know of where the figures come from.
    pub(super) fn about(&self) -> Vec<String> {
        let mut about = vec![
            "Engines are a model: roofline arithmetic for 8B models, not measurements; built-in prices are invented."
                .to_owned(),
            "A request that was shed, failed or never ended counts as missed.".to_owned(),
        ];
        about.extend(self.files.about.iter().cloned());
        about.extend(self.configured.iter().flat_map(|configured| configured.notes.iter().cloned()));
        if self.args.seed != 0 {
            about.push(format!("seed {}", self.args.seed));
        }
        about
    }

    fn evaluation(&self, evaluation: Evaluation) -> Game {
        let scenes = (0..self.args.count()).map(|number| evaluation.configuration(number, &self.files.sources));
        let name = match evaluation {
            Evaluation::Frozen => "frozen",
            Evaluation::Second => "second",
        };
        let about = "random fleets, loads, promises and mixes; half of them with a backend 3x slow for a minute";
        Game { name: name.to_owned(), about: about.to_owned(), scenes: scenes.collect() }
    }

    fn scenarios(&self) -> Vec<Game> {
        let usual = Scenario::named("slow").into_iter().collect();
        let chosen: Vec<Scenario> = self.args.scenarios.iter().flat_map(|chosen| chosen.0.iter().copied()).collect();
        let chosen = if chosen.is_empty() { usual } else { chosen };
        let game = |scenario: Scenario| {
            let scene = |number| {
                let scene = scenario.scene(number, &self.files.sources);
                self.configured.map_or(scene.clone(), |configured| configured.host(scene))
            };
            let scenes = (0..self.args.count()).map(scene).collect();
            Game { name: scenario.name.to_owned(), about: scenario.about.to_owned(), scenes }
        };
        chosen.into_iter().map(game).collect()
    }

    /// What a configuration would have done with what an access log shows.
    fn replay(&self, log: &[Logged]) -> anyhow::Result<Game> {
        let Some(configured) = self.configured else {
            bail!("an access log is replayed under a configuration: name it with --config")
        };
        let names: Vec<&str> = configured.routes.iter().map(|route| route.name.as_ref()).collect();
        let (workload, left) = access_log::workload(log, &names);
        if workload.arrivals.is_empty() {
            bail!("no request of the log is on a route of the configuration ({})", names.join(", "));
        }
        let duration = workload.arrivals.last().map_or(1.0, |last| last.at.as_secs_f64().max(1.0));
        let mut about = format!("{} requests of the access log", workload.arrivals.len());
        if left > 0 {
            about = format!("{about}; {left} others are on other routes, or nothing tells how long they were");
        }
        let (machines, routes) = (configured.machines.clone(), configured.routes.clone());
        let scrape = configured.scrape;
        let scene = Scene { state: 1, scrape, ..Scene::new("replay".to_owned(), duration, machines, routes, workload) };
        Ok(Game { name: "replay".to_owned(), about, scenes: vec![scene] })
    }
}
