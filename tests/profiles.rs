//! `headway profiles` against every form in which NIM has said something of profiles, whole and damaged.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use headway::commands::profiles::{self, Format, ProfilesArgs};
use headway::config::{self, NoEnvironment};
use headway::nim::{self, Form, ProfileId};
use proptest::prelude::*;

/// Every fixture, with the form that it is.
const FIXTURES: &[(&str, Form)] = &[
    ("a-llama-3.1-8b-2xl40s.txt", Form::Listing),
    ("b-llama-3.3-70b-h100nvl.txt", Form::Listing),
    ("c-nemotron-3-nano-l40.txt", Form::Listing),
    ("d-rtx5090-low-memory.txt", Form::Listing),
    ("e-deplot-vlm-2xh100nvl.txt", Form::Listing),
    ("f-nemotron-super-49b-h100nvl-flat.txt", Form::Listing),
    ("g-docs-1.1.0-a100-flat.txt", Form::Listing),
    ("h-docs-2x.txt", Form::Listing),
    ("startup-log-generic.txt", Form::Log),
    ("startup-log-optimized.txt", Form::Log),
    ("manifest.yaml", Form::Manifest),
    ("metadata.json", Form::Metadata),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nim_profiles")
}

fn fixture(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect(name)
}

fn args(name: &str) -> ProfilesArgs {
    ProfilesArgs {
        file: folder().join(name),
        url: "http://127.0.0.1:8000".to_owned(),
        image: "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8.4".to_owned(),
        ..ProfilesArgs::default()
    }
}

fn printed(args: &ProfilesArgs) -> String {
    let mut out = Vec::new();
    let code = profiles::run(args, &mut out).unwrap_or_else(|error| panic!("{}: {error:#}", args.file.display()));
    assert_eq!(code, 0);
    String::from_utf8(out).expect("text")
}

/// Written anew with `HEADWAY_UPDATE_GOLDEN=1 cargo test --test profiles`.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path = folder().join("golden").join(name);
    if std::env::var_os("HEADWAY_UPDATE_GOLDEN").is_some() {
        fs::write(path, found).expect(name);
    } else {
        let expected = fs::read_to_string(&path).expect(name);
        assert!(found == expected, "{name} differs; found:\n{found}");
    }
}

#[test]
fn every_published_form_is_read_as_its_golden_result_says() {
    for (name, form) in FIXTURES {
        let document = nim::parse(&fixture(name));
        assert_eq!(document.form, *form, "{name}");
        assert_eq!(document.unread, [], "{name}");
        for format in [Format::Table, Format::Json] {
            let extension = if format == Format::Table { "txt" } else { "json" };
            let found = printed(&ProfilesArgs { select: true, format, ..args(name) });
            golden(&format!("{name}.{extension}"), &found);
        }
    }
}

#[test]
fn memory_is_estimated_where_the_model_is_given() {
    let config = Some(folder().join("config.json"));
    let system = ProfilesArgs { config_json: config, gpu_memory: Some(32.0), ..args("h-docs-2x.txt") };
    golden("memory.txt", &printed(&ProfilesArgs { select: true, ..system.clone() }));
    golden("memory.json", &printed(&ProfilesArgs { format: Format::Json, ..system }));
}

#[test]
fn a_manifest_is_ordered_for_the_system_that_the_arguments_name() {
    let system = ProfilesArgs { gpu: Some("a100".to_owned()), gpus: Some(2), select: true, ..args("manifest.yaml") };
    golden("manifest-2xa100.txt", &printed(&system));
    golden("manifest-2xa100-lora.txt", &printed(&ProfilesArgs { lora: true, ..system }));
}

#[test]
fn the_command_that_starts_a_profile_says_which_and_on_what() {
    let docker = |name: &str, profile: Option<&str>| {
        printed(&ProfilesArgs { format: Format::Docker, profile: profile.map(str::to_owned), ..args(name) })
    };
    let all = [
        docker("a-llama-3.1-8b-2xl40s.txt", None),
        docker("a-llama-3.1-8b-2xl40s.txt", Some("vllm-fp16-tp1-lora")),
        docker("d-rtx5090-low-memory.txt", Some("092ed421")),
        docker("startup-log-generic.txt", None),
        docker("g-docs-1.1.0-a100-flat.txt", Some("19031a45...")),
    ];
    golden("docker.txt", &all.concat());
}

#[test]
fn stanzas_of_backends_are_a_configuration_that_passes_check() {
    for (name, _) in FIXTURES {
        let mut wanted = ProfilesArgs { format: Format::Backends, gpu_hour: Some(2.5), ..args(name) };
        let mut out = Vec::new();
        if profiles::run(&wanted, &mut out).is_err() {
            // Nothing can start there: then one is chosen by hand.
            wanted.profile = nim::parse(&fixture(name)).entries[0].pin().map(str::to_owned);
        }
        let stanzas = printed(&wanted);
        let names = stanzas.lines().filter_map(|line| line.trim().strip_prefix("- name: "));
        let names = names.collect::<Vec<_>>().join(", ");
        let whole = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\n{stanzas}routes:\n  - {{ name: chat, backends: [{names}] }}\n"
        );
        let loaded = config::parse("headway.yaml", &whole, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
    }
    golden("backends.yaml", &printed(&ProfilesArgs { format: Format::Backends, ..args("a-llama-3.1-8b-2xl40s.txt") }));
}

#[test]
fn a_profile_is_named_by_one_that_is_there_and_by_one_only() {
    let refused = |name: &str, profile: &str| {
        let args = ProfilesArgs { profile: Some(profile.to_owned()), ..args(name) };
        format!("{:#}", profiles::run(&args, &mut Vec::new()).expect_err(profile))
    };
    assert!(refused("a-llama-3.1-8b-2xl40s.txt", "vllm").contains("no profile has the id or name `vllm`"));
    assert!(refused("a-llama-3.1-8b-2xl40s.txt", "ffff").contains("no profile"));
    let twice = format!("{}\n", fixture("g-docs-1.1.0-a100-flat.txt")).repeat(2);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), twice).expect("written");
    let args = ProfilesArgs { file: file.path().to_owned(), profile: Some("vllm-fp16-tp1".to_owned()), ..args("") };
    let error = profiles::run(&args, &mut Vec::new()).expect_err("twice").to_string();
    assert!(error.contains("may be any of vllm-fp16-tp1, vllm-fp16-tp1"), "{error}");
}

#[test]
fn what_is_no_text_of_nims_is_refused_with_what_would_be() {
    for text in ["", "hello\n", "{}", "[1, 2", "a: b\n", "\u{0}\u{1b}[31m"] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        let args = ProfilesArgs { file: file.path().to_owned(), ..args("") };
        let error = profiles::run(&args, &mut Vec::new()).expect_err(text).to_string();
        assert!(error.contains("`list-model-profiles`"), "{text}: {error}");
    }
}

/// One damage to a text, at shares of its length.
#[derive(Debug, Clone)]
enum Damage {
    Cut(f64, f64),
    Insert(f64, String),
    Double(f64, f64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let share = || 0.0..1.0_f64;
    prop_oneof![
        (share(), 0.0..0.1_f64).prop_map(|(at, length)| Damage::Cut(at, length)),
        (share(), "[ -~\\n\\[\\](){}:é\u{1b}]{1,12}").prop_map(|(at, text)| Damage::Insert(at, text)),
        (share(), 0.0..0.3_f64).prop_map(|(at, length)| Damage::Double(at, length)),
    ]
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "places in a text"
)]
fn damaged(text: &str, damage: &Damage) -> String {
    let chars: Vec<char> = text.chars().collect();
    let place = |share: f64| ((chars.len() as f64 * share) as usize).min(chars.len());
    let (from, to, middle): (f64, f64, Vec<char>) = match damage {
        Damage::Cut(at, length) => (*at, at + length, Vec::new()),
        Damage::Insert(at, text) => (*at, *at, text.chars().collect()),
        Damage::Double(at, length) => (*at, *at, chars[place(*at)..place(at + length)].to_vec()),
    };
    chars[..place(from)].iter().chain(&middle).chain(&chars[place(to)..]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens to a text: reading and showing it does not fail, and no line of a list that begins with an id is
    /// lost. It is an entry, or shown as not understood.
    #[test]
    fn damaged_texts_are_read_without_losing_a_profile(
        which in 0..FIXTURES.len(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let text = damages.iter().fold(fixture(FIXTURES[which].0), |text, damage| damaged(&text, damage));
        let document = nim::parse(&text);
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), &text).expect("written");
        for format in [Format::Table, Format::Json, Format::Backends, Format::Docker] {
            let mut out = Vec::new();
            let args = ProfilesArgs { file: file.path().to_owned(), select: true, format, ..args("") };
            if profiles::run(&args, &mut out).is_ok() && format != Format::Json {
                let shown = String::from_utf8(out).expect("text");
                prop_assert!(!shown.contains('\u{1b}'), "{shown}");
            }
        }
        if document.form == Form::Listing {
            for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
                let first = line.trim().trim_start_matches('-').split_whitespace().next();
                if first.and_then(ProfileId::parse).is_some() {
                    let kept = document.entries.iter().any(|entry| entry.line == number)
                        || document.unread.iter().any(|unread| unread.line == number);
                    prop_assert!(kept, "line {number} is lost: {line}");
                }
            }
        }
    }
}
