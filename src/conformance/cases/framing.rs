//! Requests that two servers could read differently.

use std::time::Duration;

use crate::conformance::client::{End, Reply, ask};
use crate::conformance::script::{Script, whole};
use crate::conformance::stage::{PATIENCE, Stage};
use crate::conformance::verdict::{Finding, fail, ms, when};

/// How long to wait for something that should not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// Sends a request as it stands; `None` when there is no connection.
async fn raw(stage: &Stage, request: &str) -> Option<Reply> {
    let mut tcp = stage.target.connect().await.ok()?;
    Some(ask(&mut tcp, request.as_bytes(), Duration::from_secs(5)).await)
}

/// A request that must not reach the backend: it is refused, or the connection ends.
async fn refused(stage: &Stage, fields: &str, frame: impl Fn(&str) -> String) -> Finding {
    let turn = stage.backend.expect(Script::answer("200 OK", "", &whole()));
    let body = stage.body(turn, false, "");
    let fields = fields.replace("LENGTH", &body.len().to_string());
    let request = format!("{}{fields}\r\n{}", stage.target.head(), frame(&body));
    let Some(reply) = raw(stage, &request).await else { return fail("no connection") };
    tokio::time::sleep(A_WHILE).await;
    let reached = stage.backend.received(turn).attempts;
    let answer = match reply.status {
        0 if reply.end == End::Never => format!("neither an answer nor an end within {}", ms(reply.took)),
        0 => "the connection ends".to_owned(),
        status => format!("status {status}"),
    };
    let refused = if reply.status == 0 { reply.end != End::Never } else { (400..=501).contains(&reply.status) };
    let good = reached == 0 && refused;
    when(good, if reached == 0 { answer } else { format!("{answer}, and it reached the backend") })
}

pub(super) async fn two_lengths(stage: &Stage) -> Finding {
    refused(stage, "content-length: LENGTH\r\ncontent-length: 3\r\n", str::to_owned).await
}

pub(super) async fn coding(stage: &Stage) -> Finding {
    let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    refused(stage, "transfer-encoding: xchunked\r\n", chunked).await
}

/// A second request hides behind the first one's end, by one of the two framings.
pub(super) async fn length_and_coding(stage: &Stage) -> Finding {
    let (first, hidden) = (Script::answer("200 OK", "", &whole()), Script::answer("200 OK", "", &whole()));
    let (first, hidden) = (stage.backend.expect(first), stage.backend.expect(hidden));
    let body = stage.body(first, false, "");
    let second = stage.target.request("", &stage.body(hidden, false, ""));
    let second = String::from_utf8_lossy(&second).into_owned();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n{second}", body.len());
    let fields = format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", chunked.len());
    let Some(reply) = raw(stage, &format!("{}{fields}\r\n{chunked}", stage.target.head())).await else {
        return fail("no connection");
    };
    tokio::time::sleep(A_WHILE).await;
    let made = stage.backend.received(hidden).attempts;
    when(made == 0, format!("status {}, {made} hidden requests", reply.status))
}

pub(super) async fn no_host(stage: &Stage) -> Finding {
    let turn = stage.backend.expect(Script::answer("200 OK", "", &whole()));
    let request = stage.target.request("", &stage.body(turn, false, ""));
    let request = String::from_utf8_lossy(&request).replace(&format!("host: {}\r\n", stage.target.authority), "");
    let Some(reply) = raw(stage, &request).await else { return fail("no connection") };
    when(reply.status == 400, format!("status {}", reply.status))
}

pub(super) async fn expect(stage: &Stage) -> Finding {
    let turn = stage.backend.expect(Script::answer("200 OK", "", &whole()));
    let body = stage.body(turn, false, "");
    let head = format!("{}content-length: {}\r\nexpect: 100-continue\r\n\r\n", stage.target.head(), body.len());
    let Ok(mut tcp) = stage.target.connect().await else { return fail("no connection") };
    let waiting = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        tcp.write_all(head.as_bytes()).await.ok()?;
        let mut bytes = [0; 128];
        let read = tcp.read(&mut bytes).await.ok()?;
        String::from_utf8_lossy(bytes.get(..read)?).split(' ').nth(1)?.parse::<u16>().ok()
    };
    let said = tokio::time::timeout(Duration::from_secs(1), waiting).await.ok().flatten();
    let reply = match said {
        Some(100) | None => ask(&mut tcp, body.as_bytes(), PATIENCE).await,
        Some(other) => return when(other == 417, format!("status {other} at once")),
    };
    let told = said.map_or("nothing within 1 s".to_owned(), |status| format!("{status} at once"));
    when(
        said.is_some() && reply.status == 200,
        format!("{told}, then status {} after {}", reply.status, ms(reply.took)),
    )
}
