use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn content(index: u8) -> String {
    format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\" a\"}},\"finish_reason\":null}}]}}\n\n")
}

fn finish(index: u8) -> String {
    format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n")
}

fn usage(tokens: u64) -> String {
    format!("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}}}\n\n")
}

/// A reader of these texts, each at its milliseconds after the start, not yet finished.
fn at<S: AsRef<str>>(api: Api, texts: &[(u64, S)]) -> (StreamReader, Instant) {
    let start = ManualClock::new().now();
    let mut reader = StreamReader::new(api, start);
    for (millis, text) in texts {
        reader.observe(text.as_ref().as_bytes(), start + ms(*millis));
    }
    (reader, start)
}

#[track_caller]
fn ends(api: Api, text: &str, clean: bool, expected: Outcome) {
    let (mut reader, start) = at(api, &[(1, text)]);
    assert_eq!(reader.ended(), None);
    reader.finish(clean, start);
    assert_eq!(reader.ended(), Some(expected), "{text}");
    reader.finish(!clean, start);
    reader.observe(b"data: {\"error\":{}}\n\n", start);
    assert_eq!(reader.ended(), Some(expected), "finalised once");
}

#[test]
fn latencies_start_at_content_and_end_at_content() {
    let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let texts = [
        (50, ": keep-alive\n\n".to_owned()),
        (100, role.to_owned()),
        (200, content(0)),
        (220, content(0)),
        (280, content(0)),
        (290, finish(0)),
        (330, usage(5)),
        (400, "data: [DONE]\n\n".to_owned()),
    ];
    let (mut reader, start) = at(Api::Chat, &texts);
    reader.finish(true, start + ms(500));
    let latencies = reader.latencies();
    assert_eq!(latencies.first_byte, Some(ms(50)));
    assert_eq!((latencies.first_token, latencies.first_output), (Some(ms(200)), Some(ms(200))));
    assert_eq!((latencies.second_token, latencies.end_to_end), (Some(ms(20)), Some(ms(280))));
    assert_eq!((latencies.inter_token, latencies.longest_stall), (Some(ms(20)), Some(ms(60))));
    assert_eq!(reader.timeline().first_event, Some(start + ms(100)));
    let instants = [reader.first_byte_at(), reader.first_token_at(), reader.last_token_at()];
    assert_eq!(instants, [50, 200, 280].map(|millis| Some(start + ms(millis))));
    assert_eq!(reader.gaps().map(GapHistogram::count), Some(2));
    assert_eq!(reader.usage().input_tokens, Some(3));
    assert!(reader.finish_seen() && reader.done_seen());
}

#[test]
fn several_tokens_per_chunk_are_divided_by_the_tokens_after_the_first_chunk() {
    let chunk = |tokens: u64| content(0).replace("]}", &format!("],\"usage\":{{\"completion_tokens\":{tokens}}}}}"));
    let (reader, _) = at(Api::Chat, &[(80, chunk(4)), (160, chunk(8)), (240, chunk(12))]);
    assert_eq!(reader.first_event_tokens(), Some(4));
    assert_eq!(reader.latencies().inter_token, Some(ms(160) / 11));
    assert_eq!(reader.latencies_per_chunk_usage().inter_token, Some(ms(20)));
}

#[test]
fn one_token_has_no_inter_token_latency() {
    let (reader, _) = at(Api::Chat, &[(80, content(0)), (90, finish(0)), (91, usage(1))]);
    assert_eq!(reader.latencies().inter_token, None);
    assert_eq!(reader.latencies().end_to_end, Some(ms(80)));
    assert!(reader.gaps().is_none());
}

#[test]
fn choices_have_clocks_of_their_own() {
    let (reader, _) = at(
        Api::Chat,
        &[(10, content(0)), (15, content(1)), (30, content(0)), (45, content(1)), (50, finish(0)), (51, usage(4))],
    );
    let latencies = reader.latencies();
    assert_eq!((latencies.inter_token, latencies.second_token), (None, None));
    assert_eq!(latencies.longest_stall, Some(ms(30)));
    assert_eq!(reader.gaps().map(GapHistogram::sum), Some(ms(50)));
    assert_eq!(reader.choices_seen(), 2);
    assert!(!reader.finish_seen());
    assert_eq!(reader.finish_reason(), Some(FinishReason::Stop));
}

#[test]
fn gaps_under_back_pressure_are_not_counted() {
    let (mut reader, start) = at(Api::Chat, &[(10, content(0)), (20, content(0))]);
    reader.suspend_gaps();
    reader.observe(content(0).as_bytes(), start + ms(900));
    assert_eq!(reader.gaps().map(GapHistogram::count), Some(1));
    assert_eq!(reader.latencies().longest_stall, Some(ms(10)));
    assert_eq!(reader.latencies().end_to_end, Some(ms(900)));
    assert_eq!(reader.into_gaps().map(|gaps| gaps.sum()), Some(ms(10)));
}

#[test]
fn how_a_stream_ends_follows_from_what_was_seen() {
    let whole = format!("{}{}", content(0), finish(0));
    let done = "data: [DONE]\n\n";
    ends(Api::Chat, &whole, true, Outcome::Complete);
    ends(Api::Chat, &whole, false, Outcome::Truncated);
    ends(Api::Chat, &format!("{whole}{done}"), false, Outcome::Complete);
    ends(Api::Chat, &finish(0), true, Outcome::Complete);
    ends(Api::Chat, &format!("{}{done}", content(0)), true, Outcome::Truncated);
    ends(Api::Chat, &format!("{}{}", content(1), whole), true, Outcome::Truncated);
    ends(Api::Chat, done, true, Outcome::Empty);
    ends(Api::Chat, "", true, Outcome::Empty);
    ends(Api::Chat, "", false, Outcome::Truncated);
    ends(Api::Chat, &format!("{whole}data: {{\n\n{done}"), true, Outcome::Truncated);
    ends(Api::Chat, &format!("{whole}data: {{\"error\":{{\"code\":500}}}}\n\n{done}"), true, Outcome::UpstreamError);
    ends(Api::Messages, "data: {\"type\":\"message_stop\"}\n\n", false, Outcome::Complete);
    ends(Api::Messages, "data: {\"type\":\"ping\"}\n\n", true, Outcome::Empty);
    ends(Api::GenerateStream, "data: {\"text_output\":\"a\"}\n\n", true, Outcome::Complete);
    ends(Api::GenerateStream, "data: {\"text_output\":\"a\"}\n\n", false, Outcome::Truncated);
    ends(Api::GenerateStream, "", true, Outcome::Empty);
}

#[test]
fn whole_texts_count_where_there_were_no_deltas() {
    let event = |kind: &str, key: &str| format!("data: {{\"type\":\"response.{kind}\",\"{key}\":\"a\"}}\n\n");
    let (delta, done) = (event("output_text.delta", "delta"), event("output_text.done", "text"));
    let reasoning = event("reasoning_text.delta", "delta");
    assert_eq!(at(Api::Responses, &[(1, delta), (2, done.clone())]).0.content_responses(), 1);
    assert_eq!(at(Api::Responses, &[(1, reasoning), (2, done)]).0.content_responses(), 2);
}

#[test]
fn marks_set_usage_events_apart_from_the_rest() {
    let stream = format!(": c\n\n{}{}{}data: [DONE]\n\n{}", content(0), finish(0), usage(2), "data: x");
    let (reader, _) = at(Api::Chat, &[(1, stream.as_str())]);
    let ends = [&usage(2), "data: [DONE]"].map(|text| stream.find(text).unwrap());
    assert_eq!(
        reader.marks(),
        [
            EventMark { end: ends[0], usage_only: false, finish_seen: true },
            EventMark { end: ends[1], usage_only: true, finish_seen: true },
            EventMark { end: stream.len() - 7, usage_only: false, finish_seen: true },
        ]
    );
    assert!(!reader.at_event_boundary());
    let (reader, _) = at(Api::Chat, &[(1, usage(1).repeat(1000))]);
    assert!(reader.marks().len() <= MAX_MARKS);
    assert_eq!(
        reader.marks().last(),
        Some(&EventMark { end: usage(1).len() * 1000, usage_only: false, finish_seen: false })
    );
}

#[test]
fn what_could_not_be_read_is_counted() {
    let counted = |texts: &[&str]| {
        let (reader, _) = at(Api::Chat, &[(1, texts.concat())]);
        (reader.events(), reader.comments(), reader.malformed_events(), reader.skipped_events())
    };
    let (good, comment) = (content(0), ": keep-alive\n\n");
    assert_eq!(counted(&[&good, &good, comment]), (2, 1, 0, 0));
    assert_eq!(counted(&["data: {\n\n", &good, "data: no\n\n", "data: x\n\n"]), (4, 0, 3, 0));
}

#[test]
fn a_reader_is_small() {
    let gaps = size_of::<GapHistogram>();
    assert!(size_of::<StreamReader>() + gaps < 5 << 10, "{} + {gaps}", size_of::<StreamReader>());
}

proptest! {
    #[test]
    fn observing_never_fails(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..60, api in prop::sample::select(&Api::ALL[..])) {
        let now = ManualClock::new().now();
        let mut reader = StreamReader::new(api, now);
        for part in bytes.chunks(size) {
            reader.observe(part, now);
            prop_assert!(reader.marks().iter().all(|mark| mark.end <= part.len()));
        }
        reader.finish(true, now);
        prop_assert!(reader.ended().is_some());
    }
}
