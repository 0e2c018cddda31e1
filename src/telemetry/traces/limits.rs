//! How much a span may hold, where the environment wants less than there is.
//!
//! What does not fit is left out and counted in the span, as
//! <https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-limits> has it.

use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use crate::config::otlp::SpanLimits;

/// Leaves out of a span what goes beyond the limits.
pub(super) fn hold(span: &mut SpanData, limits: SpanLimits) {
    span.dropped_attributes_count = cut(&mut span.attributes, limits.attributes);
    span.attributes.iter_mut().for_each(|one| shorten(one, limits.text));
    span.events.dropped_count = cut(&mut span.events.events, limits.events);
    for event in &mut span.events.events {
        event.dropped_attributes_count = cut(&mut event.attributes, limits.event_attributes);
        event.attributes.iter_mut().for_each(|one| shorten(one, limits.text));
    }
}

/// Leaves the first of them; how many went.
fn cut<T>(all: &mut Vec<T>, most: usize) -> u32 {
    let beyond = all.len().saturating_sub(most);
    all.truncate(most);
    u32::try_from(beyond).unwrap_or(u32::MAX)
}

/// Lists hold names of few characters and stay whole.
fn shorten(attribute: &mut KeyValue, most: usize) {
    if let Value::String(text) = &attribute.value
        && let Some((end, _)) = text.as_str().char_indices().nth(most)
    {
        let short = text.as_str().get(..end).unwrap_or_default().to_owned();
        attribute.value = Value::String(short.into());
    }
}
