//! `model_manifest.yaml`: the profiles that an image can download, by their tags.
//!
//! A list of `{id, tags, workspace}`, or one under some key; other keys are no concern here. No system is asked, so
//! nothing is said of what can start.

use super::document::{Document, Entry, Form, MOST_ENTRIES, Standing};
use super::id::ProfileId;
use crate::yaml::{self, Node, Value};

/// Most values of a manifest: some 200 profiles of some 500 files with three values each.
const MOST_NODES: usize = 400_000;
/// Keys of an entry that say nothing of the profile: its files, and where they are.
const NOT_ABOUT: [&str; 5] = ["workspace", "container", "model", "release", "files"];

/// Reads a manifest; `None` when the text is none.
pub(super) fn read(text: &str) -> Option<Document> {
    // Any text at all is YAML; without this word it is no manifest, and not worth reading as one.
    if !text.contains("tags") {
        return None;
    }
    let (root, faults) = yaml::read_within(text, MOST_NODES);
    let mut document = Document::new(Form::Manifest);
    match &root?.value {
        Value::List(items) => list(items, &mut document),
        Value::Map(entries) => {
            for entry in entries {
                match &entry.value.value {
                    Value::List(items) => list(items, &mut document),
                    // By id: `profiles: {751382df…: {tags: …}}`.
                    Value::Map(inner) => {
                        for one in inner {
                            profile(Some(&one.key), &one.value, &mut document);
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    for fault in faults {
        document.unread(fault.at.line, &fault.message);
    }
    (!document.entries.is_empty()).then_some(document)
}

fn list(items: &[Node], document: &mut Document) {
    for item in items {
        profile(None, item, document);
    }
}

/// One profile: a mapping with `tags`, and `id` in it or as its key.
fn profile(key: Option<&str>, node: &Node, document: &mut Document) {
    let Value::Map(parts) = &node.value else { return };
    let part = |name: &str| parts.iter().find(|part| part.key == name).map(|part| &part.value);
    let id = part("id").or(part("profile_id")).and_then(text).or(key).unwrap_or_default();
    let Some(Value::Map(tags)) = part("tags").map(|tags| &tags.value) else { return };
    if document.entries.len() >= MOST_ENTRIES {
        document.left_out += 1;
        return;
    }
    let hash = ProfileId::parse_abbreviated(id);
    let name = part("description").or(part("name")).and_then(text);
    let name = name.or_else(|| Some(id).filter(|id| hash.is_none() && !id.is_empty()));
    let mut entry = Entry::new(hash, name, Standing::Unsaid, node.at.line);
    for tag in tags {
        if let Some(value) = text(&tag.value) {
            entry.profile.tag(&tag.key, value);
        }
    }
    let known = ["id", "profile_id", "tags", "description", "name"];
    let others = parts.iter().map(|part| part.key.as_str());
    let others: Vec<_> = others.filter(|key| !known.contains(key) && !NOT_ABOUT.contains(key)).take(20).collect();
    entry.note = (!others.is_empty()).then(|| format!("also has {}", others.join(", ")));
    document.push(entry);
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_profile_is_no_manifest() {
        assert_eq!(read("just words about tags and ids"), None);
        assert_eq!(read("backends:\n  - { id: 1, name: tags }"), None);
        assert_eq!(read("[tags, id"), None);
    }

    #[test]
    fn profiles_by_id_under_a_key_are_found_too() {
        let text = "schema_version: 2\nprofiles:\n  vllm: {tags: {llm_engine: vllm, tp: '2', colour: red}, extra: 1}\n";
        let document = read(text).expect("a manifest");
        let [entry] = document.entries.as_slice() else { panic!("{document:?}") };
        assert_eq!((entry.name.as_deref(), entry.profile.gpus()), (Some("vllm"), Some(2)));
        assert_eq!(
            (entry.profile.unknown.as_slice(), entry.note.as_deref()),
            (["colour=red".to_owned()].as_slice(), Some("also has extra"))
        );
    }
}
