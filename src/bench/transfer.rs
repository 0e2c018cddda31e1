//! A request as HTTP saw it, beside what its events meant: the phases of k6 and of HAR, which AIPerf reports.

use std::time::Duration;

/// Gaps that are kept of one answer; of a longer one none are, since a list cut short would be taken for whole.
const MOST_GAPS: usize = 1 << 18;

/// What was sent and received, and when. Times count from when the request was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Whether the connection had been open before.
    pub reused: bool,
    /// How long looking the name up took.
    pub lookup: Duration,
    /// How long connecting took, TLS included and the look-up not.
    pub connecting: Duration,
    /// When the request was written to the socket.
    pub sent: Option<Duration>,
    /// When the head of the answer was read.
    pub head: Option<Duration>,
    /// When the first bytes of the body were read.
    pub first_byte: Option<Duration>,
    /// When the last bytes of the body were read.
    pub last_byte: Option<Duration>,
    /// Bytes of the request's body.
    pub bytes_sent: u64,
    /// Bytes of the answer's body.
    pub bytes_received: u64,
    /// Pieces in which the body came.
    pub pieces: u64,
}

impl Transfer {
    /// Everything before the request could be written.
    #[must_use]
    pub fn overhead(&self) -> Duration {
        self.lookup.saturating_add(self.connecting)
    }

    /// From the open connection to the request's last byte.
    #[must_use]
    pub fn sending(&self) -> Option<Duration> {
        Some(self.sent?.saturating_sub(self.overhead()))
    }

    /// From the request's last byte to the first of the answer's body.
    #[must_use]
    pub fn waiting(&self) -> Option<Duration> {
        Some(self.first_byte?.saturating_sub(self.sent?))
    }

    /// From the first byte of the answer's body to its last.
    #[must_use]
    pub fn receiving(&self) -> Option<Duration> {
        Some(self.last_byte?.saturating_sub(self.first_byte?))
    }

    /// From the open connection to the last byte of the answer.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.last_byte?.saturating_sub(self.overhead()))
    }

    /// A piece of the body that a read returned at that time.
    pub(super) fn received(&mut self, bytes: usize, at: Duration) {
        self.first_byte.get_or_insert(at);
        self.last_byte = Some(at);
        self.bytes_received += bytes as u64;
        self.pieces += 1;
    }
}

/// Every gap between the content responses of one answer, in order; the histogram of them has no order.
#[derive(Debug, Clone, Default)]
pub struct GapList {
    nanos: Vec<u64>,
    last: Option<Duration>,
    overflown: bool,
}

impl GapList {
    /// So many content responses came with the read of that time: those after the first came at once.
    pub(super) fn responses(&mut self, many: u64, at: Duration) {
        for _ in 0..many {
            if let Some(last) = self.last.replace(at) {
                self.push(at.saturating_sub(last));
            }
        }
    }

    fn push(&mut self, gap: Duration) {
        if self.nanos.len() >= MOST_GAPS {
            self.overflown = true;
        } else {
            self.nanos.push(u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Whether there were more gaps than are kept.
    #[must_use]
    pub fn is_overflown(&self) -> bool {
        self.overflown
    }

    /// The gaps in milliseconds; `None` when there were none, or more than are kept.
    #[allow(clippy::cast_precision_loss, reason = "times are far below 2^53 ns")]
    pub fn ms(&self) -> Option<impl ExactSizeIterator<Item = f64> + '_> {
        let whole = !self.overflown && !self.nanos.is_empty();
        whole.then(|| self.nanos.iter().map(|nanos| *nanos as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_phases_of_a_request_add_up() {
        let mut transfer = Transfer { lookup: ms(2), connecting: ms(3), sent: Some(ms(6)), ..Transfer::default() };
        transfer.received(100, ms(206));
        transfer.received(50, ms(1206));
        let phases = [transfer.sending(), transfer.waiting(), transfer.receiving()];
        assert_eq!(phases, [Some(ms(1)), Some(ms(200)), Some(ms(1000))]);
        assert_eq!((transfer.duration(), transfer.overhead()), (Some(ms(1201)), ms(5)));
        assert_eq!((transfer.bytes_received, transfer.pieces), (150, 2));
        assert_eq!(Transfer::default().waiting(), None);
    }

    #[test]
    fn responses_of_one_read_have_no_gap_between_them() {
        let mut gaps = GapList::default();
        gaps.responses(1, ms(200));
        gaps.responses(0, ms(210));
        gaps.responses(3, ms(220));
        assert_eq!(gaps.ms().expect("gaps").collect::<Vec<_>>(), [20.0, 0.0, 0.0]);
        assert!(GapList::default().ms().is_none());
    }

    #[test]
    fn a_list_that_would_be_cut_short_is_none() {
        let mut gaps = GapList::default();
        gaps.responses(2 + MOST_GAPS as u64, ms(1));
        assert!(gaps.ms().is_none());
    }
}
