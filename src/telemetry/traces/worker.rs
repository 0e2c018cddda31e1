//! The thread that makes spans of records and sends them.
//!
//! It has a runtime of its own: a collector that hangs hangs this thread, and nothing else.

use std::io;
use std::sync::mpsc::{Receiver as Done, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};

use super::ids::Ids;
use super::queue::{DropReason, Receiver, Sender, SpanCounts, queue};
use super::{exporter, limits, spans};
use crate::config::otlp::{Otlp, SpanLimits};
use crate::measure::exchange::ExchangeRecord;

/// The near end of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    sender: Sender,
    /// How long what is queued may still take, once it closes.
    closing: watch::Sender<Option<Duration>>,
    /// Says nothing, and breaks when the thread has ended.
    done: Mutex<Done<()>>,
}

impl Worker {
    pub(super) fn start(settings: &Otlp, counts: Arc<SpanCounts>) -> io::Result<Self> {
        // Names are resolved on a thread that may hang; one is enough.
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let exporter = {
            let _entered = runtime.enter();
            exporter::build(settings, &counts)?
        };
        let (wake, (closing, closed)) = (Arc::<Notify>::default(), watch::channel(None));
        let (sender, queue) = queue(settings.queue.spans, settings.queue.batch, Arc::clone(&wake), Arc::clone(&counts));
        let run = Run {
            queue,
            exporter,
            made: Vec::new(),
            limits: settings.limits,
            batch: settings.queue.batch,
            delay: settings.queue.delay,
            timeout: settings.timeout,
            wake,
            closing: closed,
            counts,
            failing: false,
            ids: Ids::default(),
        };
        let (ended, done) = sync_channel(0);
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            run_to_its_end(runtime, run);
            drop(ended);
        })?;
        Ok(Self { sender, closing, done: Mutex::new(done) })
    }

    pub(super) fn push(&self, record: &Arc<ExchangeRecord>) {
        self.sender.push(Arc::clone(record), spans::count(record));
    }

    pub(super) fn start_closing(&self, patience: Duration) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            *closing = closing.or(Some(patience));
            first
        });
    }

    pub(super) fn ended(&self, patience: Duration) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    }
}

fn run_to_its_end(runtime: Runtime, run: Run) {
    runtime.block_on(run.run());
    // Without waiting for a name that is still being resolved.
    runtime.shutdown_background();
}

/// The thread's work.
struct Run {
    queue: Receiver,
    exporter: SpanExporter,
    /// Spans of records that were taken from the queue, not yet sent.
    made: Vec<SpanData>,
    limits: SpanLimits,
    batch: usize,
    delay: Duration,
    timeout: Duration,
    wake: Arc<Notify>,
    closing: watch::Receiver<Option<Duration>>,
    counts: Arc<SpanCounts>,
    failing: bool,
    ids: Ids,
}

impl Run {
    async fn run(mut self) {
        let closing = self.closing.clone();
        tokio::select! {
            () = self.work() => {}
            () = patience_ended(closing) => {}
        }
        self.give_up();
    }

    /// Sends what is queued, again and again; at the end once more, what was on its way then included.
    async fn work(&mut self) {
        let mut closing = self.closing.clone();
        let mut ends = false;
        while !ends {
            tokio::select! {
                () = tokio::time::sleep(self.delay) => {}
                () = self.wake.notified() => {}
                _ = closes(&mut closing) => {
                    self.queue.close();
                    ends = true;
                }
            }
            self.send_queued().await;
        }
    }

    async fn send_queued(&mut self) {
        while let Some(batch) = self.next_batch() {
            self.send(batch).await;
        }
    }

    fn next_batch(&mut self) -> Option<Vec<SpanData>> {
        while self.made.len() < self.batch
            && let Some((record, _)) = self.queue.pop()
        {
            let before = self.made.len();
            spans::of(&record, &self.ids, &mut self.made);
            self.made.iter_mut().skip(before).for_each(|span| limits::hold(span, self.limits));
        }
        let rest = self.made.split_off(self.made.len().min(self.batch));
        let batch = std::mem::replace(&mut self.made, rest);
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let mut unsent = Unsent { spans: batch.len(), counts: Arc::clone(&self.counts) };
        let rejected = self.counts.dropped(DropReason::Rejected);
        let sent = tokio::time::timeout(self.timeout, self.exporter.export(batch)).await;
        let (reason, problem) = match sent {
            Ok(Ok(())) => {
                let rejected = self.counts.dropped(DropReason::Rejected).saturating_sub(rejected);
                let taken = std::mem::take(&mut unsent.spans) as u64;
                self.counts.count_exported(taken.saturating_sub(rejected));
                return self.works();
            }
            Ok(Err(error)) => (DropReason::ExportFailed, error.to_string()),
            Err(_) => (DropReason::Timeout, "no answer in time".to_owned()),
        };
        self.counts.count_dropped(reason, std::mem::take(&mut unsent.spans));
        self.fails(&problem);
    }

    /// One line when it begins, not one a batch.
    fn fails(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%problem, "the collector does not take traces; they are dropped and counted");
        }
    }

    fn works(&mut self) {
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!("the collector takes traces again");
        }
    }

    fn give_up(&mut self) {
        let mut lost = self.made.len();
        while let Some((_, spans)) = self.queue.pop() {
            lost += spans;
        }
        self.counts.count_dropped(DropReason::Shutdown, lost);
        if lost > 0 {
            tracing::warn!(spans = lost, "ended before all traces were sent");
        }
    }
}

/// Spans on their way; given up there, they are lost by our ending.
struct Unsent {
    spans: usize,
    counts: Arc<SpanCounts>,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.counts.count_dropped(DropReason::Shutdown, self.spans);
    }
}

/// Waits until the near end closes, or is gone; how long what is queued may take then.
async fn closes(closing: &mut watch::Receiver<Option<Duration>>) -> Duration {
    const ABANDONED: Duration = Duration::from_secs(1);
    let asked = closing.wait_for(Option::is_some).await;
    asked.ok().and_then(|patience| *patience).unwrap_or(ABANDONED)
}

async fn patience_ended(mut closing: watch::Receiver<Option<Duration>>) {
    let patience = closes(&mut closing).await;
    tokio::time::sleep(patience).await;
}
