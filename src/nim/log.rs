//! What a NIM logs of profiles when it starts.
//!
//! Everything else that it logs is no concern here and not kept; a line about profiles that is not understood is.

use super::document::{Document, Entry, Form, Standing};
use super::id::ProfileId;

const VALID: &str = "Valid profile: ";
const SELECTED: &str = "Selected profile: ";
const TAG: &str = "Profile metadata: ";
const DETECTED: &str = "Detected ";
const COMPATIBLE: &str = "compatible profile";

/// Whether a text is such a log.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().any(|line| [VALID, SELECTED, TAG].iter().any(|mark| line.contains(mark)))
}

pub(super) fn read(text: &str) -> Document {
    let mut document = Document::new(Form::Log);
    for (number, line) in (1..).zip(text.lines()) {
        let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim());
        let understood = if let Some(rest) = after(VALID) {
            valid(&mut document, rest, number)
        } else if let Some(rest) = after(SELECTED) {
            selected(&mut document, rest, number)
        } else if let Some(rest) = after(TAG) {
            tag(&mut document, rest)
        } else {
            // How many were detected is said again by the lines that follow, and not always rightly.
            let counted = after(DETECTED).is_some_and(|rest| rest.contains(COMPATIBLE));
            counted || !line.to_ascii_lowercase().contains("profile")
        };
        if !understood {
            document.unread(number, line);
        }
    }
    document
}

/// `ID (NAME) on GPUs [0, 1]`
fn valid(document: &mut Document, rest: &str, number: usize) -> bool {
    let (named, on) = rest.split_once(" on GPUs ").unwrap_or((rest, ""));
    let Some(mut entry) = entry(named, number) else { return false };
    let numbers = on.trim().trim_start_matches('[').trim_end_matches(']').split(',');
    entry.on = numbers.filter_map(|number| number.trim().parse().ok()).take(1024).collect();
    document.push(entry);
    true
}

/// `ID (NAME)`, among the valid ones or not.
fn selected(document: &mut Document, rest: &str, number: usize) -> bool {
    let Some(entry) = entry(rest, number) else { return false };
    let same = |one: &Entry| one.pin() == entry.pin();
    let place = document.entries.iter().position(same).unwrap_or_else(|| {
        document.push(entry);
        document.entries.len().saturating_sub(1)
    });
    document.selected = Some(place);
    true
}

/// `tp: 2`, a tag of the selected profile; one that is not known is kept with the profile.
fn tag(document: &mut Document, rest: &str) -> bool {
    let place = document.selected;
    let profile = place.and_then(|place| document.entries.get_mut(place)).map(|entry| &mut entry.profile);
    let (Some(profile), Some((name, value))) = (profile, rest.split_once(':')) else { return false };
    profile.tag(name.trim(), value.trim());
    true
}

fn entry(text: &str, number: usize) -> Option<Entry> {
    let (id, name) = text.split_once('(').unwrap_or((text, ""));
    let (id, name) = (id.trim(), name.trim_end().trim_end_matches(')').trim());
    let name = if name.is_empty() { None } else { Some(name) };
    let hash = ProfileId::parse_abbreviated(id);
    if id.is_empty() || id.contains(char::is_whitespace) {
        return None;
    }
    let name = name.or(hash.is_none().then_some(id));
    Some(Entry::new(hash, name, Standing::Runnable, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_a_log_are_no_hindrance_and_unknown_tags_are_kept() {
        let id = "978c8d57db934f94121ca835f5aa93b292199900a22d6085add5ea733f92648c";
        let text = format!(
            "INFO 2024-09-27 12:59:39.8 x.py:1] Starting\n\
             INFO 2024-09-27 12:59:39.857 ngc_injector.py:152] Valid profile: {id} (vllm-bf16-tp4) on GPUs [0, 1, 2, 3]\n\
             INFO 2024-09-27 12:59:39.858 ngc_injector.py:206] Selected profile: {id} (vllm-bf16-tp4)\n\
             INFO 2024-09-27 12:59:39.860 ngc_injector.py:214] Profile metadata: pp: 1\n\
             INFO 2024-09-27 12:59:39.860 ngc_injector.py:214] Profile metadata: flavour: new\n\
             INFO 2024-09-27 12:59:39.860 x.py:2] A new thing of profiles\n"
        );
        let document = read(&text);
        let running = document.running().expect("selected");
        assert_eq!((running.on.as_slice(), running.profile.pipeline_parallel), ([0, 1, 2, 3].as_slice(), Some(1)));
        assert_eq!(running.profile.unknown, ["flavour=new"]);
        assert_eq!((document.entries.len(), document.unread.len()), (1, 1));
    }
}
