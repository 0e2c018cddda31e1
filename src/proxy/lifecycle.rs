//! Running, draining, ending: who may still be served, and when the last one is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// The life of one proxy, shared by its listeners and exchanges.
#[derive(Debug)]
pub struct Lifecycle {
    draining: Arc<AtomicBool>,
    active: AtomicUsize,
    idle: Notify,
    closing: watch::Sender<bool>,
    hanging_up: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

/// Waits until a signal is true; for ever when whoever gives it is gone.
pub(super) async fn turned(signal: &mut watch::Receiver<bool>) {
    if signal.wait_for(|on| *on).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One exchange under way; released by `Drop`.
#[derive(Debug)]
pub(super) struct Active(Arc<Lifecycle>);

impl Lifecycle {
    /// A proxy that has just begun.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            draining: Arc::new(AtomicBool::new(false)),
            active: AtomicUsize::new(0),
            idle: Notify::new(),
            closing: watch::channel(false).0,
            hanging_up: watch::channel(false).0,
            cut: watch::channel(false).0,
        })
    }

    /// Not ready from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// The flag that says whether headway is on its way out.
    #[must_use]
    pub fn draining(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.draining)
    }

    /// Whether headway is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Listeners stop accepting; connections are closed after their next response.
    pub fn stop_accepting(&self) {
        self.start_draining();
        self.closing.send_replace(true);
    }

    /// The same, and idle connections are closed at once.
    pub fn close(&self) {
        self.stop_accepting();
        self.hanging_up.send_replace(true);
    }

    /// Whether listeners have been told to stop.
    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Turns true when idle connections should be closed.
    pub(super) fn hanging_up(&self) -> watch::Receiver<bool> {
        self.hanging_up.subscribe()
    }

    /// Whatever still runs is ended.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Turns true when listeners should stop.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Whether whatever still runs is being ended.
    pub(super) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Turns true when exchanges should end.
    pub(super) fn cutting(&self) -> watch::Receiver<bool> {
        self.cut.subscribe()
    }

    /// Exchanges under way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active(Arc::clone(self))
    }

    /// Waits until no exchange is under way.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the count is read, so that the last exchange cannot end unnoticed in between.
            idle.as_mut().enable();
            if self.active() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_comes_with_the_last_exchange() {
        let life = Lifecycle::new();
        life.idle().await;
        let (first, second) = (life.begin(), life.begin());
        let waiting = tokio::spawn({
            let life = Arc::clone(&life);
            async move { life.idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert_eq!(life.active(), 0);
    }
}
