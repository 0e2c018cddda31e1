//! Profiles for people.

use std::io::Write;

use super::{Shown, clean, gib};
use crate::nim::{Entry, Fit, OVERHEAD_GIB, ProfileId, USABLE};

/// Lines that were not understood, shown at most.
const MOST_UNREAD: usize = 20;

pub(super) fn print(shown: &Shown<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let document = shown.document;
    let count = document.entries.len();
    writeln!(out, "{}: {count} profile{}", document.form.as_str(), if count == 1 { "" } else { "s" })?;
    if let Some(metadata) = &document.metadata {
        let release = metadata.version.as_deref().unwrap_or("of an unknown release");
        writeln!(out, "NIM {}, models: {}", clean(release), clean(&metadata.models.join(", ")))?;
    }
    system(shown, out)?;
    writeln!(out)?;
    let mut rows = vec![header(shown)];
    rows.extend(shown.entries().map(|(place, entry)| row(shown, place, entry)));
    aligned(&rows, out)?;
    notes(shown, out)
}

fn system(shown: &Shown<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let Some(gpus) = shown.gpus else { return Ok(()) };
    if gpus.is_empty() {
        writeln!(out, "GPUs: none")?;
    }
    for gpu in gpus {
        let busy = gpu.utilization.map(|percent| format!(", {percent} % busy")).unwrap_or_default();
        let taken = if gpu.free { "" } else { ", not free" };
        writeln!(out, "GPU {}: {}{busy}{taken}", gpu.index, clean(&gpu.name))?;
    }
    Ok(())
}

fn header(shown: &Shown<'_>) -> Vec<String> {
    let mut cells = vec!["profile", "id", "state", "GPUs", "needs"];
    if shown.select {
        cells.insert(0, "#");
    }
    if shown.memory.is_some() {
        cells.extend(["weights", "cache", "in all", "fits"]);
    }
    if shown.select {
        cells.push("why");
    }
    cells.into_iter().map(str::to_owned).collect()
}

fn row(shown: &Shown<'_>, place: usize, entry: &Entry) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let (rank, why) = shown.rank(place);
    let mut cells = Vec::new();
    if shown.select {
        cells.push(or_dash(rank.map(|rank| rank.to_string())));
    }
    cells.push(clean(&with_short_hash(&entry.label())));
    cells.push(or_dash(entry.id.as_ref().map(|id| id.short().to_owned())));
    cells.push(clean(entry.standing.as_str()));
    cells.push(or_dash(entry.profile.gpus().map(|gpus| gpus.to_string())));
    cells.push(or_dash(entry.gib_per_gpu().map(|need| format!("{} GB", gib(need)))));
    if let Some(memory) = &shown.memory {
        let estimate = memory.of(entry);
        let of = |value: Option<f64>| or_dash(value.map(|value| format!("{} GiB", gib(value))));
        cells.push(of(estimate.map(|one| one.weights)));
        cells.push(of(estimate.and_then(|one| one.cache)));
        cells.push(of(estimate.map(|one| one.total())));
        cells.push(or_dash(memory.fit(entry, shown.gpus).map(fit)));
    }
    if shown.select {
        cells.push(clean(why));
    }
    cells
}

fn fit(fit: Fit) -> String {
    match fit {
        Fit::Yes { tokens: Some(tokens) } => format!("yes, {tokens} tokens"),
        Fit::Yes { tokens: None } => "the weights do".to_owned(),
        Fit::Shorter { tokens } => format!("up to {tokens} tokens"),
        Fit::No => "no".to_owned(),
    }
}

/// A hash of 64 digits in a name says nothing that its first eight do not.
fn with_short_hash(name: &str) -> String {
    let short =
        |part: &str| ProfileId::parse(part).map_or_else(|| part.to_owned(), |hash| format!("{}…", hash.short()));
    name.split('-').map(short).collect::<Vec<_>>().join("-")
}

/// Columns as wide as their widest cell; the last one as it is.
fn aligned(rows: &[Vec<String>], out: &mut dyn Write) -> anyhow::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn notes(shown: &Shown<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let document = shown.document;
    writeln!(out)?;
    if let Some(running) = document.running() {
        writeln!(out, "running: {}", clean(&running.label()))?;
        let first = shown.selection.ranked.first().map(|one| one.entry);
        if shown.select && first != document.selected {
            writeln!(out, "NIM took another one than its documented order says.")?;
        }
    } else if shown.select && shown.selection.ranked.is_empty() {
        writeln!(out, "NIM would start none of these by itself.")?;
    } else if shown.select {
        let order =
            "NIM 1.x is documented to start the first; which one runs, /v1/metadata says (selectedModelProfileId).";
        writeln!(out, "{order}")?;
    }
    if shown.memory.is_some() {
        writeln!(
            out,
            "GiB of each GPU: weights, 16-bit cache of one longest request, {OVERHEAD_GIB} for the rest; engines use {:.0} % of \
             the memory. A rule of thumb.",
            USABLE * 100.0
        )?;
    }
    for (_, entry) in shown.entries() {
        for remark in remarks(entry) {
            writeln!(out, "line {}: {}: {}", entry.line, clean(&with_short_hash(&entry.label())), clean(&remark))?;
        }
    }
    for unread in document.unread.iter().take(MOST_UNREAD) {
        writeln!(out, "line {}: not understood: {}", unread.line, clean(&unread.text))?;
    }
    let more = document.unread.len().saturating_sub(MOST_UNREAD) + document.left_out;
    if more > 0 {
        writeln!(out, "and {more} more")?;
    }
    Ok(())
}

/// What of a profile is not in the table, and what was not understood.
fn remarks(entry: &Entry) -> Vec<String> {
    let profile = &entry.profile;
    let unknown = profile.unknown.join(", ");
    let unknown = (!unknown.is_empty()).then(|| format!("not understood: {unknown}"));
    let note = entry.note.as_ref().map(|note| format!("not understood: {note}"));
    let gpus = profile.stated_gpus.zip(profile.gpus()).filter(|(stated, used)| stated != used);
    let gpus = gpus.map(|(stated, used)| format!("states {stated} GPUs; its parallelism uses {used}"));
    [gpus, unknown, note].into_iter().flatten().collect()
}
