//! Reloading: whatever happens to the file, good settings stay in force until better ones are whole.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected by failing")]

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use headway::config::settings::Settings;
use headway::config::{LastReload, Reloader, Trigger, Watch, load};
use tempfile::TempDir;

/// Longest wait for a change to be noticed; the contract is 3 s, a loaded machine gets more.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    folder: TempDir,
    reloader: Arc<Reloader>,
    applied: Receiver<Arc<Settings>>,
    _watch: Option<Watch>,
}

fn text(profile: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:8080 }}]\nthreads: 2\n\
         backends: [{{ name: a, url: http://a, profile: {profile} }}]\nroutes: [{{ name: chat, backends: [a] }}]\n"
    )
}

fn profile(settings: &Settings) -> String {
    let profile = settings.backends.first().and_then(|backend| backend.profile.clone());
    profile.map(|profile| profile.to_string()).unwrap_or_default()
}

fn start(folder: TempDir, file: &Path, watched: bool) -> Running {
    let (sender, applied) = channel();
    let sender = Mutex::new(sender);
    let loaded = load(file).unwrap_or_else(|report| panic!("{report}"));
    let apply = move |settings: &Arc<Settings>| {
        let _ = sender.lock().expect("sender").send(Arc::clone(settings));
        Ok(())
    };
    let reloader = Arc::new(Reloader::new(file, loaded, || SystemTime::UNIX_EPOCH, apply));
    let watch = watched.then(|| Watch::start(Arc::clone(&reloader)).expect("a thread"));
    Running { folder, reloader, applied, _watch: watch }
}

/// Serving `one`, watched or not.
fn running(watched: bool) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("headway.yaml");
    fs::write(&file, text("one")).expect("file");
    start(folder, &file, watched)
}

impl Running {
    fn write(&self, text: &str) {
        fs::write(self.reloader.path(), text).expect("file");
    }

    /// Waits until the settings of this profile are applied.
    #[track_caller]
    fn becomes(&self, expected: &str) {
        loop {
            match self.applied.recv_timeout(PATIENCE) {
                Ok(settings) if profile(&settings) == expected => break,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("`{expected}` never applied"),
            }
        }
        // What was applied becomes current right after.
        until(|| (profile(&self.reloader.current()) == expected).then_some(()));
    }

    /// Waits until a reload was refused, and holds that nothing changed.
    #[track_caller]
    fn refuses(&self, says: &str) {
        let last = self.last_when(|last| !last.ok());
        let report = last.result.as_ref().expect_err("refused").to_string();
        assert!(report.contains(says), "{report}");
        assert_eq!(profile(&self.reloader.current()), "one");
    }

    #[track_caller]
    fn last_when(&self, condition: impl Fn(&LastReload) -> bool) -> Arc<LastReload> {
        until(|| Some(self.reloader.last()).filter(|last| condition(last)))
    }
}

/// Waits until there is something.
#[track_caller]
fn until<T>(condition: impl Fn() -> Option<T>) -> T {
    let (_never, wait) = channel::<()>();
    for _ in 0..2_000 {
        if let Some(found) = condition() {
            return found;
        }
        let _ = wait.recv_timeout(Duration::from_millis(10));
    }
    panic!("it never happened")
}

#[test]
fn a_rewritten_file_is_applied() {
    let running = running(true);
    running.write(&text("two"));
    running.becomes("two");
    running.last_when(|last| last.trigger == Trigger::Watch);
    running.write(&text("three"));
    running.becomes("three");
}

#[test]
fn a_file_renamed_over_is_applied_again_and_again() {
    let running = running(true);
    for name in ["two", "three", "four"] {
        let new = running.folder.path().join("headway.yaml.swp");
        fs::write(&new, text(name)).expect("file");
        fs::rename(&new, running.reloader.path()).expect("rename");
        running.becomes(name);
    }
}

#[cfg(unix)]
#[test]
fn a_config_map_swap_is_applied() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("folder");
    let version = |name: &str| {
        fs::create_dir(folder.path().join(name)).expect("folder");
        fs::write(folder.path().join(name).join("headway.yaml"), text(name)).expect("file");
        symlink(name, folder.path().join("..data_tmp")).expect("link");
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).expect("swap");
    };
    version("one");
    let file = folder.path().join("headway.yaml");
    symlink("..data/headway.yaml", &file).expect("link");
    version("two");
    let path = folder.path().to_owned();
    let running = start(folder, &file, true);
    assert_eq!(profile(&running.reloader.current()), "two");
    fs::create_dir(path.join("three")).expect("folder");
    fs::write(path.join("three/headway.yaml"), text("three")).expect("file");
    symlink("three", path.join("..data_tmp")).expect("link");
    fs::rename(path.join("..data_tmp"), path.join("..data")).expect("swap");
    fs::remove_dir_all(path.join("two")).expect("clean");
    running.becomes("three");
}

#[test]
fn a_truncated_file_changes_nothing_until_it_is_whole() {
    let running = running(true);
    let new = text("two");
    running.write(&new[..new.len() / 2]);
    running.refuses("headway.yaml");
    running.write(&new);
    running.becomes("two");
    running.last_when(LastReload::ok);
}

#[test]
fn an_emptied_file_changes_nothing() {
    let running = running(true);
    running.write("");
    running.refuses("the configuration is empty");
}

#[test]
fn a_deleted_file_changes_nothing_and_its_return_is_noticed() {
    let running = running(true);
    fs::remove_file(running.reloader.path()).expect("delete");
    running.refuses("it does not exist");
    running.write(&text("two"));
    running.becomes("two");
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let running = running(true);
    fs::remove_file(running.reloader.path()).expect("delete");
    fs::create_dir(running.reloader.path()).expect("a folder in its place");
    running.refuses("not a regular file");
}

#[test]
fn a_secret_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("headway.yaml");
    fs::write(folder.path().join("key"), "sk-old").expect("key");
    fs::write(&file, text("one").replace("profile: one", "api_key: { file: key }, profile: one")).expect("file");
    let running = start(folder, &file, true);
    fs::write(running.folder.path().join("key"), "sk-new").expect("key");
    running.becomes("one");
}

#[test]
fn a_bad_file_is_refused_with_its_place_and_changes_nothing() {
    let running = running(false);
    let before = running.reloader.current();
    running.write(&text("two").replace("threads", "thraeds"));
    let report = running.reloader.reload(Trigger::Signal).expect_err("a mistake").to_string();
    assert!(report.contains("headway.yaml:2:1: unknown field \"thraeds\", did you mean \"threads\"?"), "{report}");
    assert!(Arc::ptr_eq(&before, &running.reloader.current()) && running.applied.try_recv().is_err());
    let last = running.reloader.last();
    assert!(!last.ok() && last.trigger == Trigger::Signal);
}

#[test]
fn what_needs_a_restart_is_named_and_kept() {
    let running = running(false);
    let new =
        text("two").replace(":8080", ":8081").replace("threads: 2", "threads: 3\nadmin: { address: 127.0.0.1:1 }");
    running.write(&new);
    let report = running.reloader.reload(Trigger::Request).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(report.needs_restart, ["listeners", "threads", "admin.address"]);
    let current = running.reloader.current();
    assert_eq!(profile(&current), "two");
    assert_eq!((current.threads, current.admin.address.port()), (2, 9090));
    assert_eq!(current.listeners.first().map(|listener| listener.address.port()), Some(8080));
}

#[test]
fn an_open_admin_address_keeps_its_token_until_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("headway.yaml");
    fs::write(&file, text("one") + "admin: { address: '0.0.0.0:9090', token: secret }\n").expect("file");
    let running = start(folder, &file, false);
    running.write(&text("two"));
    let report = running.reloader.reload(Trigger::Request).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(report.needs_restart, ["admin.address", "admin.token"]);
    assert!(running.reloader.current().admin.token.is_some());
}

#[test]
fn many_reloads_at_once_follow_each_other() {
    let running = running(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| drop(running.reloader.reload(Trigger::Request))));
        }
    });
    assert_eq!(running.applied.try_iter().count(), 100);
}

#[test]
fn new_measurements_are_read_and_mistaken_ones_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let (file, measured) = (folder.path().join("headway.yaml"), folder.path().join("measured.yaml"));
    let baselines = |ttft: &str| {
        format!(
            "version: 1\nbaselines:\n  - {{ backend: a, measured: 2026-01-31, origin: test, points: \
             [{{ concurrency: 1, input_tokens: 9, output_tokens: 9, ttft: {ttft}, itl: 1ms }}] }}\n"
        )
    };
    fs::write(&measured, baselines("1ms")).expect("file");
    fs::write(&file, format!("{}baselines: measured.yaml\n", text("one"))).expect("file");
    let running = start(folder, &file, true);
    fs::write(&measured, baselines("2ms")).expect("file");
    let settings = running.applied.recv_timeout(PATIENCE).expect("it is noticed");
    let entries = settings.baselines.as_ref().map(|baselines| baselines.entries.clone()).unwrap_or_default();
    let ttfts: Vec<_> = entries.iter().flat_map(|entry| &entry.points).map(|point| point.ttft).collect();
    assert_eq!(ttfts, [Duration::from_millis(2)]);
    fs::write(&measured, baselines("3")).expect("file");
    let refused = running.reloader.reload(Trigger::Request).expect_err("a mistake");
    assert!(refused.to_string().contains("measured.yaml:3:") && refused.to_string().contains("no unit"), "{refused}");
    assert_eq!(running.reloader.current().baselines, settings.baselines);
}
