//! Profiles as `backends:` of a configuration.

use std::collections::HashSet;
use std::io::Write;

use anyhow::{Context, bail};
use serde_json::json;

use super::{Shown, clean, gib};
use crate::nim::Entry;

/// Longest name of a backend that is made of a profile's.
const LONGEST: usize = 60;

pub(super) fn print(shown: &Shown<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let entries = shown.startable();
    if entries.is_empty() {
        bail!("no profile can start here; `--select` says why, and `--profile ID` takes one nevertheless");
    }
    let mut places = Places::new(&shown.args.url)?;
    let mut names = HashSet::new();
    writeln!(out, "backends:")?;
    for entry in entries {
        let name = unused(&backend_name(entry), &mut names);
        if let Some(need) = entry.gib_per_gpu() {
            writeln!(out, "  # needs {} GB of each GPU", gib(need))?;
        }
        writeln!(out, "  - name: {name}")?;
        writeln!(out, "    url: {}", json!(places.next()?))?;
        writeln!(out, "    profile: {}", profile(entry))?;
        match (shown.args.gpu_hour, entry.profile.gpus()) {
            (Some(price), gpus) => {
                writeln!(out, "    price: {{ per_gpu_hour: {price}, gpus: {} }}", gpus.unwrap_or(1))?;
            }
            (None, Some(gpus)) => writeln!(out, "    # price: {{ per_gpu_hour: 0.00, gpus: {gpus} }}")?,
            (None, None) => {}
        }
    }
    Ok(())
}

/// Name and id where both are known: people know the one, and a NIM says the other of itself.
fn profile(entry: &Entry) -> String {
    let name = entry.name.as_deref().map(|name| json!(clean(name)));
    let id = entry.id.as_ref().filter(|id| id.is_whole()).map(|id| json!(id.as_str()));
    match (name, id) {
        (Some(name), Some(id)) => format!("{{ name: {name}, id: {id} }}"),
        (name, id) => name.or(id).unwrap_or_default().to_string(),
    }
}

/// What tells profiles of one model apart: GPU or engine, precision, parallelism, target.
fn backend_name(entry: &Entry) -> String {
    let known = entry.profile.to_string();
    let text = if known.is_empty() { entry.pin().unwrap_or_default().to_owned() } else { known };
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = text.chars().map(plain).take(LONGEST).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { format!("nim{name}") }
}

fn unused(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut candidates = std::iter::once(name.to_owned()).chain(numbered);
    candidates.find(|candidate| taken.insert(candidate.clone())).unwrap_or_default()
}

/// The URLs of backends on one host: the first as given, others at the ports after it.
struct Places {
    before: String,
    port: Option<u16>,
}

impl Places {
    fn new(url: &str) -> anyhow::Result<Self> {
        let uri: http::Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            bail!("`{url}` is not a URL such as http://10.0.0.11:8000");
        };
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Ok(Self { before: format!("{scheme}://{host}"), port: Some(port) })
    }

    fn next(&mut self) -> anyhow::Result<String> {
        let port = self.port.context("there are no ports left after that of --url")?;
        self.port = port.checked_add(1);
        Ok(format!("{}:{port}", self.before))
    }
}
