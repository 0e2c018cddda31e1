//! Replaces a file so that whoever reads it, even after the power failed, finds the old one or the new one whole.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes beside the file, syncs, and renames over it. Blocking.
///
/// Two processes that write the same file at once each replace
/// it whole; the later wins.
///
/// # Errors
/// When the folder is missing or cannot be written; then the old file is as it was.
pub fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write(&beside, contents).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // Nothing to keep; that it could not be removed either changes nothing.
        let _ = std::fs::remove_file(&beside);
    }
    written?;
    sync_folder(path)
}

/// A name in the same folder, hence on the same file system, that no other process uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(beside))
}

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// A rename is safe once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.json");
        for contents in ["one", "another, longer", "x"] {
            replace_file(&path, contents.as_bytes()).expect("writable");
            assert_eq!(std::fs::read_to_string(&path).expect("file"), contents);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(replace_file(&folder.path().join("missing/state.json"), b"x").is_err());
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).expect("folder");
        assert!(replace_file(&taken, b"x").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1, "the new file is taken away again");
        assert!(replace_file(Path::new("/"), b"x").is_err());
    }
}
