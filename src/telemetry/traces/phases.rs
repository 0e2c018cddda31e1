//! Where an exchange's time went, as stretches of it: the bars of a trace's waterfall.
//!
//! Every stretch lies between two instants that headway saw itself. The engine's own times have lengths only; they are
//! laid so that they end with the first token, and what they leave of the wait before them is everything between
//! headway and the engine: network, the server's HTTP layer, another proxy.

use std::time::Duration;

use super::names;
use crate::measure::exchange::{Attempt, ExchangeRecord};

/// What a stretch is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The exchange itself.
    Exchange,
    /// The try at this place.
    Try(usize),
    /// The stretch before it.
    Previous,
}

/// One stretch; offsets are from the request being complete, the upload's from the head being complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The name in spans.
    pub name: &'static str,
    /// What it is a part of.
    pub within: Within,
    /// Where it begins.
    pub from: Duration,
    /// Where it ends, which is never before.
    pub to: Duration,
    /// How much of it counts, where that is not all.
    pub pending: Option<Duration>,
    /// When the head of the answer came, where that lies within.
    pub head: Option<Duration>,
    /// Whether the engine told how much of it was its own.
    pub told: bool,
}

/// Most stretches of an exchange: its own, and those of each try.
const OWN: usize = 5;
const PER_TRY: usize = 7;

/// All stretches but the upload, which lies before the request was complete.
pub fn phases(record: &ExchangeRecord) -> Vec<Phase> {
    let mut phases = Vec::with_capacity(OWN + PER_TRY * record.attempts.len());
    each(record, &mut |phase| phases.push(phase));
    phases
}

/// How many [`phases`] there are: counted on the data path, where nothing is kept of them.
pub(super) fn count(record: &ExchangeRecord) -> usize {
    let mut phases = 0;
    each(record, &mut |_| phases += 1);
    phases
}

fn each(record: &ExchangeRecord, add: &mut impl FnMut(Phase)) {
    own(record, add);
    for (place, attempt) in record.attempts.iter().enumerate() {
        of_try(record, (place, attempt), add);
    }
    if let Some((from, to)) = record.course.blocked {
        let pending = Some(record.phases.backpressure);
        add(Phase { pending, ..phase(names::BACKPRESSURE, Within::Exchange, from, to) });
    }
}

fn phase(name: &'static str, within: Within, from: Duration, to: Duration) -> Phase {
    Phase { name, within, from, to: to.max(from), pending: None, head: None, told: false }
}

/// Until the first try began: headway's own time, and the wait for a place.
fn own(record: &ExchangeRecord, add: &mut impl FnMut(Phase)) {
    let until = record.attempts.first().map_or(record.course.ended, |first| first.course.began);
    let (queued, waited) = (record.course.queued, record.phases.queue);
    if waited.is_zero() {
        return add(phase(names::OWN, Within::Exchange, Duration::ZERO, until));
    }
    let served = queued + waited;
    add(phase(names::OWN, Within::Exchange, Duration::ZERO, queued));
    add(phase(names::QUEUE, Within::Exchange, queued, served));
    add(phase(names::OWN, Within::Exchange, served, until));
}

fn of_try(record: &ExchangeRecord, (place, attempt): (usize, &Attempt), add: &mut impl FnMut(Phase)) {
    let course = &attempt.course;
    let ended = course.began + attempt.duration;
    let within = Within::Try(place);
    let Some(connecting) = course.connecting else { return };
    add(phase(names::CONNECT, within, connecting, course.connected.unwrap_or(ended)));
    let Some(connected) = course.connected else { return };
    add(phase(names::SEND, within, connected, course.sent.unwrap_or(ended)));
    let Some(sent) = course.sent else { return };
    // What a stream is waited for is its first token; of any other answer it is the head.
    let answered = course.first_token.or(course.head.filter(|_| !record.stream || course.last_token.is_some()));
    let wait = phase(names::WAIT, within, sent, answered.unwrap_or(ended));
    let engine = record.engine.filter(|engine| {
        let answered = place + 1 == record.attempts.len() && course.first_token.is_some();
        answered && engine.told() <= wait.to.saturating_sub(wait.from)
    });
    let head = course.head.filter(|head| *head <= wait.to);
    add(Phase { head, told: engine.is_some(), ..wait });
    let Some(answered) = answered else { return };
    if let Some(engine) = engine {
        let arrived = answered.saturating_sub(engine.told());
        let begun = answered.saturating_sub(engine.prefill);
        if engine.queue.is_some() {
            add(phase(names::ENGINE_QUEUE, Within::Previous, arrived, begun));
        }
        add(phase(names::ENGINE_PREFILL, Within::Previous, begun, answered));
    }
    if let Some(last) = course.last_token {
        let name = if course.first_token.is_some() { names::DECODE } else { names::BODY };
        add(phase(name, within, answered, last));
    }
}
