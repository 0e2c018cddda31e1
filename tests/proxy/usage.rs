//! headway asks for token counts that the client did not ask for, and takes them out again; nothing else changes.

use crate::support::backend::{Scripted, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{self, CHAT, DONE, FINISH, LAST, ROLE, SSE, STREAM, TOKEN, USAGE, answer, chunk, events};

/// What a client's body becomes on its way to the backend.
async fn sent(path: &str, body: &str, expected: &str) {
    let backend = Scripted::start(texts::streamed()).await;
    Headway::before(&backend).await.post(path, body).await;
    assert_eq!(String::from_utf8(backend.only().body).unwrap(), expected);
}

#[tokio::test]
async fn usage_is_asked_for_and_every_other_byte_stays() {
    sent(CHAT, STREAM, STREAM).await;
    sent(
        CHAT,
        "{ \"model\" : \"m\",\n\"stream\":true , \"x-new\":[1.50,\"\\u00e9\"]}\n",
        "{\"stream_options\":{\"include_usage\":true}, \"model\" : \"m\",\n\"stream\":true , \"x-new\":[1.50,\"\\u00e9\"]}\n",
    )
    .await;
    sent(
        CHAT,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":false}}"#,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
    )
    .await;
    sent(CHAT, r#"{"model":"m","stream":false}"#, r#"{"model":"m","stream":false}"#).await;
}

#[tokio::test]
async fn usage_is_not_asked_for_where_it_comes_by_itself() {
    for path in ["/v1/responses", "/v1/messages", "/v1/embeddings"] {
        let body = r#"{"model":"m","stream":true,"input":"x"}"#;
        sent(path, body, body).await;
    }
    let triton = r#"{"text_input":"x","max_tokens":3}"#;
    sent("/v2/models/m/generate_stream", triton, triton).await;
}

#[tokio::test]
async fn a_rename_changes_the_models_name_only() {
    let backend = Scripted::start(texts::streamed()).await;
    let setup =
        Setup::default().backend_at("a", backend.address, "models: [m], rename: { alias: \"m/long \\\"name\\\"\" }");
    let headway = setup.start().await;
    headway
        .post(CHAT, "{\"x\":1.0, \"model\" : \"alias\" ,\"stream\":true,\"stream_options\":{ \"include_usage\":true}}")
        .await;
    headway.post(CHAT, r#"{"stream":true,"stream_options":{},"model":"alias","y":"alias"}"#).await;
    headway.post(CHAT, r#"{"model":"m","y":"alias"}"#).await;
    let bodies: Vec<_> = backend.seen().into_iter().map(|seen| String::from_utf8(seen.body).unwrap()).collect();
    assert_eq!(
        bodies[0],
        "{\"x\":1.0, \"model\" : \"m/long \\\"name\\\"\" ,\"stream\":true,\"stream_options\":{ \"include_usage\":true}}"
    );
    assert_eq!(
        bodies[1],
        r#"{"stream":true,"stream_options":{"include_usage":true},"model":"m/long \"name\"","y":"alias"}"#
    );
    assert_eq!(bodies[2], r#"{"model":"m","y":"alias"}"#);
    let models: Vec<_> = headway.records(3).await.iter().map(|one| one.model.clone().unwrap().to_string()).collect();
    assert_eq!(models, ["alias", "alias", "m"]);
}

/// A client that did not ask for usage gets everything else.
async fn received(pieces: Vec<String>, expected: &str) {
    let mut script = vec![send(SSE)];
    for piece in pieces {
        script.push(send(chunk(piece)));
    }
    script.push(send(LAST));
    let backend = Scripted::start(script).await;
    let headway = Headway::before(&backend).await;
    let reply = headway.post(CHAT, r#"{"model":"m","stream":true}"#).await;
    assert_eq!((reply.end, reply.text().as_str()), (End::Clean, expected));
    let record = headway.record().await;
    assert_eq!((record.usage.input_tokens, record.usage.output_tokens), (Some(3), Some(2)), "it was read all the same");
    assert_eq!(record.bytes_out, expected.len() as u64);
}

#[tokio::test]
async fn the_usage_event_is_taken_out_for_a_client_that_did_not_ask() {
    let kept = [ROLE, TOKEN, TOKEN, FINISH, DONE].concat();
    received(vec![events()], &kept).await;
    received(events().split_inclusive("\n\n").map(str::to_owned).collect(), &kept).await;
    received(events().chars().map(String::from).collect(), &kept).await;
    let commented = events().replace("data: [DONE]", ": done soon\n\ndata: [DONE]");
    received(vec![commented], &kept.replace("data: [DONE]", ": done soon\n\ndata: [DONE]")).await;
}

#[tokio::test]
async fn a_client_that_asked_gets_the_usage_event() {
    let backend = Scripted::start(answer(&events())).await;
    let reply = Headway::before(&backend).await.stream().await;
    assert!(reply.text().contains(USAGE));
    assert_eq!(reply.text(), events());
}

#[tokio::test]
async fn usage_that_comes_with_tokens_stays() {
    let with = |event: &str| event.replace("]}\n", "],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n");
    let body = [with(ROLE), with(TOKEN), with(FINISH), DONE.to_owned()].concat();
    received(vec![body.clone()], &body).await;
}
