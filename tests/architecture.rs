//! Holds the house together: who may import whom, what the pure folders may not touch, where serde may be used.
//!
//! Read from the source text, since the compiler allows all of it. Tests inside `src` are not looked at.

#![allow(clippy::unwrap_used, clippy::case_sensitive_file_extension_comparisons, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module may import of ours; `random` is open to all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("random", &[]),
    ("trace", &[]),
    ("svg", &[]),
    ("units", &[]),
    ("yaml", &[]),
    ("wire", &[]),
    ("measure", &["units", "wire"]),
    ("route", &["units", "measure"]),
    ("engine", &["units"]),
    ("planner", &["units", "measure", "route"]),
    ("nim", &["units", "yaml"]),
    ("config", &["clock", "units", "yaml", "measure", "route", "engine", "nim"]),
    ("fleet", &["clock", "units", "wire", "nim", "measure", "route", "config"]),
    ("telemetry", &["clock", "units", "wire", "measure", "route", "config"]),
    ("proxy", &["clock", "units", "wire", "measure", "route", "config", "fleet", "telemetry"]),
    ("admin", &["clock", "units", "measure", "route", "config", "fleet", "telemetry"]),
    ("nim_simulator", &["clock", "units", "wire", "engine", "config"]),
    ("conformance", &["clock", "units", "wire", "measure"]),
    ("bench", &["clock", "units", "wire", "measure", "trace", "svg"]),
    ("policy_simulator", &["units", "trace", "measure", "route", "engine", "config", "svg"]),
    ("cli", &["commands"]),
];

/// Modules that wire the others together.
const FREE: &[&str] = &["commands", "fuzzing", "lib", "main"];

const PURE: &[&str] = &["svg", "yaml", "wire", "measure", "route", "engine", "planner", "nim"];

/// IO, locks, `async` (without which there is no `.await`), threads and clocks, as they show in source text.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "tokio",
    "async ",
    "Mutex",
    "RwLock",
    "OnceLock",
    "LazyLock",
    "Atomic",
    "RefCell",
    ".elapsed()",
];

const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now"];

/// Where JSON is written or read through serde; everything else has types that do not know how they are shown.
const SERDE: &[&str] = &[
    "admin/",
    "bench/",
    "commands/",
    "conformance/",
    "config/",
    "fleet/models.rs",
    "nim/metadata.rs",
    "nim/model.rs",
    "fleet/state/file.rs",
    "fleet/state/split_part.rs",
    "nim_simulator/",
    "policy_simulator/",
    "proxy/models.rs",
    "telemetry/access_log.rs",
    "telemetry/json_line.rs",
    "trace.rs",
];

/// One source file without its comments and tests.
struct Source {
    path: String,
    lines: Vec<String>,
}

impl Source {
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Paths of ours, from the crate's root: `super::` that climbs above the module's own folder included.
    fn imports(&self) -> Vec<&str> {
        let depth = self.path.trim_end_matches("/mod.rs").split('/').count();
        let climb = "super::".repeat(depth);
        let roots = ["crate::", climb.as_str()];
        let tails = self.lines.iter().flat_map(|line| roots.map(|root| line.split(root).skip(1)).into_iter().flatten());
        tails.map(|tail| tail.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()).collect()
    }

    fn complain(&self, words: &[&str], problems: &mut Vec<String>) {
        for line in &self.lines {
            for word in words.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("src/{}: `{word}` in `{}`", self.path, line.trim()));
            }
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    collect(&root, &root, &mut all);
    assert!(all.len() > 50, "the sources are not where they were");
    all
}

fn collect(root: &Path, folder: &Path, all: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let is_test = matches!(name, "tests" | "tests.rs" | "testing.rs" | "fuzz.rs");
        if entry.is_dir() && !is_test {
            collect(root, &entry, all);
        } else if name.ends_with(".rs") && !is_test {
            let text = fs::read_to_string(&entry).unwrap();
            let code = text.split("\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect();
            let path = entry.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            all.push(Source { path, lines });
        }
    }
}

#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn imports_point_downward_only() {
    let mut problems = Vec::new();
    for source in sources() {
        let module = source.module();
        if FREE.contains(&module) {
            continue;
        }
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
            problems.push(format!("src/{}: `{module}` has no row in the table of imports", source.path));
            continue;
        };
        for import in source.imports() {
            // An empty name is `crate::{…}`: one `use` per module keeps this readable, for the test as well.
            if import != module && import != "random" && !allowed.contains(&import) {
                problems.push(format!("src/{}: `{module}` imports `{import}`", source.path));
            }
        }
    }
    none(&problems);
}

#[test]
fn pure_modules_have_no_io_locks_async_or_clock() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.module())) {
        source.complain(IMPURE, &mut problems);
    }
    none(&problems);
}

#[test]
fn only_the_clock_reads_the_machine_clock() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.path != "clock.rs") {
        source.complain(CLOCKS, &mut problems);
    }
    none(&problems);
}

#[test]
fn serde_stays_at_the_edges() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !SERDE.iter().any(|edge| source.path.starts_with(edge))) {
        source.complain(&["serde::", "serde_json::", "Serialize", "Deserialize"], &mut problems);
    }
    none(&problems);
}
