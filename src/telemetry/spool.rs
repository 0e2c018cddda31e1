//! A thread that writes lines, behind a bounded queue: whoever hands it a line never waits.
//!
//! A pipe that nobody reads, a full disk or a slow terminal costs lines, which are counted, and nothing else. The
//! queue takes items as they are and the thread turns them into text, so that the data path pays for one hand-over.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Most items waiting to be written: seconds of traffic, and some 16 MiB of records at worst.
const QUEUE: usize = 4_096;
/// Text collected before it is written, at most by one line more.
const BATCH_BYTES: usize = 64 << 10;
/// Rest after a batch: without it every item of a busy proxy would wake the thread, and waking is the sender's cost.
const REST: Duration = Duration::from_millis(20);

/// Where lines go.
pub(super) enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to.
    File(PathBuf, File),
    /// Somewhere else.
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl Sink {
    /// Opens a file for appending, made when it is not there.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(|file| Self::File(path.to_owned(), file))
    }

    /// After rotation: the name is opened anew. If that fails, the old file is written on.
    fn reopen(&mut self) {
        if let Self::File(path, _) = self {
            match Self::file(path) {
                Ok(opened) => *self = opened,
                Err(error) => tracing::warn!(%error, path = %path.display(), "log file cannot be reopened"),
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(text).and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().write_all(text),
            Self::File(_, file) => file.write_all(text),
            #[cfg(test)]
            Self::Other(writer) => writer.write_all(text),
        }
    }
}

enum Message<T> {
    Item(T),
    /// Look at the flags.
    Wake,
}

#[derive(Default)]
struct Control {
    reopen: AtomicBool,
    closing: AtomicBool,
    ended: Mutex<bool>,
    ended_changed: Condvar,
}

/// The near end of the queue.
pub(super) struct Spool<T> {
    sender: SyncSender<Message<T>>,
    control: Arc<Control>,
    writer: Thread,
    dropped: Arc<AtomicU64>,
}

impl<T> fmt::Debug for Spool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Spool<T> {
    /// Starts the thread. `write_line` appends one item's text; `dropped` counts items that were not written.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        name: &str,
        sink: Sink,
        dropped: Arc<AtomicU64>,
        write_line: impl Fn(&T, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let control = Arc::new(Control::default());
        let writer =
            Writer { receiver, control: Arc::clone(&control), sink, dropped: Arc::clone(&dropped), write_line };
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
        Ok(Self { sender, control, writer: handle.thread().clone(), dropped })
    }

    /// Hands an item over, or counts it as dropped when the queue is full.
    pub(super) fn push(&self, item: T) {
        if self.sender.try_send(Message::Item(item)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the file opened anew, after what is queued was written.
    pub(super) fn reopen(&self) {
        self.control.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits until everything queued is written, at most `patience`; whether it was.
    pub(super) fn close(&self, patience: Duration) -> bool {
        self.control.closing.store(true, Ordering::Release);
        self.wake();
        let ended = self.control.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.control.ended_changed.wait_timeout_while(ended, patience, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A full queue needs no message: the thread is at work and looks at the flags after the batch.
    fn wake(&self) {
        let _full = self.sender.try_send(Message::Wake);
        self.writer.unpark();
    }
}

/// The far end of the queue.
struct Writer<T, F> {
    receiver: Receiver<Message<T>>,
    control: Arc<Control>,
    sink: Sink,
    dropped: Arc<AtomicU64>,
    write_line: F,
}

impl<T, F: Fn(&T, &mut Vec<u8>)> Writer<T, F> {
    fn run(mut self) {
        let mut text = Vec::with_capacity(BATCH_BYTES);
        // An error means that every near end is gone.
        while let Ok(first) = self.receiver.recv() {
            if self.write_queued(first, &mut text) {
                break;
            }
            thread::park_timeout(REST);
        }
        *self.control.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.control.ended_changed.notify_all();
    }

    /// Writes until the queue is empty; whether it closes. It closes only if it was to close before it was emptied, for
    /// what was queued before that must be written.
    fn write_queued(&mut self, first: Message<T>, text: &mut Vec<u8>) -> bool {
        let mut first = Some(first);
        loop {
            let closing = self.control.closing.load(Ordering::Acquire);
            let emptied = self.write_batch(first.take(), text);
            if self.control.reopen.swap(false, Ordering::AcqRel) {
                self.sink.reopen();
            }
            if emptied && (closing || !self.control.closing.load(Ordering::Acquire)) {
                return closing;
            }
        }
    }

    /// Writes what is queued, up to a batch; whether the queue was emptied.
    fn write_batch(&mut self, first: Option<Message<T>>, text: &mut Vec<u8>) -> bool {
        text.clear();
        let mut lines = 0;
        let mut next = first;
        let emptied = loop {
            if text.len() >= BATCH_BYTES {
                break false;
            }
            let Some(message) = next.take().or_else(|| self.receiver.try_recv().ok()) else { break true };
            if let Message::Item(item) = message {
                (self.write_line)(&item, text);
                lines += 1;
            }
        };
        if lines > 0 && self.sink.write(text).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
        emptied
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A writer whose text can be read, and that blocks while its gate is held.
    #[derive(Clone, Default)]
    pub(in super::super) struct Shared(Arc<Mutex<Vec<u8>>>, Arc<Mutex<()>>);

    impl Shared {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        pub(in super::super) fn block(&self) -> std::sync::MutexGuard<'_, ()> {
            self.1.lock().unwrap()
        }

        pub(in super::super) fn sink(&self) -> Sink {
            Sink::Other(Box::new(self.clone()))
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _passed = self.1.lock().unwrap();
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(item: &String, text: &mut Vec<u8>) {
        text.extend_from_slice(item.as_bytes());
        text.push(b'\n');
    }

    #[test]
    fn what_was_queued_is_written_before_it_closes() {
        let shared = Shared::default();
        let spool = Spool::start("test", shared.sink(), Arc::default(), line).unwrap();
        for item in ["a", "b", "c"] {
            spool.push(item.to_owned());
        }
        assert!(spool.close(Duration::from_secs(10)));
        assert_eq!(shared.text(), "a\nb\nc\n");
    }

    #[test]
    fn a_blocked_sink_costs_lines_that_are_counted_and_nobody_waits() {
        let shared = Shared::default();
        let dropped = Arc::new(AtomicU64::new(0));
        let spool = Spool::start("test", shared.sink(), Arc::clone(&dropped), line).unwrap();
        let gate = shared.block();
        let pushed = 3 * QUEUE as u64;
        for number in 0..pushed {
            spool.push(number.to_string());
        }
        assert!(!spool.close(Duration::from_millis(1)), "it cannot have been written");
        drop(gate);
        assert!(spool.close(Duration::from_secs(10)));
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost > 0, "nothing was dropped");
        assert_eq!(shared.text().lines().count() as u64 + lost, pushed, "a line was neither written nor counted");
    }

    #[test]
    fn a_sink_that_fails_counts_its_lines() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dropped = Arc::new(AtomicU64::new(0));
        let spool = Spool::start("test", Sink::Other(Box::new(Full)), Arc::clone(&dropped), line).unwrap();
        spool.push("a".to_owned());
        assert!(spool.close(Duration::from_secs(10)));
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_rotated_file_is_reopened_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let spool = Spool::start("test", Sink::file(&path).unwrap(), Arc::default(), line).unwrap();
        spool.push("before".to_owned());
        while std::fs::read_to_string(&path).unwrap().is_empty() {
            thread::yield_now();
        }
        std::fs::rename(&path, &moved).unwrap();
        spool.reopen();
        while !path.exists() {
            thread::yield_now();
        }
        spool.push("after".to_owned());
        assert!(spool.close(Duration::from_secs(10)));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }
}
