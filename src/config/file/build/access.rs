//! Who may call: keys and what each may use; which web pages.

use std::sync::Arc;

use super::Builder;
use super::route::undefined;
use crate::config::access::{Access, ApiKey, Cors, KeyDigest, KeyLimits};
use crate::config::diagnostic::Code;
use crate::config::file::scalar;
use crate::config::file::view::View;
use crate::config::settings::{Credential, Settings};

/// Words that whoever guesses keys begins with.
const GUESSED: [&str; 14] = [
    "", "\n", "test", "test\n", "key", "secret", "password", "changeme", "admin", "headway", "sk-test", "sk-1234",
    "1234", "EMPTY",
];

pub(super) fn access(root: &View<'_>, routes: &[String], builder: &mut Builder<'_, '_, '_>) -> Access {
    let (keys, cors) = (root.key("keys"), root.key("cors"));
    builder.require_items(&keys, "key");
    builder.unique(keys.items().map(|item| item.key("name")), "key name");
    unique_digests(&keys, builder);
    let each = |builder: &mut Builder<'_, '_, '_>| {
        keys.items().filter_map(|item| key(&item, routes, builder)).map(Arc::new).collect()
    };
    Access { keys: keys.is_set().then(|| each(builder)), cors: cors.is_set().then(|| self::cors(&cors, builder)) }
}

fn key(view: &View<'_>, routes: &[String], builder: &mut Builder<'_, '_, '_>) -> Option<ApiKey> {
    let at = view.key("sha256");
    let digest = at.read(scalar::sha256);
    if digest.is_some_and(|digest| GUESSED.iter().any(|word| KeyDigest::of(word.as_bytes()) == digest)) {
        let message = "this is the digest of a word that anyone would guess";
        builder.warning(&at, Code::Unsafe, message, "make a key with `openssl rand -hex 32`");
    }
    let count = |name: &str| view.key(name).read(scalar::count);
    let limits = KeyLimits {
        requests_per_minute: count("requests_per_minute"),
        tokens_per_minute: count("tokens_per_minute"),
        concurrency: count("concurrency").map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
    };
    let routes = key_routes(&view.key("routes"), routes, builder);
    Some(ApiKey { name: view.key("name").read(scalar::name)?.into(), digest: digest?, routes, limits })
}

/// Names become indices here, as those of backends do.
fn key_routes(view: &View<'_>, names: &[String], builder: &mut Builder<'_, '_, '_>) -> Option<Vec<usize>> {
    builder.require_items(view, "route");
    builder.unique(view.items(), "route");
    let mut used = Vec::new();
    for item in view.items() {
        let Some(name) = item.text() else { continue };
        match names.iter().position(|known| known == name) {
            Some(index) => used.push(index),
            None => undefined(&item, name, ("route", names), builder),
        }
    }
    view.is_set().then_some(used)
}

/// Two callers with one key could not be told apart.
fn unique_digests(keys: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let mut seen: Vec<(KeyDigest, String)> = Vec::new();
    for item in keys.items() {
        let at = item.key("sha256");
        let Some(digest) = at.read(scalar::sha256) else { continue };
        let name = item.key("name").text().unwrap_or_default().to_owned();
        match seen.iter().find(|(other, _)| *other == digest) {
            Some((_, first)) => {
                let message = format!("`{name}` has the same key as `{first}`");
                builder.error(&at, Code::Duplicate, message, "give each caller a key of its own");
            }
            None => seen.push((digest, name)),
        }
    }
}

fn cors(view: &View<'_>, builder: &mut Builder<'_, '_, '_>) -> Cors {
    let origins = view.key("origins");
    builder.require_items(&origins, "origin");
    builder.unique(origins.items(), "origin");
    Cors { origins: origins.items().filter_map(|item| item.read(scalar::origin)).map(Arc::from).collect() }
}

/// What is let in, and is probably not meant to be.
pub(super) fn lint(settings: &Settings, root: &View<'_>, builder: &mut Builder<'_, '_, '_>) {
    let Access { keys, cors } = &settings.access;
    let open = cors.as_ref().is_some_and(|cors| cors.origins.iter().any(|one| &**one == Cors::ANY));
    if open && keys.is_none() {
        let message = "any page of the web may call, and no key is asked for";
        builder.warning(&root.key("cors").key("origins"), Code::Unsafe, message, "name the origins, or add `keys`");
    }
    let Some(keys) = keys else { return };
    for (index, view) in root.key("routes").items().enumerate() {
        let may = |key: &Arc<ApiKey>| key.routes.as_ref().is_none_or(|routes| routes.contains(&index));
        if !keys.is_empty() && !keys.iter().any(may) {
            let name = view.key("name");
            let message = format!("no key may use the route `{}`", name.text().unwrap_or_default());
            builder.warning(&name, Code::Unused, message, "name it in the `routes` of a key, or remove it");
        }
    }
    for (backend, view) in settings.backends.iter().zip(root.key("backends").items()) {
        if matches!(backend.credential, Credential::ForwardClient) {
            let message = "with `keys`, the client's credential is a key of headway's, and this backend gets to see it";
            builder.warning(&view.key("forward_authorization"), Code::Unsafe, message, "use `api_key` instead");
        }
    }
}
