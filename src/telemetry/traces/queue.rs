//! What waits for the collector: records, bounded by the spans they will make, and every span that is lost counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::measure::exchange::ExchangeRecord;

/// Why spans did not reach the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// As many spans wait as may.
    QueueFull,
    /// The collector could not be reached, or said no.
    ExportFailed,
    /// The collector did not take them in time.
    Timeout,
    /// The collector took the batch, and of it not these.
    Rejected,
    /// headway ended before it could send them.
    Shutdown,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::QueueFull, Self::ExportFailed, Self::Timeout, Self::Rejected, Self::Shutdown];

    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What became of spans, over all reloads.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl SpanCounts {
    /// Spans that a collector has taken.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans lost for that reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.place(reason).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn count_exported(&self, spans: u64) {
        self.exported.fetch_add(spans, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self, reason: DropReason, spans: usize) {
        if let Some(count) = self.place(reason) {
            count.fetch_add(spans as u64, Ordering::Relaxed);
        }
    }

    fn place(&self, reason: DropReason) -> Option<&AtomicU64> {
        DropReason::ALL.iter().zip(&self.dropped).find(|(other, _)| **other == reason).map(|(_, count)| count)
    }
}

/// A record and the spans it will make.
pub(super) type Waiting = (Arc<ExchangeRecord>, usize);

/// The near end.
#[derive(Debug)]
pub(super) struct Sender {
    /// Bounded by `waiting`.
    channel: UnboundedSender<Waiting>,
    waiting: Arc<AtomicUsize>,
    /// Most spans waiting.
    most: usize,
    /// So many waiting are worth a wake-up: the far end looks by itself from time to time, and waking it is our cost.
    batch: usize,
    wake: Arc<Notify>,
    counts: Arc<SpanCounts>,
}

/// The far end.
#[derive(Debug)]
pub(super) struct Receiver {
    channel: UnboundedReceiver<Waiting>,
    waiting: Arc<AtomicUsize>,
}

/// A queue of at most so many spans; `wake` is told when a batch is there.
pub(super) fn queue(most: usize, batch: usize, wake: Arc<Notify>, counts: Arc<SpanCounts>) -> (Sender, Receiver) {
    let ((sender, receiver), waiting) = (unbounded_channel(), Arc::<AtomicUsize>::default());
    let far = Receiver { channel: receiver, waiting: Arc::clone(&waiting) };
    (Sender { channel: sender, waiting, most, batch, wake, counts }, far)
}

impl Sender {
    /// Hands a record over, or counts its spans as dropped when there is no room for all of them.
    pub(super) fn push(&self, record: Arc<ExchangeRecord>, spans: usize) {
        let before = self.waiting.fetch_add(spans, Ordering::Relaxed);
        if before + spans > self.most {
            self.waiting.fetch_sub(spans, Ordering::Relaxed);
            return self.counts.count_dropped(DropReason::QueueFull, spans);
        }
        if self.channel.send((record, spans)).is_err() {
            return self.counts.count_dropped(DropReason::Shutdown, spans);
        }
        if before < self.batch && before + spans >= self.batch {
            self.wake.notify_one();
        }
    }
}

impl Receiver {
    /// The record that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let (record, spans) = self.channel.try_recv().ok()?;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        Some((record, spans))
    }

    /// Takes no more; what still waits can be popped.
    pub(super) fn close(&mut self) {
        self.channel.close();
    }
}
