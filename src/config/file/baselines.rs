//! The file of measurements: from YAML to [`Baseline`]s, or to every mistake in it.

use std::collections::HashMap;

use super::check::check;
use super::scalar::{self, Wrong};
use super::shape::{Key, Kind, Shape};
use super::sink::Sink;
use super::view::View;
use crate::config::baselines::{Baseline, VERSION};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::route::model::Measured;
use crate::yaml;

/// Most tokens, clients and the like that a benchmark can have to do with.
const MANY: u64 = 10_000_000;

/// The whole file.
const ROOT: Shape = Shape::Map(&[
    Key::required("version", Shape::One(Kind::Integer(VERSION, VERSION)), "Version of the format."),
    Key::required("baselines", Shape::List(&ENTRY), "What was measured."),
]);

const ENTRY: Shape = Shape::Map(&[
    Key::one("backend", Kind::Name, "The backend it is about."),
    Key::one("profile", Kind::Text, "The profile it is about; with `backend`, the one it had."),
    Key::one("model", Kind::Text, "The model that was served."),
    Key::required("measured", Shape::One(Kind::Date), "When."),
    Key::required("origin", Shape::One(Kind::Text), "What measured it."),
    Key::one("kv_cache_tokens", Kind::Integer(1, 1 << 40), "Tokens that the engine's key/value cache holds."),
    Key::required("points", Shape::List(&POINT), "The loads, and what came out."),
]);

const POINT: Shape = Shape::Map(&[
    Key::required("concurrency", Shape::One(Kind::Integer(1, MANY)), "Clients at once, each in a closed loop."),
    Key::required("input_tokens", Shape::One(Kind::Integer(1, MANY)), "Tokens of a prompt, not cached."),
    Key::required("output_tokens", Shape::One(Kind::Integer(1, MANY)), "Tokens of an answer."),
    Key::required("ttft", Shape::One(Kind::Duration), "The median time to first token."),
    Key::required("itl", Shape::One(Kind::Duration), "The median gap between tokens."),
]);

/// Judges a text. The entries are whole when nothing that was found is an error.
pub(in crate::config) fn judge(name: &str, text: &str) -> (Vec<Baseline>, Vec<Diagnostic>) {
    let mut sink = Sink::new(name, text, &ROOT);
    let (root, faults) = yaml::read(text);
    for fault in faults {
        sink.syntax(fault.at, &fault.path, Wrong::new(fault.message, fault.hint));
    }
    let Some(root) = root.filter(|root| !matches!(root.value, yaml::Value::Null)) else {
        if !sink.has_errors() {
            let hint = "the README shows such a file; without measurements, remove `baselines` from the configuration";
            let message = "there are no measurements in this file";
            return (Vec::new(), vec![Diagnostic::of_file(name, Code::Missing, message, hint)]);
        }
        return (Vec::new(), sink.finish());
    };
    check(&root, &ROOT, "", &mut sink);
    let list = View::root(&root).key("baselines");
    let mut first = HashMap::new();
    let entries = list.items().filter_map(|view| entry(&view, &mut first, &mut sink)).collect();
    (entries, sink.finish())
}

/// Where each backend, profile and model was first said something about.
type First = HashMap<[Option<String>; 3], usize>;

fn entry(view: &View<'_>, first: &mut First, sink: &mut Sink<'_>) -> Option<Baseline> {
    let named = ["backend", "profile", "model"].map(|name| view.key(name).text().map(str::to_owned));
    let [backend, profile, model] = named.each_ref().map(|name| name.as_deref().map(Into::into));
    if backend.is_none() && profile.is_none() && view.items().next().is_none() && view.scalar().is_none() {
        let wrong = Wrong::new("this entry is about nothing", "add `backend:` or `profile:`");
        sink.error(view.at, &view.path, Code::Missing, wrong);
    }
    if let Some(line) = first.get(&named) {
        let message = format!("there is an entry about the same already, on line {line}");
        sink.error(view.at, &view.path, Code::Duplicate, Wrong::new(message, "keep the newer one"));
    }
    first.entry(named).or_insert(view.at.line);
    let points = view.key("points");
    if points.is_set() && points.items().next().is_none() && points.scalar().is_none() {
        sink.error(
            points.at,
            &points.path,
            Code::Missing,
            Wrong::new("there is no point", "add one, or remove the entry"),
        );
    }
    Some(Baseline {
        backend,
        profile,
        model,
        measured: view.key("measured").read(scalar::date)?.into(),
        origin: view.key("origin").text()?.into(),
        kv_cache_tokens: view.key("kv_cache_tokens").read(|text| scalar::integer(text, 1, u64::MAX)),
        points: points.items().filter_map(|point| self::point(&point)).collect(),
    })
}

fn point(view: &View<'_>) -> Option<Measured> {
    let count = |name: &str| {
        let count = view.key(name).read(|text| scalar::integer(text, 1, MANY));
        count.and_then(|count| u32::try_from(count).ok())
    };
    Some(Measured {
        concurrency: count("concurrency")?,
        input_tokens: count("input_tokens")?,
        output_tokens: count("output_tokens")?,
        ttft: view.key("ttft").read(scalar::duration)?,
        itl: view.key("itl").read(scalar::duration)?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::baselines::Baselines;

    const GOOD: &str = "\
version: 1
baselines:
  - backend: fast
    profile: vllm-h100-bf16-tp1-latency
    model: meta/llama-3.1-8b-instruct
    measured: 2026-01-31
    origin: headway calibrate
    kv_cache_tokens: 400000
    points:
      - { concurrency: 1, input_tokens: 512, output_tokens: 128, ttft: 23ms, itl: 8ms }
      - { concurrency: 16, input_tokens: 512, output_tokens: 128, ttft: 61ms, itl: 12ms }
  - profile: vllm-h100-bf16-tp1-latency
    measured: 2026-01-31T09:05:06Z
    origin: headway calibrate
    points: [{ concurrency: 1, input_tokens: 512, output_tokens: 128, ttft: 25ms, itl: 9ms }]
";

    #[test]
    fn a_good_file_is_read() {
        let (entries, found) = judge("baselines.yaml", GOOD);
        assert_eq!(found, []);
        assert_eq!(entries.iter().map(|entry| entry.points.len()).collect::<Vec<_>>(), [2, 1]);
        let first = entries.first().expect("an entry");
        assert_eq!((first.backend.as_deref(), first.kv_cache_tokens), (Some("fast"), Some(400_000)));
        assert_eq!(first.points.get(1).map(|point| point.ttft), Some(Duration::from_millis(61)));
    }

    #[track_caller]
    fn wrong(right: &str, wrong: &str, place: (usize, usize), field: &str, says: &str, meant: Option<&str>) {
        assert!(GOOD.contains(right), "{right}");
        let (_, found) = judge("baselines.yaml", &GOOD.replacen(right, wrong, 1));
        let told = found.iter().find(|one| {
            (one.line, one.column) == place && one.path == field && one.message.contains(says) && one.is_error()
        });
        let told = told.unwrap_or_else(|| panic!("{found:#?}"));
        assert!(!told.hint.is_empty() && &*told.file == "baselines.yaml");
        assert_eq!(told.suggestion.as_deref(), meant, "{told}");
    }

    #[test]
    fn every_mistake_is_found_at_its_place() {
        wrong("version: 1", "version: 2", (1, 10), "version", "outside 1 to 1", None);
        wrong("version: 1\n", "", (1, 1), "version", "`version` is missing", None);
        wrong("backend:", "backnd:", (3, 5), "baselines[0].backnd", "unknown field", Some("backend"));
        wrong("2026-01-31\n", "yesterday\n", (6, 15), "baselines[0].measured", "not a date", None);
        wrong("    origin: headway calibrate\n    kv", "    kv", (3, 5), "baselines[0].origin", "is missing", None);
        wrong("23ms", "23", (10, 72), "baselines[0].points[0].ttft", "has no unit", None);
        wrong(", itl: 8ms", "", (10, 9), "baselines[0].points[0].itl", "is missing", None);
        wrong("concurrency: 1,", "concurrency: 0,", (10, 24), "baselines[0].points[0].concurrency", "outside 1", None);
        wrong(
            "  - profile: vllm-h100-bf16-tp1-latency\n",
            "  - model: m\n",
            (12, 5),
            "baselines[1]",
            "about nothing",
            None,
        );
        wrong(
            "[{ concurrency: 1, input_tokens: 512, output_tokens: 128, ttft: 25ms, itl: 9ms }]",
            "[]",
            (15, 13),
            "baselines[1].points",
            "no point",
            None,
        );
        wrong(
            "    model: meta/llama-3.1-8b-instruct\n",
            "    points: []\n",
            (9, 5),
            "baselines[0].points",
            "there twice",
            None,
        );
    }

    #[test]
    fn the_same_twice_and_nothing_at_all_are_refused() {
        let twice = format!("{GOOD}{}", GOOD.split_once("baselines:\n").expect("a list").1);
        let (_, found) = judge("baselines.yaml", &twice);
        assert_eq!(found.iter().map(|one| one.line).collect::<Vec<_>>(), [16, 25], "{found:#?}");
        for (text, says) in
            [("", "no measurements"), ("# nothing", "no measurements"), ("just words", "a mapping"), ("a: [", "YAML")]
        {
            let (_, found) = judge("baselines.yaml", text);
            assert!(found.iter().any(|one| one.is_error() && one.message.contains(says)), "{text}: {found:#?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (entries, _) = judge("baselines.yaml", GOOD);
        let folder = tempfile::tempdir().expect("folder");
        let written = Baselines { path: folder.path().join("baselines.yaml"), entries };
        written.write().expect("writable");
        let text = std::fs::read_to_string(&written.path).expect("a file");
        assert!(text.starts_with("# What was measured"), "{text}");
        assert_eq!(judge("baselines.yaml", &text), (written.entries, Vec::new()), "{text}");
    }

    fn entries() -> impl Strategy<Value = Vec<Baseline>> {
        let name = || prop::option::of("[a-zA-Z0-9._-]{1,12}");
        let text = "[ -~é]{0,20}[!-~]";
        let time = || (1_u64..10_000_000_000).prop_map(Duration::from_micros);
        let point = (1_u32..9_999, 1_u32..99_999, 1_u32..99_999, time(), time()).prop_map(
            |(concurrency, input_tokens, output_tokens, ttft, itl)| Measured {
                concurrency,
                input_tokens,
                output_tokens,
                ttft,
                itl,
            },
        );
        let entry = (
            name(),
            text,
            prop::option::of(text),
            text,
            prop::option::of(1_u64..1 << 40),
            prop::collection::vec(point, 1..4),
        );
        let entry = entry.prop_map(|(backend, profile, model, origin, kv_cache_tokens, points)| Baseline {
            backend: backend.as_deref().map(Into::into),
            profile: Some(profile.as_str().into()),
            model: model.as_deref().map(Into::into),
            measured: "2026-01-31".into(),
            origin: origin.as_str().into(),
            kv_cache_tokens,
            points,
        });
        prop::collection::vec(entry, 1..4)
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_again(entries in entries()) {
            let written = Baselines { path: PathBuf::new(), entries };
            let (read, found) = judge("baselines.yaml", &written.to_string());
            let twice = found.iter().all(|one| one.code == Code::Duplicate);
            prop_assert!(twice, "{:#?}\n{}", found, written);
            prop_assert_eq!(read, written.entries);
        }
    }
}
