//! The stand-in for NVIDIA's library: built once, copied for each test, its values in a file that tests rewrite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_nvml/nvml.c");

/// A UUID of the stand-in's MIG instance.
pub(crate) const INSTANCE: &str = "MIG-22222222-2222-2222-2222-222222222222";
/// The UUID of its second GPU.
pub(crate) const SECOND: &str = "GPU-11111111-1111-1111-1111-111111111111";

/// A library of a test's own.
pub(crate) struct Library {
    folder: tempfile::TempDir,
    values: Mutex<BTreeMap<String, String>>,
}

impl Library {
    /// Two GPUs, the second in MIG mode: it does not tell its utilisation, and has one instance.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(built(), folder.path().join("libnvidia-ml.so.1")).expect("a copy");
        let library = Self { folder, values: Mutex::default() };
        library.set(&[
            ("0.util", "87"),
            ("0.used", "75161927680"),
            ("0.total", "85899345920"),
            ("0.power", "512250"),
            ("0.temp", "61"),
            ("0.clock", "1980"),
            ("0.throttle", "4"),
            ("1.power", "300000"),
            ("1.temp", "50"),
            ("1.clock", "1410"),
            ("1.throttle", "1"),
            ("2.used", "15728640000"),
            ("2.total", "20937965568"),
        ]);
        library
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// Changes values. Whole files take each other's place, so that the library never reads half of one.
    pub(crate) fn set(&self, changes: &[(&str, &str)]) {
        let mut values = self.values.lock().unwrap();
        values.extend(changes.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        let text: String = values.iter().flat_map(|(key, value)| [key, " ", value, "\n"]).collect();
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(new, self.folder.path().join("libnvidia-ml.so.1.state")).expect("its place");
    }
}

/// Where the library was built.
fn built() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fake.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&path).args([SOURCE, "-ldl"]);
        assert!(command.status().expect("a C compiler").success());
        (folder, path)
    });
    path
}
