use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(api: Api, body: &str) -> RequestReading {
    RequestReading::read(api, body.as_bytes()).expect(body)
}

#[track_caller]
fn refused(body: &str, expected: &str, param: Option<&str>) {
    let error = RequestReading::read(Api::Chat, body.as_bytes()).expect_err(body);
    assert_eq!((error.to_string().as_str(), error.param()), (expected, param), "{body}");
}

#[test]
fn a_chat_request_is_read_once() {
    let body = r#"{"model":"meta/llama","stream":true,"n":2,"max_tokens":9,"max_completion_tokens":100,
        "messages":[{"role":"system","content":"été"},{"role":"user","content":[{"type":"text","text":"a\nb"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],
        "tools":[{"type":"function"}],"response_format":{"type":"json_schema"},"stream_options":{"include_usage":true}}"#;
    let reading = read(Api::Chat, body);
    assert_eq!(reading.model.as_deref(), Some("meta/llama"));
    assert_eq!(&body[reading.model_span.clone().unwrap()], "\"meta/llama\"");
    assert_eq!((reading.stream, reading.choices, reading.max_tokens), (true, 2, Some(100)));
    assert_eq!(reading.include_usage, IncludeUsage::Asked);
    assert_eq!(reading.ask_for_usage(), None);
    assert_eq!(reading.prompt_bytes, 5 + 3);
    assert_eq!(reading.features, Features { tools: true, vision: true, structured_output: true });
}

#[test]
fn each_dialect_has_its_own_prompt_and_limit() {
    let prompt = |api, body: &str| read(api, body).prompt_bytes;
    assert_eq!(prompt(Api::Completions, r#"{"prompt":["abc","d"]}"#), 4);
    assert_eq!(prompt(Api::Completions, r#"{"prompt":[[1,2],[3]]}"#), 12);
    assert_eq!(prompt(Api::Responses, r#"{"input":"abc","instructions":"de"}"#), 5);
    assert_eq!(
        prompt(Api::Responses, r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"abc"}]}]}"#),
        3
    );
    assert_eq!(prompt(Api::Messages, r#"{"system":"ab","messages":[{"role":"user","content":"cd"}]}"#), 4);
    assert_eq!(prompt(Api::Embeddings, r#"{"input":["ab","c"]}"#), 3);
    assert_eq!(prompt(Api::Ranking, r#"{"query":{"text":"ab"},"passages":[{"text":"cde"}]}"#), 5);
    let triton = read(Api::GenerateStream, r#"{"text_input":"abcd","max_tokens":7}"#);
    assert_eq!((triton.stream, triton.prompt_bytes, triton.max_tokens), (true, 4, Some(7)));
    let responses = read(Api::Responses, r#"{"max_output_tokens":5,"max_tokens":9,"previous_response_id":"resp_1"}"#);
    assert_eq!((responses.max_tokens, responses.previous_response), (Some(5), Some(StoredId::of(b"resp_1"))));
    assert!(
        read(Api::Messages, r#"{"messages":[{"content":[{"type":"image","source":{"data":"AA"}}]}]}"#).features.vision
    );
    assert!(read(Api::Responses, r#"{"text":{"format":{"type":"json_schema"}}}"#).features.structured_output);
    assert!(!read(Api::Chat, r#"{"response_format":{"type":"text"},"tools":[]}"#).features.structured_output);
}

#[test]
fn as_many_answers_are_made_as_are_asked_for() {
    let answers = |body: &str| read(Api::Completions, body).answers;
    assert_eq!(answers("{}"), 1);
    assert_eq!(answers(r#"{"prompt":"a","n":3}"#), 3);
    assert_eq!(answers(r#"{"prompt":["a","b"],"n":3}"#), 6);
    assert_eq!(answers(r#"{"prompt":[1,2,3],"n":2,"best_of":5}"#), 5);
    assert_eq!(answers(r#"{"prompt":[[1],[2,3]],"best_of":0}"#), 2);
    assert_eq!(answers(r#"{"prompt":[],"n":0}"#), 1);
    assert_eq!(read(Api::Embeddings, r#"{"input":["a","b"]}"#).answers, 1);
    let huge = format!("{{\"n\":{0},\"prompt\":[\"a\",\"b\"]}}", u64::MAX);
    assert_eq!(answers(&huge), u64::from(u32::MAX) * 2);
}

#[test]
fn the_largest_bound_of_an_answer_counts_and_a_zero_is_none() {
    let most = |body: &str| read(Api::Chat, body).max_tokens;
    assert_eq!(most(r#"{"max_tokens":9}"#), Some(9));
    assert_eq!(most(r#"{"max_completion_tokens":5,"max_tokens":9}"#), Some(9));
    assert_eq!(most(r#"{"max_completion_tokens":9,"max_tokens":5}"#), Some(9));
    assert_eq!(most(r#"{"max_completion_tokens":0,"max_tokens":9}"#), Some(9));
    assert_eq!(most(r#"{"max_completion_tokens":0}"#), None);
    assert_eq!(most(r#"{"max_tokens":0}"#), Some(0));
    assert_eq!(most(r#"{"max_tokens":-1}"#), None);
    assert_eq!(most(r#"{"max_tokens":-1,"max_completion_tokens":9}"#), Some(9));
}

#[test]
fn what_makes_tokens_beside_the_text_is_noticed() {
    let uncounted = |api, body: &str| read(api, body).uncounted;
    let part = |part: &str| uncounted(Api::Chat, &format!("{{\"messages\":[{{\"content\":[{part}]}}]}}"));
    assert!(!part(r#"{"type":"text","text":"a"}"#));
    for other in ["image_url", "input_audio", "file", "video_url", "tool_use", "anything"] {
        assert!(part(&format!("{{\"type\":\"{other}\"}}")), "{other}");
    }
    assert!(part(r#"{"image_url":{"url":"https://a"}}"#) && part(r#"{"type":"text","text":"data:a"}"#));
    assert!(!uncounted(Api::Chat, r#"{"messages":[{"role":"user","content":"a"}],"tools":[],"documents":null}"#));
    assert!(uncounted(Api::Chat, r#"{"messages":[],"tools":[{}]}"#));
    assert!(uncounted(Api::Responses, r#"{"input":"a","previous_response_id":"resp_1"}"#));
    assert!(uncounted(Api::Responses, r#"{"prompt":{"id":"p"}}"#) && !uncounted(Api::Completions, r#"{"prompt":"a"}"#));
    assert!(uncounted(Api::Completions, r#"{"prompt":"a","truncate_prompt_tokens":1}"#));
}

#[test]
fn what_is_wrong_is_named_and_never_quoted() {
    refused(r#"{"model":"m","messages":["#, "the body is not valid JSON (byte 25)", None);
    refused("[1]", "the body is not a JSON object", None);
    refused(r#"{"model":7}"#, "`model` must be a string", Some("model"));
    refused(r#"{"model":null}"#, "`model` must be a string", Some("model"));
    refused(r#"{"stream":"yes"}"#, "`stream` must be true or false", Some("stream"));
    refused(r#"{"n":-1}"#, "`n` must be a whole number", Some("n"));
    refused(r#"{"max_tokens":-1.5}"#, "`max_tokens` must be a whole number", Some("max_tokens"));
    refused(r#"{"max_tokens":"10"}"#, "`max_tokens` must be a whole number", Some("max_tokens"));
    refused(r#"{"stream_options":[]}"#, "`stream_options` must be an object", Some("stream_options"));
    refused(
        r#"{"stream_options":{"include_usage":1}}"#,
        "`stream_options.include_usage` must be true or false",
        Some("stream_options.include_usage"),
    );
    refused(r#"{"model":"a","mod\u0065l":"b"}"#, "`model` is given twice", Some("model"));
    // The first fault that is no JSON wins over an earlier field of the wrong type.
    refused(r#"{"n":-1"#, "the body is not valid JSON (byte 7)", None);
    refused(&"[".repeat(100_000), "the body is not valid JSON (byte 127)", None);
    refused(
        &format!("{{\"messages\":{}", "[{\"content\":".repeat(100_000)),
        "the body is not valid JSON (byte 768)",
        None,
    );
}

#[track_caller]
fn spliced(body: &str, expected: &str) {
    let reading = read(Api::Chat, body);
    let edits: Vec<Edit> = [reading.ask_for_usage(), reading.rename("new \"name\"")].into_iter().flatten().collect();
    assert_eq!(String::from_utf8(splice(body.as_bytes(), &edits)).unwrap(), expected);
}

#[test]
fn usage_is_asked_for_wherever_it_is_missing() {
    spliced("{}", r#"{"stream_options":{"include_usage":true}}"#);
    spliced(r#" { "stream":true}"#, r#" {"stream_options":{"include_usage":true}, "stream":true}"#);
    spliced(r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#);
    spliced(r#"{"stream_options":{ }}"#, r#"{"stream_options":{"include_usage":true }}"#);
    spliced(r#"{"stream_options":{"x":1}}"#, r#"{"stream_options":{"include_usage":true,"x":1}}"#);
    spliced(
        r#"{"stream_options":{"x":1,"include_usage": false }}"#,
        r#"{"stream_options":{"x":1,"include_usage": true }}"#,
    );
    spliced(
        r#"{"stream_options":{"include_usage":true},"a":1.50}"#,
        r#"{"stream_options":{"include_usage":true},"a":1.50}"#,
    );
}

#[test]
fn the_model_is_renamed_and_every_other_byte_stays() {
    spliced(
        r#"{"a" : 1e2,"model" : "old" ,"stream_options":{"include_usage":true}}"#,
        r#"{"a" : 1e2,"model" : "new \"name\"" ,"stream_options":{"include_usage":true}}"#,
    );
}

#[test]
fn edits_that_do_not_fit_are_left_out() {
    let edit = |span, text: &str| Edit { span, text: text.into() };
    assert_eq!(splice(b"abc", &[edit(5..6, "x"), edit(1..2, "B"), edit(0..2, "?")]), b"?c");
    #[allow(clippy::reversed_empty_ranges, reason = "that is the point")]
    let reversed = edit(2..1, "x");
    assert_eq!(splice(b"abc", &[reversed]), b"abc");
}

fn options() -> impl Strategy<Value = Option<Value>> {
    prop::option::of(prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({"continuous_usage_stats": true})),
        Just(json!({"include_usage": null, "x": 1})),
        Just(json!({"x": [1], "include_usage": false})),
        Just(json!({"include_usage": true})),
    ])
}

proptest! {
    #[test]
    fn only_what_was_spliced_differs(
        model in prop::option::of(any::<String>()),
        name in any::<String>(),
        options in options(),
        others in prop::collection::btree_map("[a-l]{1,3}", any::<String>(), 0..5),
        pretty in any::<bool>(),
    ) {
        let mut request = serde_json::Map::new();
        request.extend(others.into_iter().map(|(key, text)| (key, Value::from(text))));
        request.extend(model.map(|model| ("model".to_owned(), model.into())));
        request.extend(options.map(|options| ("stream_options".to_owned(), options)));
        let before = Value::Object(request);
        let body = if pretty { serde_json::to_vec_pretty(&before) } else { serde_json::to_vec(&before) }.unwrap();
        let reading = RequestReading::read(Api::Chat, &body).unwrap();
        let edits: Vec<Edit> = [reading.rename(&name), reading.ask_for_usage()].into_iter().flatten().collect();
        let mut expected = before;
        if expected.get("model").is_some() {
            expected["model"] = name.into();
        }
        if expected.get("stream_options").is_none_or(Value::is_null) {
            expected["stream_options"] = json!({});
        }
        expected["stream_options"]["include_usage"] = true.into();
        let after = splice(&body, &edits);
        prop_assert_eq!(serde_json::from_slice::<Value>(&after).unwrap(), expected);
        prop_assert_eq!(RequestReading::read(Api::Chat, &after).unwrap().include_usage, IncludeUsage::Asked);
    }

    #[test]
    fn no_bytes_whatever_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        for api in Api::ALL {
            let _ = RequestReading::read(api, &body);
            let sample = br#"{"model":"m","messages":[{"content":[{"text":"\u00e9"}]}],"stream_options":{"include_usage":null}}"#;
            let _ = RequestReading::read(api, &sample[..cut.index(sample.len())]);
        }
    }
}

#[track_caller]
fn check_text(api: Api, body: &str, expected: &str) {
    let mut text = Vec::new();
    read(api, body).prompt_text.feed(body.as_bytes(), |part| text.extend_from_slice(part));
    assert_eq!(String::from_utf8(text).unwrap(), expected.replace('|', "\u{1f}"), "{body}");
}

#[test]
fn the_text_of_a_prompt_is_canonical_however_it_is_written() {
    let expected = "system|été|user|a\nb|";
    let plain = r#"{"messages":[{"role":"system","content":"été"},{"role":"user","content":"a\nb"}]}"#;
    let escaped = r#"{"n":1, "messages" : [{"role":"system","content":"\u00e9t\u00e9"},
        {"role":"user","content":[{"type":"text","text":"a\u000ab"},{"type":"image_url","image_url":{"url":"data:x"}}]}]}"#;
    check_text(Api::Chat, plain, expected);
    check_text(Api::Chat, escaped, expected);
    check_text(Api::Completions, r#"{"prompt":["abc","data:d","e"],"suffix":"f"}"#, "abc|e|");
    check_text(Api::Messages, r#"{"system":"ab","messages":[{"role":"user","content":"cd"}]}"#, "ab|user|cd|");
}

#[track_caller]
fn check_ids(prompt: &str, expected: &[&[u32]]) {
    let body = format!("{{\"prompt\":{prompt}}}");
    let mut text = Vec::new();
    read(Api::Completions, &body).prompt_text.feed(body.as_bytes(), |part| text.extend_from_slice(part));
    let list = |ids: &&[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).chain([0x1f]).collect::<Vec<_>>();
    assert_eq!(text, expected.iter().flat_map(list).collect::<Vec<_>>(), "{prompt}");
}

#[test]
fn token_ids_are_four_bytes_each_however_they_are_written() {
    check_ids("[1,128000,4294967295]", &[&[1, 128_000, u32::MAX]]);
    check_ids("[ 1 ,\n128000 , 4294967295 ]", &[&[1, 128_000, u32::MAX]]);
    check_ids("[[1,2],[],[3]]", &[&[1, 2], &[3]]);
    let many: Vec<u32> = (0..1000).collect();
    check_ids(&format!("{many:?}"), &[&many]);
    let body = format!("{{\"prompt\":{many:?}}}");
    assert_eq!(read(Api::Completions, &body).prompt_bytes, 4_000, "as many as are fed");
    check_text(Api::Completions, r#"{"prompt":["a",7,"b"]}"#, "a|\u{7}\0\0\0|b|");
}
