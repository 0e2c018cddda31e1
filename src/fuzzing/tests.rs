//! Every target on its corpus, on its seeds, and on random changes of both.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{TARGETS, Target};
use crate::random::Random;

/// Changed inputs per target; `HEADWAY_FUZZ_CHANGES` asks for another number.
const CHANGES: usize = 3000;
/// Longest input: longer ones cost more than they show.
const LONGEST: usize = 8192;
/// What grammars are made of.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\r",
    b"\r\n\r\n",
    b"data: ",
    b"event: error\n",
    b": \n",
    b"[DONE]",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u00",
    b"\\ud83d",
    b",",
    b":",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"\"model\":",
    b"\"stream\":true",
    b"\"error\":{",
    b"\"usage\":{},",
    b"\"choices\":[],",
    b"\xEF\xBB\xBF",
    b"\xFF",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"%2f",
    b"&a: *a\n",
    b"- ",
    b"  ",
    b"${X}",
    b"\0",
    b"NaN",
    b"99999999999999999999",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, or the file itself, in the order of their names.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<_> = fs::read_dir(path)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let corpus = root().join("fuzz/corpus").join(target.name);
    let corpus = files(&corpus);
    assert!(!corpus.is_empty(), "{} has no corpus", target.name);
    let seeds = target.seeds.iter().flat_map(|seed| files(&root().join(seed)));
    corpus.into_iter().chain(seeds).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// One to four changes: bytes altered, removed, repeated, put in, taken from another input.
fn changed(one: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = one.get(..LONGEST).unwrap_or(one).to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(6) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes.truncate(at.max(1)),
            4 => {
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + random.below(200)).min(other.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => drop(bytes.splice(at..end, PIECES[random.below(PIECES.len())].iter().copied())),
        }
    }
    bytes
}

#[track_caller]
fn holds(target: &Target, bytes: &[u8], what: &str) {
    let held = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    assert!(held.is_ok(), "{}: {what}: {:?}", target.name, String::from_utf8_lossy(bytes));
}

#[track_caller]
fn try_out(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let inputs = inputs(target);
    for (path, bytes) in &inputs {
        holds(target, bytes, &path.display().to_string());
    }
    let changes = std::env::var("HEADWAY_FUZZ_CHANGES").ok().and_then(|text| text.parse().ok()).unwrap_or(CHANGES);
    let mut random = Random::seeded(2024);
    for number in 0..changes {
        let (one, other) = (random.below(inputs.len()), random.below(inputs.len()));
        let bytes = changed(&inputs[one].1, &inputs[other].1, &mut random);
        holds(target, &bytes, &format!("change {number}"));
    }
}

macro_rules! each {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            try_out(stringify!($name));
        })*

        /// No target without its test, its program and its corpus.
        #[test]
        fn every_target_is_tried() {
            let listed: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
            assert_eq!(BTreeSet::from([$(stringify!($name).to_owned()),*]), listed);
            let programs = files(&root().join("fuzz/fuzz_targets"));
            let names = programs.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
            assert_eq!(names.collect::<BTreeSet<_>>(), listed);
            let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
            assert!(listed.iter().all(|name| manifest.contains(&format!("\nname = \"{name}\"\n"))));
        }
    };
}

each!(sse, stream, chunk, request, config, head, response, page, profiles, admin);
