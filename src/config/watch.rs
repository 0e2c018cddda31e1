//! Notices that the configuration's files changed.
//!
//! The parent folder is watched, not the file: editors and Kubernetes replace files, and a watch on a file follows the
//! old one away. Notifications only make it quick. What makes it certain is comparing contents every two seconds:
//! notifications get lost on network file systems, full queues, and folders that are replaced themselves.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::reload::Reloader;

/// How long the folder must be quiet before the file is read.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Most notifications waited out, so that a file written without end is looked at nevertheless.
const MAX_DEBOUNCED: usize = 20;
/// How often contents are compared, notified or not.
const POLL: Duration = Duration::from_secs(2);

/// A running watch; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the reloader's file on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(reloader: Arc<Reloader>) -> io::Result<Self> {
        Self::start_with(reloader, POLL)
    }

    fn start_with(reloader: Arc<Reloader>, poll: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        // One waiting notification says as much as many.
        let (wake, woken) = sync_channel(1);
        let notifier = notifier(reloader.path(), wake.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("config-watch".to_owned()).spawn(move || {
            let _notifier = notifier;
            run(&reloader, &woken, &stopped, poll);
        })?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A full channel wakes the thread as well.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(reloader: &Reloader, woken: &Receiver<()>, stopped: &AtomicBool, poll: Duration) {
    loop {
        match woken.recv_timeout(poll) {
            Ok(()) if !stopped.load(Ordering::Relaxed) => settle(woken),
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        // The result is in the log, and kept by the reloader.
        let _ = reloader.reload_if_changed();
    }
}

/// Waits until nothing was notified for a while.
fn settle(woken: &Receiver<()>) {
    for _ in 0..MAX_DEBOUNCED {
        if woken.recv_timeout(DEBOUNCE).is_err() {
            return;
        }
    }
}

/// Watches the file's folder; without it the comparison still works, only later.
fn notifier(path: &Path, wake: SyncSender<()>) -> Option<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().map(OsStr::to_owned);
    let watch = move || {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| concerns(&event, name.as_deref())) {
                let _ = wake.try_send(());
            }
        })?;
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok::<_, notify::Error>(watcher)
    };
    watch().inspect_err(|error| tracing::warn!(%error, "no file notifications; changes are found within 2 s")).ok()
}

/// Whether an event may be about our file: reading it is not, nor is the log file beside it.
fn concerns(event: &notify::Event, name: Option<&OsStr>) -> bool {
    // A ConfigMap's files are links through `..data`, which is what gets replaced.
    let ours = |path: &PathBuf| path.file_name() == name || path.file_name() == Some(OsStr::new("..data"));
    !event.kind.is_access() && (event.need_rescan() || event.paths.iter().any(ours))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::SystemTime;

    use super::super::settings::Settings;
    use super::*;
    use crate::config::load;

    /// Far longer than any test runs: what is found in spite of it was notified.
    const NEVER: Duration = Duration::from_secs(3_600);

    const TEXT: &str = "listeners: [{ address: 127.0.0.1:1 }]\nbackends: [{ name: a, url: http://a }]\n\
                        routes: [{ name: one, backends: [a] }]\n";

    /// Changes the folder of a served file, and waits until that is applied.
    #[track_caller]
    fn notices(change: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("headway.yaml");
        fs::write(&file, TEXT).expect("file");
        let (sender, applied) = channel();
        let sender = Mutex::new(sender);
        let apply = move |settings: &Arc<Settings>| {
            let _ = sender.lock().expect("sender").send(Arc::clone(settings));
            Ok(())
        };
        let loaded = load(&file).unwrap_or_else(|report| panic!("{report}"));
        let reloader = Arc::new(Reloader::new(&file, loaded, || SystemTime::UNIX_EPOCH, apply));
        let watch = Watch::start_with(reloader, NEVER).expect("a thread");
        change(folder.path());
        let settings = applied.recv_timeout(Duration::from_secs(20)).expect("it was notified");
        assert_eq!(settings.routes.first().map(|route| route.name.to_string()).as_deref(), Some("two"));
        drop(watch);
    }

    #[test]
    fn a_written_file_is_noticed_at_once() {
        notices(|folder| fs::write(folder.join("headway.yaml"), TEXT.replace("one", "two")).expect("file"));
    }

    #[test]
    fn a_renamed_file_is_noticed_at_once() {
        notices(|folder| {
            fs::write(folder.join("new"), TEXT.replace("one", "two")).expect("file");
            fs::rename(folder.join("new"), folder.join("headway.yaml")).expect("rename");
        });
    }

    #[test]
    fn other_files_and_reading_ours_concern_nobody() {
        let event = |kind, path: &str| notify::Event::new(kind).add_path(path.into());
        let write = notify::EventKind::Modify(notify::event::ModifyKind::Any);
        let read = notify::EventKind::Access(notify::event::AccessKind::Read);
        let name = Some(OsStr::new("headway.yaml"));
        assert!(concerns(&event(write, "/etc/headway.yaml"), name));
        assert!(concerns(&event(write, "/etc/..data"), name));
        assert!(!concerns(&event(write, "/etc/access.log"), name));
        assert!(!concerns(&event(read, "/etc/headway.yaml"), name));
    }
}
