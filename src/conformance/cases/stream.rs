//! What goes through: bytes as they are, and when they are.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::clock::{Clock, SystemClock};
use crate::conformance::script::{DONE, END, Script, Step, chunk, finish, role, token, usual, whole};
use crate::conformance::stage::{PATIENCE, Stage};
use crate::conformance::verdict::{Finding, fail, has_done, ms, pass, skip, unchanged, when};

/// Plays these pieces, each a write of its own, and expects them back.
async fn same(stage: &Stage, pieces: &[Vec<u8>]) -> Finding {
    let seen = stage.stream(Script::stream(pieces, vec![Step::Send(END.to_vec())])).await;
    unchanged(&seen.reply, &pieces.concat())
}

fn pieces(events: &[String]) -> Vec<Vec<u8>> {
    events.iter().map(|event| event.clone().into_bytes()).collect()
}

pub(super) async fn plain(stage: &Stage) -> Finding {
    same(stage, &pieces(&usual())).await
}

pub(super) async fn utf8(stage: &Stage) -> Finding {
    let events = [role(), token("Zürich – 東京 🚀"), finish(), DONE.to_owned()].concat().into_bytes();
    let rocket = events.windows(2).position(|pair| pair == [0xF0, 0x9F]).unwrap_or(0);
    let (front, back) = events.split_at(rocket + 2);
    same(stage, &[front.to_vec(), back.to_vec()]).await
}

pub(super) async fn crlf(stage: &Stage) -> Finding {
    same(stage, &pieces(&usual().map_each(|event| event.replace('\n', "\r\n")))).await
}

pub(super) async fn comments(stage: &Stage) -> Finding {
    let named = usual().map_each(|event| format!(": keep-alive\n\nid: 7\nevent: message\n{event}"));
    same(stage, &pieces(&named)).await
}

pub(super) async fn members(stage: &Stage) -> Finding {
    let odd = usual().map_each(|event| event.replace("\"id\":", "\"x_engine\":{\"queue\":1.50,\"ids\":[1,2]},\"id\":"));
    same(stage, &pieces(&odd)).await
}

pub(super) async fn big(stage: &Stage) -> Finding {
    let events = [role(), token(&"x".repeat(300 << 10)), finish(), DONE.to_owned()].concat().into_bytes();
    let parts: Vec<Vec<u8>> = events.chunks(16 << 10).map(<[u8]>::to_vec).collect();
    same(stage, &parts).await
}

pub(super) async fn usage(stage: &Stage) -> Finding {
    let tail = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"conformance\",\
        \"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}\n\n";
    let events = [role(), token("a"), finish(), tail.to_owned(), DONE.to_owned()];
    let script = Script::stream(&events, vec![Step::Send(END.to_vec())]);
    let seen = stage.exchange(script, true, "\"stream_options\":{\"include_usage\":true},", "").await;
    let arrived = seen.reply.text().replace(' ', "").contains("\"completion_tokens\":2");
    when(arrived && has_done(&seen.reply.body), if arrived { "it arrives" } else { "it is lost" })
}

pub(super) async fn request(stage: &Stage) -> Finding {
    let members = format!(
        "\"temperature\":0.70,\"seed\":1234567890123456789,\"max_tokens\":5,\"user\":\"é\\n\",\"nvext\":{{\"top_k\":40}},\
         \"metadata\":{{\"padding\":\"{}\"}},",
        "y".repeat(300 << 10)
    );
    let seen = stage.exchange(Script::answer("200 OK", "", &whole()), false, &members, "").await;
    let sent: Option<Value> = serde_json::from_str(&format!("{{{}}}", members.trim_end_matches(','))).ok();
    let came: Option<Value> = serde_json::from_slice(&seen.received.body).ok();
    let (Some(Value::Object(sent)), Some(came)) = (sent, came) else {
        return fail(format!("status {}, nothing readable reached the backend", seen.reply.status));
    };
    let missing: Vec<_> =
        sent.iter().filter(|(name, value)| came.get(name) != Some(value)).map(|(name, _)| name.as_str()).collect();
    when(
        missing.is_empty(),
        if missing.is_empty() { "all of them".to_owned() } else { format!("lost or changed: {}", missing.join(", ")) },
    )
}

pub(super) async fn first_token(stage: &Stage) -> Finding {
    let pause = Step::Pause(Duration::from_secs(1));
    let rest = [finish(), DONE.to_owned()].concat();
    let steps = vec![pause, Step::Send(chunk(rest.as_bytes())), Step::Send(END.to_vec())];
    let seen = stage.stream(Script::stream(&[token("first")], steps)).await;
    let written = seen.received.written.get(1).copied();
    let Some((arrived, written)) = seen.reply.arrivals.first().map(|(at, _)| *at).zip(written) else {
        return fail(format!("status {}, no token", seen.reply.status));
    };
    let late = arrived.saturating_duration_since(written);
    when(late <= Duration::from_millis(250), format!("{} after the backend wrote it", ms(late)))
}

pub(super) async fn each_token(stage: &Stage) -> Finding {
    const TOKENS: usize = 10;
    let mut steps = Vec::new();
    for number in 0..TOKENS {
        steps.extend([
            Step::Send(chunk(token(&format!("t{number}")).as_bytes())),
            Step::Pause(Duration::from_millis(60)),
        ]);
    }
    steps.extend([Step::Send(chunk([finish(), DONE.to_owned()].concat().as_bytes())), Step::Send(END.to_vec())]);
    let seen = stage.stream(Script::stream(&[role()], steps)).await;
    let times: Vec<_> = seen.reply.arrivals.iter().map(|(at, _)| *at).collect();
    let apart = times.windows(2).filter(|pair| {
        pair.last()
            .zip(pair.first())
            .is_some_and(|(late, early)| late.saturating_duration_since(*early) >= Duration::from_millis(20))
    });
    let apart = apart.count().min(TOKENS);
    when(apart >= TOKENS - 2, format!("{apart} of {TOKENS} gaps were seen"))
}

/// The same over HTTP/2 with prior knowledge.
pub(super) async fn h2(stage: &Stage) -> Finding {
    let turn = stage.backend.expect(Script::usual());
    let body = stage.body(turn, true, "");
    let asking = async {
        let tcp = stage.target.connect().await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.ok()?;
        tokio::spawn(connection);
        let uri = format!("http://{}{}/v1/chat/completions", stage.target.authority, stage.target.base);
        let request = http::Request::post(uri).header("content-type", "application/json");
        let request = match &stage.target.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).ok()?).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().collect().await.map(Collected::to_bytes)))
    };
    let began = SystemClock.now();
    match tokio::time::timeout(PATIENCE.min(Duration::from_secs(5)), asking).await {
        Ok(Some((status, Ok(bytes)))) if status == 200 && has_done(&bytes) => {
            pass(format!("a whole stream, in {}", ms(SystemClock.now().saturating_duration_since(began))))
        }
        Ok(Some((status, Ok(_)))) => fail(format!("status {status}, not the whole stream")),
        Ok(Some((status, Err(_)))) => fail(format!("status {status}, and the stream is reset midway")),
        Ok(None) | Err(_) => skip("not offered"),
    }
}

/// A small convenience for lists of events.
trait Each {
    fn map_each(self, change: impl Fn(String) -> String) -> Self;
}

impl Each for Vec<String> {
    fn map_each(self, change: impl Fn(String) -> String) -> Self {
        self.into_iter().map(change).collect()
    }
}
