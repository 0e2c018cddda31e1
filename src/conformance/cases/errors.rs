//! What a client is told when there is no answer.

use crate::conformance::http1;
use crate::conformance::script::{Script, Step, whole};
use crate::conformance::stage::{PATIENCE, Stage};
use crate::conformance::verdict::{Finding, error_kind, fail, is_openai_error, ms, skip, when};

pub(super) async fn before_head(stage: &Stage) -> Finding {
    let reply = stage.stream(Script::new(vec![Step::Reset])).await.reply;
    when(reply.status >= 500 && is_openai_error(&reply), format!("status {}, {}", reply.status, error_kind(&reply)))
}

pub(super) async fn tries(stage: &Stage) -> Finding {
    let seen = stage.stream(Script::new(vec![Step::Reset])).await;
    let attempts = seen.received.attempts;
    when((1..=2).contains(&attempts), format!("{attempts} tries"))
}

pub(super) async fn busy(stage: &Stage) -> Finding {
    let body = "{\"error\":{\"message\":\"busy\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}";
    let seen = stage.stream(Script::answer("429 Too Many Requests", "retry-after: 7\r\n", body)).await;
    let reply = seen.reply;
    let after = http1::field(&reply.head, "retry-after");
    let told = after.map_or("without Retry-After".to_owned(), |value| format!("Retry-After {value}"));
    if reply.status == 0 {
        return fail(format!("no answer within {}", ms(reply.took)));
    }
    let whose = if reply.body == body.as_bytes() { "the backend's body" } else { error_kind(&reply) };
    let seen = format!("status {}, {whose}, {told}", reply.status);
    when(reply.status == 429 && is_openai_error(&reply) && after == Some("7"), seen)
}

pub(super) async fn invalid(stage: &Stage) -> Finding {
    let turn = stage.backend.expect(Script::answer("200 OK", "", &whole()));
    let body = format!("{}]", stage.body(turn, false, ""));
    let seen = stage.send(turn, &stage.target.request("", &body), PATIENCE).await;
    let reply = seen.reply;
    if seen.received.attempts > 0 {
        return skip("passed on unread");
    }
    let told = (400..500).contains(&reply.status) && is_openai_error(&reply);
    when(told, format!("status {}, {}", reply.status, error_kind(&reply)))
}

pub(super) async fn request_id(stage: &Stage) -> Finding {
    let seen = stage.exchange(Script::usual(), true, "", "x-request-id: conformance-id-1\r\n").await;
    match http1::field(&seen.reply.head, "x-request-id") {
        Some("conformance-id-1") => when(true, "the client's own"),
        Some(_) => when(true, "one of its own"),
        None => when(false, "none"),
    }
}
