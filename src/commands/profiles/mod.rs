//! `headway profiles`: what NIM says of its model profiles, in NIM's order, as backends, as a command that starts one.

mod backends;
mod docker;
mod estimates;
mod json;
mod table;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use self::estimates::Memory;
use crate::nim::{self, Circumstances, Document, Entry, ModelShape, ProfileId, Selection, SystemGpu};

/// Longest text that is read: manifests of many files have some megabytes.
const LONGEST: u64 = 64 << 20;

/// What to read, and what to make of it.
#[derive(Debug, Clone, Default, Args)]
pub struct ProfilesArgs {
    /// Output of `list-model-profiles`, a `model_manifest.yaml`, an answer of `/v1/metadata` or a NIM's log at start; `-`
    /// reads standard input.
    #[arg(default_value = "-", value_name = "FILE")]
    pub file: PathBuf,
    /// Put them in the order of NIM's own rules, with the rule that put each where it is.
    #[arg(long)]
    pub select: bool,
    /// How to print them.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Only this one: an id, the beginning of one, or a name.
    #[arg(long, value_name = "ID")]
    pub profile: Option<String>,

    /// The GPU of the system, where the text does not say, such as `h100_nvl`.
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// How many of them [default: 1].
    #[arg(long, value_name = "N", requires = "gpu", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: Option<u32>,
    /// The memory of one GPU in GiB, where its name does not tell.
    #[arg(long, value_name = "GIB", value_parser = super::bench::positive)]
    pub gpu_memory: Option<f64>,
    /// `LoRA` adapters are to be served.
    #[arg(long)]
    pub lora: bool,

    /// The model's `config.json`: estimates the memory that each profile needs.
    #[arg(long, value_name = "FILE", conflicts_with = "parameters")]
    pub config_json: Option<PathBuf>,
    /// The model's parameters, such as 8B: estimates the memory of the weights alone.
    #[arg(long, value_name = "N", value_parser = parameters)]
    pub parameters: Option<f64>,
    /// Tokens of the longest request to estimate for [default: the model's longest].
    #[arg(long, value_name = "N")]
    pub context: Option<u64>,

    /// For backends: where the first one answers; others follow at the next ports.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// For backends: the price of one GPU for one hour.
    #[arg(long, value_name = "PRICE", value_parser = super::bench::positive)]
    pub gpu_hour: Option<f64>,
    /// For docker: the image.
    #[arg(long, value_name = "IMAGE", default_value = "nvcr.io/nim/ORG/MODEL:TAG")]
    pub image: String,
}

/// How to print profiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
    /// As `backends:` of a configuration: those that can start.
    Backends,
    /// A `docker run` that starts the chosen one: that of `--profile`, else the first by NIM's rules.
    Docker,
}

fn parameters(text: &str) -> Result<f64, String> {
    nim::parse_parameters(text).ok_or_else(|| format!("`{text}` is no number of parameters, such as 8B or 350M"))
}

/// Everything that is shown, whatever the format.
struct Shown<'a> {
    document: &'a Document,
    /// The system's GPUs: of the arguments, else of the text.
    gpus: Option<&'a [SystemGpu]>,
    /// The entries to show, by their place.
    entries: Vec<usize>,
    selection: &'a Selection,
    /// Whether the order is that of the selection.
    select: bool,
    memory: Option<Memory>,
    args: &'a ProfilesArgs,
}

/// Reads a text and prints what it says; the result is the exit code.
pub fn run(args: &ProfilesArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let document = nim::parse(&read(&args.file)?);
    if document.entries.is_empty() {
        let name = if args.file.as_os_str() == "-" { "standard input".into() } else { args.file.display().to_string() };
        bail!(
            "{name} names no profile; what is read is the output of `list-model-profiles`, a `model_manifest.yaml`, an \
             answer of /v1/metadata or a NIM's log at its start"
        );
    }
    let own_gpus = args.gpu.as_deref().map(|name| system(name, args.gpus.unwrap_or(1)));
    let gpus = own_gpus.as_deref().or(document.gpus.as_deref());
    let circumstances = Circumstances { gpus, gib: args.gpu_memory, lora: args.lora };
    let selection = nim::select(&document, &circumstances);
    let entries = match &args.profile {
        Some(wanted) => vec![find(&document, wanted)?],
        None if args.select => in_order(&selection),
        None => (0..document.entries.len()).collect(),
    };
    let memory = memory(args)?;
    let shown = Shown { document: &document, gpus, entries, selection: &selection, select: args.select, memory, args };
    match args.format {
        Format::Table => table::print(&shown, out)?,
        Format::Json => writeln!(out, "{:#}", json::value(&shown))?,
        Format::Backends => backends::print(&shown, out)?,
        Format::Docker => docker::print(&shown, out)?,
    }
    Ok(0)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        opened.take(LONGEST + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", file.display()))?;
    }
    if bytes.len() as u64 > LONGEST {
        bail!("{} is larger than {} MiB", file.display(), LONGEST >> 20);
    }
    // A log may hold anything; what is not text is not about profiles.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn system(name: &str, count: u32) -> Vec<SystemGpu> {
    let gpu = |index| SystemGpu { index, name: name.to_owned(), device: None, utilization: None, free: true };
    (0..count).map(gpu).collect()
}

fn in_order(selection: &Selection) -> Vec<usize> {
    let ranked = selection.ranked.iter().map(|one| one.entry);
    ranked.chain(selection.excluded.iter().map(|one| one.entry)).collect()
}

fn memory(args: &ProfilesArgs) -> anyhow::Result<Option<Memory>> {
    let model = match (&args.config_json, args.parameters) {
        (Some(file), _) => {
            let shape = ModelShape::parse(&read(file)?);
            shape.with_context(|| format!("cannot estimate from {}", file.display()))?
        }
        (None, Some(parameters)) => ModelShape::of_parameters(parameters),
        (None, None) => return Ok(None),
    };
    Ok(Some(Memory { model, context: args.context, gib: args.gpu_memory }))
}

/// The place of the profile that is meant: by its whole id or name, else by the beginning of its id.
fn find(document: &Document, wanted: &str) -> anyhow::Result<usize> {
    let places = |test: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
        let entries = document.entries.iter().enumerate();
        entries.filter(|(_, entry)| test(entry)).map(|(place, _)| place).collect()
    };
    let beginning = ProfileId::parse_abbreviated(&format!("{}…", wanted.trim_end_matches(['.', '…'])));
    let exact = places(&|entry| {
        entry.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(wanted)) || entry.pin() == Some(wanted)
    });
    let found = if exact.is_empty() {
        places(&|entry| entry.id.as_ref().zip(beginning.as_ref()).is_some_and(|(id, cut)| id.agrees(cut)))
    } else {
        exact
    };
    match found.as_slice() {
        [one] => Ok(*one),
        [] => bail!("no profile has the id or name `{wanted}`; `headway profiles FILE` lists them"),
        several => {
            let labels = several.iter().filter_map(|place| document.entries.get(*place)).map(Entry::label);
            bail!("`{wanted}` may be any of {}", labels.collect::<Vec<_>>().join(", "))
        }
    }
}

impl Shown<'_> {
    fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().filter_map(|place| Some((*place, self.document.entries.get(*place)?)))
    }

    /// Its rank from 1, where it has one, and why it stands there or is left out.
    fn rank(&self, place: usize) -> (Option<usize>, &str) {
        let ranked = self.selection.ranked.iter().zip(1..).find(|(one, _)| one.entry == place);
        if let Some((one, rank)) = ranked {
            return (Some(rank), &one.why);
        }
        let excluded = self.selection.excluded.iter().find(|one| one.entry == place);
        (None, excluded.map_or("", |one| &one.why))
    }

    /// Those that can start: the chosen one, or all that are not left out.
    fn startable(&self) -> Vec<&Entry> {
        let chosen = self.args.profile.is_some();
        let places = if chosen { self.entries.clone() } else { in_order(self.selection) };
        let fits = |place: &usize| chosen || self.rank(*place).0.is_some();
        places.iter().filter(|place| fits(place)).filter_map(|place| self.document.entries.get(*place)).collect()
    }
}

/// A text of somebody else's for the terminal: no control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A number without digits that say nothing.
fn gib(number: f64) -> String {
    super::words::short((number * 10.0).round() / 10.0)
}
