//! The command that starts a NIM with a chosen profile.

use std::io::Write;

use anyhow::{Context, bail};

use super::Shown;
use crate::nim::{Entry, Standing};

pub(super) fn print(shown: &Shown<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let entry = shown.startable().into_iter().next();
    let entry =
        entry.context("no profile can start here; `--select` says why, and `--profile ID` takes one nevertheless")?;
    let Some(pin) = entry.pin() else {
        bail!("neither the whole id nor the name of that profile is known, and NIM takes nothing else");
    };
    let mut parts = vec![format!("docker run --rm --gpus {}", gpus(shown, entry)), "--shm-size=16GB".to_owned()];
    parts.push("-e NGC_API_KEY".to_owned());
    parts.push(format!("-e NIM_MODEL_PROFILE={}", quoted(pin)));
    if let Some((length, _)) =
        entry.need.and_then(|need| need.reduced).filter(|_| entry.standing == Standing::LowMemory)
    {
        parts.push(format!("-e NIM_MAX_MODEL_LEN={length}"));
    }
    if entry.profile.lora.is_some() {
        parts.push("-e NIM_PEFT_SOURCE=/loras -v \"$PWD/loras:/loras\"".to_owned());
    }
    parts.push("-v \"$HOME/.cache/nim:/opt/nim/.cache\" -u \"$(id -u)\"".to_owned());
    parts.push("-p 8000:8000".to_owned());
    parts.push(quoted(&shown.args.image));
    writeln!(out, "{}", parts.join(" \\\n    "))?;
    Ok(())
}

/// The GPUs to hand over: those a log names, else the first free ones of the system, else as many.
fn gpus(shown: &Shown<'_>, entry: &Entry) -> String {
    let needed = entry.profile.gpus().map(|gpus| gpus as usize);
    let system = || -> Vec<u32> {
        let free = shown.gpus.unwrap_or_default().iter().filter(|gpu| gpu.free).map(|gpu| gpu.index);
        free.take(needed.unwrap_or(1)).collect()
    };
    let devices = if entry.on.is_empty() { system() } else { entry.on.clone() };
    match needed {
        _ if !entry.on.is_empty() => listed(&devices),
        Some(needed) if shown.args.gpu.is_none() && devices.len() == needed => listed(&devices),
        Some(needed) => needed.to_string(),
        None => "all".to_owned(),
    }
}

/// Docker wants the quotes too: a comma separates its own options.
fn listed(devices: &[u32]) -> String {
    let numbers: Vec<String> = devices.iter().map(u32::to_string).collect();
    format!("'\"device={}\"'", numbers.join(","))
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@');
    if text.chars().all(plain) && !text.is_empty() {
        return text.to_owned();
    }
    format!("'{}'", super::clean(text).replace('\'', r"'\''"))
}
