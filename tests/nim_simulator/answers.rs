//! Every API answers in the shape of vLLM and Triton.

use serde_json::{Value, json};

use crate::client::*;
use crate::recorded::*;

#[tokio::test]
async fn a_chat_stream_has_the_shape_of_vllm_with_one_chunk_for_each_event() {
    let simulator = start(options()).await;
    let reply =
        post(&simulator, "/v1/chat/completions", chat(&json!({ "stream_options": { "include_usage": true } }))).await;
    check_shapes(&reply, &[ROLE, CONTENT, LAST, USAGE, "[DONE]"]);
    assert!(reply.head.contains("content-type: text/event-stream; charset=utf-8"), "{}", reply.head);
    assert!(reply.head.contains("x-request-id: req-7"), "{}", reply.head);
    assert_eq!((reply.chunks.len(), reply.content_tokens()), (1 + 12 + 2, 12));
    assert!(reply.chunks.iter().all(|chunk| chunk.ends_with(b"\n\n")));

    let plain = post(&simulator, "/v1/chat/completions", chat(&json!({}))).await;
    check_shapes(&plain, &[ROLE, CONTENT, LAST_WITHOUT_USAGE, "[DONE]"]);
    let record = truth(&simulator, |record| record.tokens == 12).await;
    assert_eq!(record.x_request_id.as_deref(), Some("req-7"));
    assert_eq!((record.outcome, record.status, record.prompt_tokens, record.stream), ("completed", 200, 6, true));
}

#[tokio::test]
async fn continuous_usage_counts_up_on_every_chunk() {
    let simulator = start(options()).await;
    let usage = json!({ "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(&usage)).await;
    check_shapes(&reply, &[ROLE_WITH_USAGE, CONTENT_WITH_USAGE, LAST_WITH_USAGE, USAGE, "[DONE]"]);
    let counts: Vec<u64> = reply
        .data()
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok()?["usage"]["completion_tokens"].as_u64())
        .collect();
    assert_eq!(counts, (0..=12).chain([12]).collect::<Vec<_>>());
}

#[tokio::test]
async fn several_choices_share_one_stream_and_one_usage() {
    let simulator = start(options()).await;
    let more = json!({ "n": 2, "stream_options": { "include_usage": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(&more)).await;
    let events: Vec<Value> = reply.data().iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    for index in 0..2 {
        let of_choice = events.iter().filter(|event| event["choices"][0]["index"] == index);
        assert_eq!(of_choice.count(), 13, "a role and 12 tokens of choice {index}");
    }
    assert!(events[..2].iter().all(|event| event["choices"][0]["delta"]["role"] == "assistant"));
    assert_eq!(events.last().expect("usage")["usage"]["completion_tokens"], 24);
}

#[tokio::test]
async fn reasoning_comes_first_where_it_is_asked_for() {
    let simulator = start(options()).await;
    for more in [json!({ "chat_template_kwargs": { "enable_thinking": true } }), json!({ "model": "tiny-reason" })] {
        let reply = post(&simulator, "/v1/chat/completions", chat(&more)).await;
        check_shapes(&reply, &[ROLE, REASONING, CONTENT, LAST_WITHOUT_USAGE, "[DONE]"]);
        assert_eq!(reply.data().iter().filter(|data| data.contains("\"reasoning\":")).count(), 4);
    }
}

#[tokio::test]
async fn a_required_tool_is_called_in_pieces() {
    let simulator = start(options()).await;
    let tools = json!([{ "type": "function", "function": { "name": "get_weather" } }]);
    let more = json!({ "tools": tools, "tool_choice": "required", "stream_options": { "include_usage": true } });
    let reply = post(&simulator, "/v1/chat/completions", chat(&more)).await;
    check_shapes(&reply, &[ROLE, TOOL_NAME, TOOL_ARGUMENTS, TOOL_LAST, USAGE, "[DONE]"]);

    let natural = json!({ "tools": tools, "tool_choice": "required", "max_tokens": null, "stream": false });
    let reply = post(&simulator, "/v1/chat/completions", chat(&natural)).await.json();
    let call = &reply["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((&call["name"], &reply["choices"][0]["finish_reason"]), (&json!("get_weather"), &json!("tool_calls")));
    let arguments = call["arguments"].as_str().expect("a text");
    assert!(serde_json::from_str::<Value>(arguments).expect("JSON").is_object(), "{arguments}");
}

#[tokio::test]
async fn an_answer_that_ends_by_itself_ends_with_an_empty_token() {
    let simulator = start(options()).await;
    let reply =
        post(&simulator, "/v1/chat/completions", chat(&json!({ "ignore_eos": false, "max_tokens": 4000 }))).await;
    let last: Value = serde_json::from_str(&reply.data()[reply.data().len() - 2]).expect("JSON");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({ "content": "" }));
    let again =
        post(&simulator, "/v1/chat/completions", chat(&json!({ "ignore_eos": false, "max_tokens": 4000 }))).await;
    assert_eq!(reply.content_tokens(), again.content_tokens(), "the length follows from the prompt and the seed");
}

#[tokio::test]
async fn every_other_api_has_the_shape_of_vllm() {
    let simulator = start(options()).await;
    let usage = json!({ "include_usage": true });
    let body = json!({ "model": "tiny", "prompt": "Once", "stream": true, "max_tokens": 8, "ignore_eos": true, "stream_options": usage });
    check_shapes(&post(&simulator, "/v1/completions", body).await, COMPLETION);

    let messages = json!([{ "role": "user", "content": "Tell me about trains." }]);
    let body = json!({ "model": "tiny", "messages": messages, "stream": true, "max_tokens": 8, "ignore_eos": true });
    let reply = post(&simulator, "/v1/messages", body).await;
    check_shapes(&reply, MESSAGE);
    assert!(reply.body().starts_with("event: message_start\ndata: {"));

    let body =
        json!({ "model": "tiny-reason", "messages": messages, "stream": true, "max_tokens": 9, "ignore_eos": true });
    let data = post(&simulator, "/v1/messages", body).await.data();
    assert_eq!(shapes(data[1..].iter().map(String::as_str))[..4], shapes(THINKING.iter().copied()));

    let body =
        json!({ "model": "tiny", "input": "Tell me.", "stream": true, "max_output_tokens": 16, "ignore_eos": true });
    let reply = post(&simulator, "/v1/responses", body).await;
    check_shapes(&reply, RESPONSE);
    let types: Vec<Value> =
        reply.data().iter().map(|data| serde_json::from_str::<Value>(data).expect("JSON")["type"].clone()).collect();
    assert_eq!(types[..2], ["response.created", "response.in_progress"]);
    assert_eq!(types.iter().filter(|kind| **kind == "response.output_text.delta").count(), 16);

    let body = json!({ "model": "tiny-reason", "input": "Tell me.", "stream": true, "max_output_tokens": 16, "ignore_eos": true });
    let data = post(&simulator, "/v1/responses", body).await.data();
    assert_eq!(shapes(data[2..].iter().map(String::as_str))[..6], shapes(RESPONSE_REASONING.iter().copied()));
}

#[tokio::test]
async fn triton_streams_text_and_ends_without_a_mark() {
    let simulator = start(options()).await;
    let body = json!({ "text_input": "Once", "max_tokens": 5, "ignore_eos": true, "stream": true });
    let reply = post(&simulator, "/v2/models/tiny/generate_stream", body.clone()).await;
    check_shapes(&reply, &[r#"{"model_name":"ensemble","model_version":"1","text_output":" the"}"#]);
    assert_eq!(reply.data().len(), 5);
    let whole = post(&simulator, "/v2/models/tiny/generate", body).await.json();
    assert!(whole["text_output"].as_str().expect("a text").len() > 4);
    let unknown = post(&simulator, "/v2/models/nope/generate_stream", json!({ "text_input": "x" })).await;
    assert_eq!((unknown.status(), unknown.json()["error"].is_string()), (404, true));
}

#[tokio::test]
async fn unary_answers_are_whole() {
    let simulator = start(options()).await;
    let reply = post(&simulator, "/v1/chat/completions", chat(&json!({ "stream": false }))).await;
    assert_eq!(shape(&reply.body()), shape(UNARY));
    assert_eq!(
        reply.json()["usage"],
        json!({ "prompt_tokens": 6, "total_tokens": 18, "completion_tokens": 12, "prompt_tokens_details": null, "completion_tokens_details": null })
    );

    let body = json!({ "model": "tiny", "prompt": "Once", "max_tokens": 8, "ignore_eos": true });
    assert_eq!(post(&simulator, "/v1/completions", body).await.json()["choices"][0]["finish_reason"], "length");
    let body = json!({ "model": "tiny", "max_tokens": 8, "ignore_eos": true, "messages": [{ "role": "user", "content": "Hi" }] });
    let message = post(&simulator, "/v1/messages", body).await.json();
    assert_eq!((&message["stop_reason"], &message["content"][0]["type"]), (&json!("max_tokens"), &json!("text")));
    let body = json!({ "model": "tiny", "input": "Hi", "max_output_tokens": 8, "ignore_eos": true });
    let response = post(&simulator, "/v1/responses", body).await.json();
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("incomplete"), &json!(8)));
    let body = json!({ "model": "tiny", "input": ["one", "two"] });
    assert_eq!(post(&simulator, "/v1/embeddings", body).await.json()["data"].as_array().map(Vec::len), Some(2));
    let body = json!({ "model": "tiny", "query": { "text": "q" }, "passages": [{ "text": "a" }, { "text": "b" }, { "text": "c" }] });
    assert_eq!(post(&simulator, "/v1/ranking", body).await.json()["rankings"].as_array().map(Vec::len), Some(3));
}
