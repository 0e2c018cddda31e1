//! Clients that leave, or stop reading: an engine must not generate for nobody.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock::{Clock, SystemClock};
use crate::conformance::script::{END, Script, Step, chunk, token, whole};
use crate::conformance::stage::{PATIENCE, Stage};
use crate::conformance::verdict::{Finding, fail, ms, when};

/// How soon the backend is to see it.
const SOON: Duration = Duration::from_secs(1);
/// How long it is looked for.
const WATCHED: Duration = Duration::from_secs(4);

/// Leaves when the request has arrived, and a token has, if one comes.
async fn leave(stage: &Stage, script: Script, stream: bool, after_token: bool) -> Finding {
    let turn = stage.backend.expect(script);
    let Ok(mut tcp) = stage.target.connect().await else { return fail("no connection") };
    if tcp.write_all(&stage.target.request("", &stage.body(turn, stream, ""))).await.is_err() {
        return fail("the request is not taken");
    }
    let arrived = stage.wait(turn, PATIENCE, |received| received.attempts > 0).await;
    if arrived.attempts == 0 {
        return fail("the request did not reach the backend");
    }
    if after_token {
        let mut bytes = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&bytes).contains("t0")
                && tcp.read_buf(&mut bytes).await.is_ok_and(|read| read > 0)
            {}
        };
        let _ = tokio::time::timeout(PATIENCE, reading).await;
    } else {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(tcp);
    let left = SystemClock.now();
    let received = stage.wait(turn, WATCHED, |received| received.left.is_some() || received.played).await;
    match received.left {
        Some(at) => {
            let took = at.saturating_duration_since(left);
            when(took <= SOON, format!("it sees it after {}", ms(took)))
        }
        None => fail(format!("it sees nothing for {} s", WATCHED.as_secs())),
    }
}

pub(super) async fn mid_stream(stage: &Stage) -> Finding {
    let mut steps = Vec::new();
    for number in 0..200 {
        steps.extend([
            Step::Send(chunk(token(&format!("t{number}")).as_bytes())),
            Step::Pause(Duration::from_millis(50)),
        ]);
    }
    steps.push(Step::Send(END.to_vec()));
    leave(stage, Script::stream::<String>(&[], steps), true, true).await
}

pub(super) async fn before_head(stage: &Stage) -> Finding {
    leave(stage, Script::new(vec![Step::Pause(WATCHED * 2), Step::Close]), true, false).await
}

pub(super) async fn unstreamed(stage: &Stage) -> Finding {
    let mut script = Script::answer("200 OK", "", &whole());
    script.steps.insert(0, Step::Pause(WATCHED * 2));
    leave(stage, script, false, false).await
}

/// Reads the first token, and then nothing.
pub(super) async fn slow_reader(stage: &Stage) -> Finding {
    const MOST: usize = 16 << 20;
    let flood = Step::Flood(chunk(token(&"x".repeat(32 << 10)).as_bytes()), 4 * MOST / (32 << 10));
    let turn = stage.backend.expect(Script::stream(&[token("t0")], vec![flood, Step::Send(END.to_vec())]));
    let Ok(mut tcp) = stage.target.connect().await else { return fail("no connection") };
    if tcp.write_all(&stage.target.request("", &stage.body(turn, true, ""))).await.is_err() {
        return fail("the request is not taken");
    }
    let mut some = [0; 64];
    let _ = tokio::time::timeout(PATIENCE, tcp.read(&mut some)).await;
    // Until the backend could write nothing for half a second, or was through.
    let mut before = usize::MAX;
    let standing = async {
        loop {
            let received = stage.backend.received(turn);
            if received.sent == before || received.played {
                return;
            }
            before = received.sent;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, standing).await;
    let sent = stage.backend.received(turn).sent;
    if sent == 0 {
        return fail("the request did not reach the backend");
    }
    let tenths = sent * 10 / (1 << 20);
    when(sent < MOST, format!("the backend got rid of {}.{} MiB", tenths / 10, tenths % 10))
}
