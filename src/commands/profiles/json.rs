//! Profiles for machines. What is not said is left out.

use serde_json::{Map, Value, json};

use super::Shown;
use crate::nim::{Entry, Fit, SystemGpu, Unread};

pub(super) fn value(shown: &Shown<'_>) -> Value {
    let document = shown.document;
    let mut all = Map::new();
    let mut set = |key: &str, value: Value| all.insert(key.to_owned(), value);
    set("form", json!(document.form.as_str()));
    if let Some(metadata) = &document.metadata {
        set("nim", json!({ "version": metadata.version, "models": metadata.models }));
    }
    if let Some(gpus) = shown.gpus {
        set("gpus", gpus.iter().map(gpu).collect());
    }
    set("profiles", shown.entries().map(|(place, entry)| profile(shown, place, entry)).collect());
    if let Some(running) = document.running() {
        set("running", json!({ "id": running.id.as_ref().map(ToString::to_string), "name": running.name }));
    }
    set("unread", document.unread.iter().map(|Unread { line, text }| json!({ "line": line, "text": text })).collect());
    set("left_out", json!(document.left_out));
    without_nulls(Value::Object(all))
}

fn gpu(gpu: &SystemGpu) -> Value {
    json!({
        "index": gpu.index,
        "name": gpu.name,
        "device": gpu.device.map(|device| device.to_string()),
        "utilization_percent": gpu.utilization,
        "free": gpu.free,
    })
}

fn profile(shown: &Shown<'_>, place: usize, entry: &Entry) -> Value {
    let profile = &entry.profile;
    let (rank, why) = shown.rank(place);
    let reduced = entry.need.and_then(|need| need.reduced);
    json!({
        "id": entry.id.as_ref().map(ToString::to_string),
        "name": entry.name,
        "line": entry.line,
        "state": entry.standing.as_str(),
        "engine": profile.engine.map(crate::nim::Engine::as_str),
        "optimized": profile.is_optimized(),
        "buildable": profile.buildable,
        "gpu": profile.gpu,
        "gpu_device": profile.device.map(|device| device.to_string()),
        "precision": profile.precision.map(crate::nim::Precision::as_str),
        "tensor_parallel": profile.tensor_parallel,
        "pipeline_parallel": profile.pipeline_parallel,
        "gpus": profile.gpus(),
        "stated_gpus": profile.stated_gpus,
        "target": profile.target.map(crate::nim::Target::as_str),
        "lora": profile.lora.is_some(),
        "lora_max_rank": profile.lora.and_then(|lora| lora.max_rank),
        "hash": profile.hash,
        "needs_gb_per_gpu": entry.gib_per_gpu(),
        "needs_gpus": entry.need.and_then(|need| need.gpus),
        "reduced": reduced.map(|(length, gib)| json!({ "max_model_len": length, "needs_gb_per_gpu": gib })),
        "on_gpus": Some(&entry.on).filter(|on| !on.is_empty()),
        "unknown": Some(&profile.unknown).filter(|unknown| !unknown.is_empty()),
        "note": entry.note,
        "rank": rank.filter(|_| shown.select),
        "why": Some(why).filter(|_| shown.select),
        "memory": memory(shown, entry),
    })
}

fn memory(shown: &Shown<'_>, entry: &Entry) -> Option<Value> {
    let memory = shown.memory.as_ref()?;
    let estimate = memory.of(entry)?;
    let (fits, tokens) = match memory.fit(entry, shown.gpus) {
        None => (None, None),
        Some(Fit::Yes { tokens }) => (Some("yes"), tokens),
        Some(Fit::Shorter { tokens }) => (Some("shorter"), Some(tokens)),
        Some(Fit::No) => (Some("no"), None),
    };
    Some(json!({
        "weights_gib_per_gpu": estimate.weights,
        "cache_gib_per_gpu": estimate.cache,
        "total_gib_per_gpu": estimate.total(),
        "gpu_gib": memory.have(entry, shown.gpus),
        "fits": fits,
        "tokens": tokens,
    }))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
