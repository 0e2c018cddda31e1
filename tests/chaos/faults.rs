//! The faults of a backend, by their number in the fault matrix: what it does, and what a client may be told of it.

use std::time::Duration;

use crate::support::backend::{Script, Step, send};
use crate::support::texts::{
    DONE, FINISH, LAST, ROLE, SSE, TOKEN, USAGE, answer, begun, chunk, events, json, with_fields,
};

/// The timers of the headway under test.
pub(crate) const CONNECT: Duration = Duration::from_millis(300);
pub(crate) const FIRST_TOKEN: Duration = Duration::from_millis(400);
pub(crate) const IDLE: Duration = Duration::from_millis(400);
pub(crate) const TOTAL: Duration = Duration::from_millis(2_500);
pub(crate) const WRITE_IDLE: Duration = Duration::from_secs(1);
pub(crate) const BODY_IDLE: Duration = Duration::from_millis(300);

/// What a client that stays is told.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// These bytes, and a clean end.
    Whole(Vec<u8>),
    /// Nothing of the answer, but one of these statuses: another backend may be asked.
    Error(&'static [u16]),
    /// The beginning of an answer, and no end that could be taken for one.
    Broken,
}

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) script: Script,
    pub(crate) told: Told,
    /// How long it takes at one backend, by the timer that ends it.
    pub(crate) takes: Duration,
}

const HALF: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" sta";

fn whole(name: &'static str, body: impl AsRef<[u8]>) -> Fault {
    let body = body.as_ref().to_vec();
    let script = vec![send([SSE.as_bytes(), &chunk(&body), LAST.as_bytes()].concat())];
    Fault { name, script, told: Told::Whole(body), takes: Duration::ZERO }
}

fn whole_by(name: &'static str, script: Script, body: impl AsRef<[u8]>, takes: Duration) -> Fault {
    Fault { name, script, told: Told::Whole(body.as_ref().to_vec()), takes }
}

fn error(name: &'static str, script: Script, statuses: &'static [u16]) -> Fault {
    Fault { name, script, told: Told::Error(statuses), takes: Duration::ZERO }
}

fn late(name: &'static str, script: Script) -> Fault {
    Fault { takes: FIRST_TOKEN, ..error(name, script, &[504]) }
}

fn broken(name: &'static str, script: Script) -> Fault {
    Fault { name, script, told: Told::Broken, takes: Duration::ZERO }
}

/// What a backend that works says.
pub(crate) fn good() -> Fault {
    whole("ok", events())
}

/// A stream of half a megabyte, for readers that are slow.
pub(crate) fn large() -> Fault {
    let token = TOKEN.replace("train", &"train ".repeat(1_500));
    whole("large", [ROLE, &token.repeat(60), FINISH, DONE].concat())
}

/// Every fault but those of connecting.
pub(crate) fn all() -> Vec<Fault> {
    let mut all = vec![good(), large()];
    all.extend(before_the_first_token());
    all.extend(in_the_middle());
    all.extend(strange_but_whole());
    all
}

fn before_the_first_token() -> Vec<Fault> {
    let failed = r#"{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}"#;
    let unnumbered = r#"{"error":{"message":"m","type":"server_error","param":null,"code":null}}"#;
    let long_head = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "a".repeat(1 << 20));
    vec![
        late("u4-hang", vec![Step::Pause]),
        error("u5-mid-head", vec![send("HTTP/1.1 200 OK\r\ncontent-ty"), Step::Reset], &[502]),
        error("u6-no-status", vec![send("HTTP/1.1 two hundred\r\n\r\n"), Step::Pause], &[502]),
        error("u6-no-http", vec![send("SSH-2.0-nonsense\r\n\r\n"), Step::Pause], &[502]),
        error("u7-long-head", vec![send(long_head), Step::Pause], &[502]),
        error("u8-1xx", vec![Step::Flood(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec())], &[502]),
        late("u9-head-only", vec![send(SSE), Step::Pause]),
        late("u9-role-only", vec![begun(ROLE), Step::Pause]),
        error("u15-garbage", answer("<html>\n\ndata: {not json}\n\n<p>\n\n"), &[502]),
        error("u22-json-error", json("200 OK", failed), &[500]),
        error("u23-error-first", answer(&format!("data: {failed}\n\n{DONE}")), &[500]),
        error("u23-unnumbered", answer(&format!("{ROLE}data: {unnumbered}\n\n")), &[502]),
        error("u28-empty", vec![send([SSE, LAST].concat())], &[502]),
        error("u28-mark-only", answer(DONE), &[502]),
        error("u32-429", json("429 Too Many Requests", "{}"), &[429]),
        error("u32-503", with_fields("503 Service Unavailable", "retry-after: 3\r\n", "{}"), &[503]),
        error("u32-500", json("500 Internal Server Error", "{}"), &[500]),
        error("u33-redirect", with_fields("302 Found", "location: http://127.0.0.1:1/\r\n", ""), &[502]),
    ]
}

fn in_the_middle() -> Vec<Fault> {
    let front = [ROLE, TOKEN, TOKEN].concat();
    let half = [ROLE, TOKEN, HALF].concat();
    let mut character = half.clone().into_bytes();
    character.extend_from_slice(&"\u{1F682}".as_bytes()[..2]);
    let told = "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"code\":500}}\n\n";
    let tail = "{\"error\":{\"message\":\"late\",\"type\":\"server_error\",\"code\":500}}";
    let endless = (0..200).flat_map(|_| [send(chunk(TOKEN)), Step::Wait(Duration::from_millis(25))]);
    let sized = |length: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{front}")
    };
    vec![
        broken("u10-reset", vec![begun(&front), Step::Reset]),
        broken("u10-close", vec![begun(&front), Step::Close]),
        broken("u11-mid-event", vec![begun(&half), Step::Reset]),
        broken("u12-mid-character", vec![begun(&character), Step::Reset]),
        Fault { takes: IDLE, ..broken("u14-stall", vec![begun(&front), Step::Pause]) },
        Fault { takes: IDLE, ..broken("u14-mid-event", vec![begun(&half), Step::Pause]) },
        broken("u21-too-long", vec![send(sized(front.len() + 100)), Step::Close]),
        broken("u21-too-short", vec![send(sized(front.len() - 7))]),
        broken("u24-error-event", answer(&[&front, told].concat())),
        broken("u25-tail", vec![begun(front.clone() + tail), send(LAST)]),
        Fault { takes: TOTAL, ..broken("u27-endless", [vec![begun(&front)], endless.collect()].concat()) },
        broken("u28-no-end", answer(&front)),
        broken(
            "u37-dies",
            vec![send(format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{front}")), Step::Close],
        ),
    ]
}

fn strange_but_whole() -> Vec<Fault> {
    let events = events();
    let drops = events.as_bytes().chunks(9).flat_map(|few| [send(chunk(few)), Step::Wait(Duration::from_millis(2))]);
    let drip = [vec![send(SSE)], drops.collect(), vec![send(LAST)]].concat();
    let mut bad_text = [ROLE, &TOKEN[..TOKEN.len() - 30]].concat().into_bytes();
    bad_text.extend_from_slice(b"\xff\xfe\xc0");
    bad_text.extend_from_slice([&TOKEN[TOKEN.len() - 30..], FINISH, DONE].concat().as_bytes());
    let huge = TOKEN.replace("train", &"train ".repeat(200_000));
    let fields = TOKEN.replace("data: {", "id: 7\nretry: 10\nevent: message\n: comment\ndata: {\ndata:");
    let with_usage =
        |event: &str| event.replace("]}\n", "],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n");
    let tool = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n";
    let second = |event: &str| event.replace("\"index\":0", "\"index\":1");
    let zipped: Vec<u8> = (0..3_000_u32).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
    let gzip = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
    let trailing = [SSE.as_bytes(), &chunk(&events), LAST.as_bytes(), b"HTTP/1.1 200 OK\r\n\r\nmore"].concat();
    let at_once = Duration::ZERO;
    vec![
        whole_by("u13-drip", drip, &events, Duration::from_millis(600)),
        whole("u16-bad-text", bad_text),
        whole("u17-huge-event", [ROLE, TOKEN, &huge, FINISH, DONE].concat()),
        whole("u18-no-last-line", events.trim_end_matches('\n')),
        whole("u19-cr", events.replace('\n', "\r")),
        whole("u19-crlf-bom", format!("\u{FEFF}{}", events.replace('\n', "\r\n"))),
        whole("u20-fields", [ROLE, &fields, ": ping\n\n", "event: ping\n\n", FINISH, USAGE, DONE].concat()),
        whole_by("u26-trailing", vec![send(trailing)], &events, at_once),
        whole("u28-no-mark", [ROLE, TOKEN, FINISH].concat()),
        whole("u29-two-marks", [&events, DONE].concat()),
        whole_by("u30-gzip", vec![send(gzip), send(chunk(&zipped)), send(LAST)], &zipped, at_once),
        whole("u31-usage", [&with_usage(ROLE), &*with_usage(TOKEN), &with_usage(FINISH), DONE].concat()),
        whole_by("u34-closes", [answer(&events), vec![Step::Close]].concat(), &events, at_once),
        whole_by(
            "u37-closes",
            vec![send("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"), send(&events), Step::Close],
            &events,
            at_once,
        ),
        whole(
            "u38-tools",
            [ROLE, tool, tool, "data: {\"choices\":[]}\n\n", &FINISH.replace("stop", "tool_calls"), DONE].concat(),
        ),
        whole(
            "u38-choices",
            [ROLE, TOKEN, &second(ROLE), &second(TOKEN), FINISH, &second(FINISH), USAGE, DONE].concat(),
        ),
    ]
}
