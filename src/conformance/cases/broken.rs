//! Backends that break, hang or lie: a client must be able to tell what is complete.

use std::time::Duration;

use crate::conformance::client::End;
use crate::conformance::script::{DONE, END, Script, Step, role, token, usual, whole};
use crate::conformance::stage::{Seen, Stage};
use crate::conformance::verdict::{
    Finding, ending, error_kind, fail, has_done, has_error, ms, pass, skip, told_after_a_token, told_of_the_end, when,
};

const ERROR_EVENT: &str =
    "data: {\"error\":{\"message\":\"the engine is dead\",\"type\":\"server_error\",\"param\":null,\"code\":500}}\n\n";

/// The role, a token, and then this.
async fn after_a_token(stage: &Stage, more: &[&str], then: Step) -> Seen {
    let (role, token) = (role(), token("Hello"));
    let mut pieces = vec![role.as_str(), token.as_str()];
    pieces.extend(more);
    stage.stream(Script::stream(&pieces, vec![then])).await
}

pub(super) async fn between(stage: &Stage) -> Finding {
    told_after_a_token(&after_a_token(stage, &[], Step::Reset).await.reply)
}

pub(super) async fn within(stage: &Stage) -> Finding {
    let half = "data: {\"id\":\"half-an-event\",\"object\":\"chat.comp";
    let seen = after_a_token(stage, &[half], Step::Reset).await;
    let finding = told_after_a_token(&seen.reply);
    let text = seen.reply.text();
    match text.split_once(half) {
        // Even behind a blank line: a parser stumbles over the half before it sees what comes then.
        Some((_, after)) if !after.is_empty() => {
            fail(format!("{}; {} bytes glued to half an event", finding.seen, after.len()))
        }
        _ => finding,
    }
}

pub(super) async fn no_done(stage: &Stage) -> Finding {
    told_after_a_token(&after_a_token(stage, &[], Step::Send(END.to_vec())).await.reply)
}

pub(super) async fn after_done(stage: &Stage) -> Finding {
    let seen = stage.stream(Script::stream(&usual(), vec![Step::Reset])).await;
    let whole = seen.reply.end == End::Clean && has_done(&seen.reply.body) && !has_error(&seen.reply.body);
    when(whole, format!("status {}, {}", seen.reply.status, ending(&seen.reply)))
}

pub(super) async fn once(stage: &Stage) -> Finding {
    let seen = after_a_token(stage, &[], Step::Reset).await;
    let attempts = seen.received.attempts;
    when(attempts == 1, format!("{attempts} generations"))
}

pub(super) async fn error_event(stage: &Stage) -> Finding {
    let seen = after_a_token(stage, &[ERROR_EVENT], Step::Send(END.to_vec())).await;
    let told = has_error(&seen.reply.body) || seen.reply.status >= 400;
    let words = if told { "it arrives" } else { "it is lost" };
    when(told, format!("{words}, {}", ending(&seen.reply)))
}

pub(super) async fn error_first(stage: &Stage) -> Finding {
    let seen = stage.stream(Script::stream(&[ERROR_EVENT, DONE], vec![Step::Send(END.to_vec())])).await;
    let reply = &seen.reply;
    if reply.status >= 400 {
        return pass(format!("status {}, {}", reply.status, error_kind(reply)));
    }
    when(
        has_error(&reply.body),
        if has_error(&reply.body) { "the event arrives under 200" } else { "it is lost under 200" },
    )
}

pub(super) async fn empty(stage: &Stage) -> Finding {
    let seen = stage.stream(Script::stream::<&str>(&[], vec![Step::Send(END.to_vec())])).await;
    told_of_the_end(&seen.reply)
}

pub(super) async fn json_under_200(stage: &Stage) -> Finding {
    let body = "{\"error\":{\"message\":\"the engine is dead\",\"type\":\"server_error\",\"param\":null,\"code\":500}}";
    let seen = stage.stream(Script::answer("200 OK", "", body)).await;
    let reply = &seen.reply;
    let told = reply.status >= 400 || has_error(&reply.body);
    when(
        told,
        format!("status {}, {}", reply.status, if told { error_kind(reply) } else { "an empty answer to any client" }),
    )
}

fn is_failure(seen: &Seen) -> Finding {
    let reply = &seen.reply;
    when(reply.status >= 500 || reply.end == End::Cut, format!("status {}, {}", reply.status, ending(reply)))
}

pub(super) async fn truncated_length(stage: &Stage) -> Finding {
    let mut script = Script::answer("200 OK", "", &whole());
    if let Some(Step::Send(bytes)) = script.steps.first_mut() {
        bytes.truncate(bytes.len() - 60);
    }
    script.steps.push(Step::Reset);
    is_failure(&stage.unary(script).await)
}

pub(super) async fn truncated_chunks(stage: &Stage) -> Finding {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1000\r\n{\"id\":\"chat";
    is_failure(&stage.unary(Script::new(vec![Step::Send(head.into()), Step::Reset])).await)
}

pub(super) async fn hang(stage: &Stage) -> Finding {
    let Some(patience) = stage.first_token else { return skip("not asked for") };
    let turn = stage.backend.expect(Script::stream(&[role()], vec![Step::Hang]));
    let request = stage.target.request("", &stage.body(turn, true, ""));
    let seen = stage.send(turn, &request, patience * 4 + Duration::from_secs(5)).await;
    let reply = &seen.reply;
    let told = (reply.status >= 500 || has_error(&reply.body)) && reply.end != End::Never;
    let timely =
        reply.took + Duration::from_millis(100) >= patience && reply.took <= patience * 2 + Duration::from_secs(2);
    when(told && timely, format!("status {}, {} after {}", reply.status, ending(reply), ms(reply.took)))
}

/// A good exchange, and then another one while the connection of the first may be pooled.
async fn pooled(stage: &Stage, first: Script, second: Script) -> Seen {
    let warm = stage.unary(first).await;
    if warm.reply.status != 200 {
        return warm;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stage.unary(second).await
}

pub(super) async fn pooled_closed(stage: &Stage) -> Finding {
    let mut closing = Script::answer("200 OK", "", &whole());
    closing.steps.extend([Step::Pause(Duration::from_millis(50)), Step::Close]);
    let seen = pooled(stage, closing, Script::answer("200 OK", "", &whole())).await;
    when(seen.reply.status == 200, format!("status {}", seen.reply.status))
}

pub(super) async fn pooled_dies(stage: &Stage) -> Finding {
    let mut picky = Script::answer("200 OK", "", &whole());
    picky.only_fresh = true;
    let seen = pooled(stage, Script::answer("200 OK", "", &whole()), picky).await;
    let resets = seen.received.reset_on_reuse;
    if resets == 0 {
        return skip("no connection was used again");
    }
    when(seen.reply.status == 200, format!("status {}, after {resets} dead connections", seen.reply.status))
}
