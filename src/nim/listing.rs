//! The output of `list-model-profiles`.
//!
//! Copies flatten the indentation and releases change it, so headings decide, never columns.

use super::document::{Document, Entry, Form, Need, Standing, SystemGpu};
use super::id::ProfileId;
use super::profile::{DeviceId, Engine, Lora};

const SYSTEM: &str = "SYSTEM INFO";
const PROFILES: &str = "MODEL PROFILES";
/// What headings say that NIM's releases and documents have, and what it means.
const HEADINGS: &[(&str, Heading)] = &[
    ("Free GPUs", Heading::Gpus { free: true }),
    ("Non-free GPUs", Heading::Gpus { free: false }),
    ("Compatible with system and runnable", Heading::Standing(Standing::Runnable)),
    ("Compatible with the system and runnable", Heading::Standing(Standing::Runnable)),
    ("Compatible with system but low memory", Heading::Standing(Standing::LowMemory)),
    ("Compatible with the system but low memory", Heading::Standing(Standing::LowMemory)),
    (
        "Compilable to TRT-LLM using just-in-time compilation of HF models to TRTLLM engines",
        Heading::Standing(Standing::Compilable),
    ),
    ("Incompatible with system", Heading::Standing(Standing::Incompatible)),
    ("Incompatible with the system", Heading::Standing(Standing::Incompatible)),
    ("With LoRA support", Heading::Lora),
];
/// How lines of NIM's log begin.
const LEVELS: [&str; 6] = ["INFO", "WARNING", "ERROR", "DEBUG", "CRITICAL", "TRACE"];

#[derive(Debug, Clone)]
enum Heading {
    Gpus { free: bool },
    Standing(Standing),
    Lora,
}

/// Where in the text a line stands.
struct Reader {
    document: Document,
    /// Whether a heading was seen: what comes before is a shell, a banner, a log.
    begun: bool,
    free: bool,
    standing: Standing,
    lora: bool,
}

/// Whether a text is such an output.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().any(|line| line.trim() == PROFILES || matches!(heading(line.trim()), Some(Heading::Standing(_))))
}

pub(super) fn read(text: &str, form: Form) -> Document {
    let mut reader = Reader {
        document: Document::new(form),
        begun: form == Form::Unknown,
        free: true,
        standing: Standing::Unsaid,
        lora: false,
    };
    for (number, line) in (1..).zip(text.lines()) {
        reader.line(number, line.trim());
    }
    reader.document
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() {
            return;
        }
        if line == SYSTEM || line == PROFILES {
            self.begun = true;
            if line == SYSTEM {
                self.document.gpus.get_or_insert_default();
            }
            return;
        }
        match heading(line) {
            Some(heading) => self.heading(heading),
            None if self.gpu(line) => {}
            None if self.entry(number, line) => {}
            None if !self.begun || is_log(line) => {}
            None => match unknown_heading(line) {
                Some(title) => self.heading(Heading::Standing(Standing::Other(title.to_owned()))),
                None => self.document.unread(number, line),
            },
        }
    }

    fn heading(&mut self, heading: Heading) {
        self.begun = true;
        match heading {
            Heading::Gpus { free } => {
                self.document.gpus.get_or_insert_default();
                self.free = free;
            }
            Heading::Standing(standing) => {
                self.standing = standing;
                self.lora = false;
            }
            Heading::Lora => self.lora = true,
        }
    }

    /// `-  [26b9:10de] (0) NVIDIA L40S (L40S) [current utilization: 0%]`
    fn gpu(&mut self, line: &str) -> bool {
        let Some(gpu) = gpu(bullet(line), self.free) else { return false };
        self.document.gpus.get_or_insert_default().push(gpu);
        true
    }

    fn entry(&mut self, number: usize, line: &str) -> bool {
        let Some(mut entry) = entry(bullet(line), &self.standing, number) else { return false };
        if self.lora && entry.profile.lora.is_none() {
            entry.profile.lora = Some(Lora { max_rank: None });
        }
        self.document.push(entry);
        true
    }
}

/// A line without the hyphen or star of its list.
fn bullet(line: &str) -> &str {
    line.trim_start_matches(['-', '*', '•']).trim_start()
}

fn is_bullet(line: &str) -> bool {
    line.starts_with(['-', '*', '•'])
}

/// The heading that a line is; `<None>` may follow it.
fn heading(line: &str) -> Option<Heading> {
    let title = title(line)?;
    HEADINGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(title)).map(|(_, heading)| heading.clone())
}

/// A heading of some other release.
fn unknown_heading(line: &str) -> Option<&str> {
    title(line).filter(|title| is_bullet(line) && title.chars().count() <= 100 && !title.contains([':', '(', '[']))
}

fn title(line: &str) -> Option<&str> {
    let line = bullet(line);
    line.strip_suffix("<None>").unwrap_or(line).trim_end().strip_suffix(':').map(str::trim_end)
}

fn is_log(line: &str) -> bool {
    LEVELS.iter().any(|level| line.strip_prefix(level).is_some_and(|rest| rest.starts_with([' ', ':', '['])))
}

fn gpu(line: &str, free: bool) -> Option<SystemGpu> {
    let (device, rest) = line.strip_prefix('[')?.split_once(']')?;
    let device = DeviceId::parse(device)?;
    let (index, rest) = rest.trim_start().strip_prefix('(')?.split_once(')')?;
    let (rest, utilization) = match rest.rsplit_once("[current utilization:") {
        Some((rest, percent)) => (rest, percent.trim_end_matches(']').trim().trim_end_matches('%').parse().ok()),
        None => (rest, None),
    };
    let rest = rest.trim();
    // The short name in brackets says nothing that the long one does not.
    let name = rest.split_once(" (").map_or(rest, |(name, _)| name);
    Some(SystemGpu { index: index.parse().ok()?, name: name.to_owned(), device: Some(device), utilization, free })
}

fn entry(line: &str, standing: &Standing, number: usize) -> Option<Entry> {
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let id = ProfileId::parse_abbreviated(first);
    // The model-independent image has profiles whose id is their engine, with the same name beside it.
    let is_engine = Engine::named(first).is_some() && rest.trim_start().starts_with('(');
    if id.is_none() && !is_engine {
        return None;
    }
    let (name, rest) = bracketed(rest, '(', ')');
    let (need, rest) = bracketed(rest, '[', ']');
    let mut entry = Entry::new(id, name.or(is_engine.then_some(first)), standing.clone(), number);
    entry.need = need.and_then(read_need);
    let note = if entry.need.is_none() { need.map(|need| format!("[{need}]")) } else { None };
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty()).map(str::to_owned);
    entry.note = match (note, rest) {
        (Some(note), Some(rest)) => Some(format!("{note} {rest}")),
        (note, rest) => note.or(rest),
    };
    entry.note = entry.note.map(|note| note.chars().take(300).collect());
    Some(entry)
}

/// What stands between the brackets that a text begins with, and what follows them.
fn bracketed(text: &str, open: char, close: char) -> (Option<&str>, &str) {
    let inner = text.trim_start().strip_prefix(open).and_then(|inner| inner.split_once(close));
    inner.map_or((None, text), |(inner, rest)| (Some(inner.trim()), rest))
}

/// `requires >=33 GB/gpu per 2 GPUs, try --max-model-len=84992 to reduce to >=28 GB/gpu`
fn read_need(text: &str) -> Option<Need> {
    let (whole, reduced) = text.split_once(',').unwrap_or((text, ""));
    let rest = whole.trim().strip_prefix("requires")?;
    let (gib, per) = rest.split_once("GB/gpu")?;
    let gpus = per.trim().strip_prefix("per").and_then(|per| per.trim().split(' ').next()?.parse().ok());
    Some(Need { gib_per_gpu: at_least(gib)?, gpus, reduced: read_reduced(reduced) })
}

fn read_reduced(text: &str) -> Option<(u64, f64)> {
    let (_, rest) = text.split_once("--max-model-len=")?;
    let (length, rest) = rest.split_once(' ')?;
    let (_, gib) = rest.split_once("to reduce to")?;
    Some((length.parse().ok()?, at_least(gib.split_once("GB/gpu")?.0)?))
}

/// `>=33`
fn at_least(text: &str) -> Option<f64> {
    let number = text.trim().strip_prefix(">=")?.trim().parse::<f64>().ok()?;
    (number.is_finite() && number > 0.0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "092ed4213624e774d24cdaf84e3b6222839bab2008a21d3c214ab46626366f90";

    #[track_caller]
    fn need(text: &str, expected: Option<Need>) {
        assert_eq!(read_need(text), expected, "{text}");
    }

    #[test]
    fn a_need_is_read_in_every_published_form() {
        let alone = Need { gib_per_gpu: 34.0, gpus: None, reduced: None };
        need("requires >=34 GB/gpu", Some(alone));
        need("requires >=34 GB/gpu per 2 GPUs", Some(Need { gpus: Some(2), ..alone }));
        let reduced = "requires >=34 GB/gpu, try --max-model-len=84992 to reduce to >=28 GB/gpu";
        need(reduced, Some(Need { reduced: Some((84_992, 28.0)), ..alone }));
        need("requires a lot", None);
        need("requires >=-1 GB/gpu", None);
    }

    #[test]
    fn what_is_new_is_kept_and_shown() {
        let text = format!(
            "noise before\nMODEL PROFILES\n- Compatible with quantum system:\n  - {ID} (vllm-bf16-tp1) [costs $3] now\n\
             - {ID} ()\nsomething else\nINFO 2026-01-01 a.py:1] a log line\n  - vllm (vllm)\n"
        );
        let document = read(&text, Form::Listing);
        let [first, second, third] = document.entries.as_slice() else { panic!("{document:?}") };
        assert_eq!(first.standing, Standing::Other("Compatible with quantum system".to_owned()));
        assert_eq!(first.note.as_deref(), Some("[costs $3] now"));
        assert_eq!((second.name.as_deref(), second.line), (None, 5));
        assert_eq!((&third.id, third.profile.engine), (&None, Some(Engine::Vllm)));
        assert_eq!(document.unread.iter().map(|unread| unread.line).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn gpus_are_read_with_their_state() {
        let text = "SYSTEM INFO\n- Free GPUs: <None>\n- Non-free GPUs:\n  -  [2321:10de] (1) NVIDIA H100 NVL [current \
                    utilization: 30%]\nMODEL PROFILES\n";
        let gpus = read(text, Form::Listing).gpus.expect("they are said");
        let [gpu] = gpus.as_slice() else { panic!("{gpus:?}") };
        assert_eq!((gpu.index, gpu.name.as_str(), gpu.utilization, gpu.free), (1, "NVIDIA H100 NVL", Some(30), false));
    }
}
