//! A panic on the data path costs one request, not its connection's neighbours and not the process.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future whose panic becomes an `Err`.
pub(super) struct Caught<F>(pub(super) Pin<Box<F>>);

/// The future panicked; the panic hook has written where.
#[derive(Debug)]
pub(super) struct Panicked;

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Whatever the future held is dropped with it and not looked at again: nothing half-changed stays visible.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        assert_eq!(Caught(Box::pin(async { 7 })).await.unwrap(), 7);
        let panicking = async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        assert!(Caught(Box::pin(panicking)).await.is_err());
    }
}
