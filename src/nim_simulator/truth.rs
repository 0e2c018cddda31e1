//! The truth log: what the server itself did with each request, to hold measurements against.
//!
//! One record per request, kept in memory for whoever embeds the simulator and written as one JSON line each. Prompts
//! and answers never are in it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Records kept in memory; the oldest leave.
const KEPT: usize = 16_384;
/// Records that may wait for the disk; beyond, they are dropped and counted.
const UNWRITTEN: usize = 16_384;

/// What became of one request. Times are milliseconds since its body was complete.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TruthRecord {
    /// The client's `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_request_id: Option<String>,
    /// `chat`, `completions`, `responses`, `messages`, `generate`, `embeddings`, `ranking`.
    pub api: &'static str,
    /// The model that answered; empty when the request was refused before one was known.
    pub model: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// When the body was complete, in milliseconds since 1970.
    pub received_unix_ms: f64,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Prompt tokens that were cached.
    pub cached_tokens: u32,
    /// Tokens handed to the connection.
    pub tokens: u32,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// The first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// The last token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<f64>,
    /// `(last - first) / (tokens - 1)`, over the tokens of all choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
    /// The longest gap between two tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_gap_ms: Option<f64>,
    /// The end of the request, however it ended.
    pub end_ms: f64,
    /// When the client was seen to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_ms: Option<f64>,
    /// `completed`, `aborted` (the client left), `rejected` (its own fault), `refused` (queue full), `fault`.
    pub outcome: &'static str,
    /// The fault that struck it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<&'static str>,
}

/// The records of one simulator; clones share them.
#[derive(Debug, Clone, Default)]
pub struct TruthLog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<VecDeque<TruthRecord>>,
    arrived: Notify,
    file: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    dropped: AtomicU64,
}

impl TruthLog {
    /// The last 16,384 records, the oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<TruthRecord> {
        lock(&self.shared.kept).iter().cloned().collect()
    }

    /// Records that never reached the file because the disk was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until a record satisfies the condition and returns it.
    pub async fn wait_for(&self, condition: impl Fn(&TruthRecord) -> bool) -> TruthRecord {
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(found) = lock(&self.shared.kept).iter().find(|record| condition(record)) {
                return found.clone();
            }
            arrived.await;
        }
    }

    pub(super) fn push(&self, record: TruthRecord) {
        self.send(&record);
        let mut kept = lock(&self.shared.kept);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(record);
        drop(kept);
        self.shared.arrived.notify_waiters();
    }

    /// Also appends every record to a file from now on.
    pub(super) async fn open(&self, path: &Path) -> std::io::Result<Writer> {
        let file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await?;
        let (sender, lines) = mpsc::channel(UNWRITTEN);
        *lock(&self.shared.file) = Some(sender);
        Ok(Writer { task: tokio::spawn(write(file, lines, path.to_owned())) })
    }

    /// Lets the writer finish: it ends once everything is on disk.
    pub(super) fn close(&self) {
        lock(&self.shared.file).take();
    }

    fn send(&self, record: &TruthRecord) {
        let file = lock(&self.shared.file);
        let Some(sender) = file.as_ref() else { return };
        let mut line = serde_json::to_vec(record).unwrap_or_default();
        line.push(b'\n');
        if sender.try_send(line).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The task that writes the file.
pub(super) struct Writer {
    task: JoinHandle<()>,
}

impl Writer {
    pub(super) async fn finished(self) {
        let _ = self.task.await;
    }
}

async fn write(mut file: tokio::fs::File, mut lines: mpsc::Receiver<Vec<u8>>, path: PathBuf) {
    while let Some(mut line) = lines.recv().await {
        while let Ok(next) = lines.try_recv() {
            line.extend_from_slice(&next);
        }
        let written = async { file.write_all(&line).await.and(file.flush().await) }.await;
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the truth log cannot be written");
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_holds_the_last_records_only() {
        let log = TruthLog::default();
        for tokens in 0..=u32::try_from(KEPT).expect("small") {
            log.push(TruthRecord { tokens, ..TruthRecord::default() });
        }
        let records = log.records();
        assert_eq!((records.len(), records[0].tokens), (KEPT, 1));
    }

    #[tokio::test]
    async fn the_file_has_one_line_of_json_for_each_record() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("truth.jsonl");
        let log = TruthLog::default();
        let writer = log.open(&path).await.expect("writable");
        for tokens in 0..3 {
            log.push(TruthRecord { tokens, api: "chat", outcome: "completed", ..TruthRecord::default() });
        }
        log.close();
        writer.finished().await;
        let text = std::fs::read_to_string(&path).expect("written");
        let tokens: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["tokens"].clone())
            .collect();
        assert_eq!(tokens, [0, 1, 2]);
        assert!(!text.contains("ttft_ms"), "what is not defined is absent");
    }
}
