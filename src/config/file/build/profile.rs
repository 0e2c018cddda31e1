//! The profile of a backend: its name, its id, or its parts.

use std::sync::Arc;

use super::Builder;
use crate::config::diagnostic::Code;
use crate::config::file::scalar;
use crate::config::file::view::View;
use crate::nim::{Engine, Lora, Precision, Profile, ProfileId, ProfileName, Target};

/// What a configuration says of a profile.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// What it is called in metrics and logs: the name as written or put together, else the id.
    pub(super) name: Option<Arc<str>>,
    /// Its id, where that is said.
    pub(super) id: Option<ProfileId>,
    /// The GPUs it uses, where its name or its parts tell.
    pub(super) gpus: Option<u32>,
}

pub(super) fn profile(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Named {
    if !view.is_set() || view.is_unknown() {
        return Named::default();
    }
    if view.scalar().is_some() { by_name(view, builder).unwrap_or_default() } else { by_parts(view, builder) }
}

fn by_name(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Option<Named> {
    let name = ProfileName::parse(view.text()?);
    if name.is_pair() {
        let message = "this is an id and a name together, which a NIM refuses at its start";
        builder.error(view, Code::InvalidValue, message, "write one of the two, or `{ id: …, name: … }`");
        return None;
    }
    let (id, gpus) = (name.id().cloned(), name.profile().gpus());
    Some(Named { name: Some(name.as_str().into()), id, gpus })
}

fn by_parts(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Named {
    let id = view.key("id").text().map(|text| (ProfileId::parse(text), text));
    if let Some((None, text)) = &id {
        let message = format!("`{text}` is not the id of a profile");
        builder.error(&view.key("id"), Code::InvalidValue, message, "an id is 64 hexadecimal digits");
    }
    let id = id.and_then(|(id, _)| id);
    let (parts, given) = (parts(view), view.key("name").text().map(ProfileName::parse));
    if given.is_some() && parts != Profile::default() {
        let hint = "remove the parts; a name says them already";
        builder.error(view, Code::Conflict, "a profile has a name or parts, not both", hint);
    }
    let profile = given.as_ref().map_or(&parts, ProfileName::profile);
    let composed = Some(parts.to_string()).filter(|name| !name.is_empty());
    let name = given.as_ref().map(|name| name.as_str().to_owned()).or(composed);
    let name = name.or_else(|| id.as_ref().map(|id| id.as_str().to_owned()));
    if name.is_none() {
        builder.error(view, Code::Missing, "this profile says nothing", "give it a `name`, an `id` or parts");
    }
    Named { name: name.map(Arc::from), gpus: profile.gpus(), id }
}

fn parts(view: &View<'_>) -> Profile {
    let number = |name: &str| {
        let read = view.key(name).read(|text| scalar::integer(text, 1, 1024));
        read.and_then(|number| u32::try_from(number).ok())
    };
    let text = |name: &str| view.key(name).text();
    let lora = view.key("lora").read(scalar::switch).unwrap_or(false);
    Profile {
        engine: text("engine").and_then(Engine::named),
        gpu: text("gpu").map(str::to_ascii_lowercase),
        precision: text("precision").and_then(Precision::named),
        tensor_parallel: number("tp"),
        pipeline_parallel: number("pp"),
        target: text("target").and_then(Target::named),
        lora: lora.then_some(Lora { max_rank: None }),
        ..Profile::default()
    }
}
