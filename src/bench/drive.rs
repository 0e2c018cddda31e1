//! Sends what a schedule plans, at its times, and passes on what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{Call, Client};
use super::record::{Phase, RequestRecord};
use super::request::RequestBuilder;
use super::schedule::{Planned, Schedule};
use crate::clock::Clock;

/// Requests under way at most in an open loop; beyond, they are sent late, and their lag says so.
const MOST_UNDER_WAY: usize = 16_384;

/// One stream of requests.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// When and how long.
    pub schedule: Schedule,
    /// What.
    pub builder: RequestBuilder,
    /// Which part of a run it is.
    pub phase: Phase,
    /// What kind of traffic it is.
    pub label: &'static str,
    /// Headers on its requests.
    pub headers: HeaderMap,
    /// What its request ids begin with; a run's own, so that the ids are unique.
    pub id_prefix: String,
}

/// Sends it all and waits for every answer. Records go to `records` in the order in which answers ended; when nobody
/// takes them any more, or this future is dropped, what is under way is cancelled.
///
/// A closed loop with a time limit stops sending at that time.
pub async fn drive(
    client: Arc<Client>,
    mut traffic: Traffic,
    clock: Arc<dyn Clock>,
    run_start: Instant,
    records: mpsc::Sender<RequestRecord>,
) {
    let places = traffic.schedule.concurrency().unwrap_or(MOST_UNDER_WAY);
    let until = traffic.schedule.limit().duration.map(|duration| run_start + duration);
    let mut next = traffic.schedule.next();
    let mut under_way = JoinSet::new();
    loop {
        let now = clock.now();
        if until.is_some_and(|until| now >= until) {
            next = None;
        }
        if let Some(planned) = next.filter(|_| under_way.len() < places) {
            let due = run_start + planned.at;
            if due <= now {
                let due = traffic.schedule.concurrency().is_none().then_some(planned.at);
                under_way.spawn(send(Arc::clone(&client), traffic.call(&planned), due, run_start));
                next = traffic.schedule.next();
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(due - now) => continue,
                Some(ended) = under_way.join_next(), if !under_way.is_empty() => {
                    if !pass_on(ended, &records).await { return }
                }
            }
            continue;
        }
        match under_way.join_next().await {
            Some(ended) => {
                if !pass_on(ended, &records).await {
                    return;
                }
            }
            None => return,
        }
    }
}

impl Traffic {
    fn call(&self, planned: &Planned) -> Call {
        Call {
            index: planned.index,
            request_id: format!("{}-{}", self.id_prefix, planned.index),
            phase: self.phase,
            label: self.label,
            api: self.builder.api(),
            stream: self.builder.stream(),
            body: self.builder.body(planned),
            input_tokens: planned.input_tokens,
            output_tokens: planned.output_tokens,
            headers: self.headers.clone(),
        }
    }
}

async fn send(client: Arc<Client>, call: Call, due: Option<Duration>, run_start: Instant) -> RequestRecord {
    let mut record = client.measure(call, run_start).await;
    if let Some(due) = due {
        record.count_from_schedule(due);
    }
    record
}

/// Whether someone took the record.
async fn pass_on(ended: Result<RequestRecord, tokio::task::JoinError>, records: &mpsc::Sender<RequestRecord>) -> bool {
    match ended {
        Ok(record) => records.send(record).await.is_ok(),
        // A task that panicked leaves no record; the others go on.
        Err(_) => true,
    }
}
