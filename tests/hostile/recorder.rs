//! A backend that reads by the letter of RFC 9112 and keeps whatever does not follow it: a request that it sees is one that
//! headway sent, and a byte after its framing is one that somebody smuggled.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long bytes are waited for that should not be there.
const STRAYING: Duration = Duration::from_millis(5);

/// What arrived.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// Heads of whole requests, health checks apart.
    pub(crate) requests: Vec<String>,
    /// What followed no rule, and why.
    pub(crate) faults: Vec<String>,
    /// Connections that carried a request.
    pub(crate) connections: usize,
}

/// A running recorder.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let of_accept = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, Arc::clone(&of_accept)));
            }
        });
        Self { address, seen, accepting }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let (mut buffer, mut first) = (Vec::new(), true);
    loop {
        match read(&buffer) {
            Read::More => match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Read::Broken(why) => {
                let shown = String::from_utf8_lossy(&buffer).into_owned();
                return seen.lock().unwrap().faults.push(format!("{why}: {shown:?}"));
            }
            Read::Whole { head, length } => {
                buffer.drain(..length);
                // headway never sends a second request before this one is answered.
                let _ = tokio::time::timeout(STRAYING, stream.read_buf(&mut buffer)).await;
                if !buffer.is_empty() {
                    let shown = String::from_utf8_lossy(&buffer).into_owned();
                    seen.lock().unwrap().faults.push(format!("bytes after a request: {shown:?}"));
                    return;
                }
                let id = field(&head, "x-request-id").unwrap_or_default().to_owned();
                if !is_health(&head) {
                    let mut seen = seen.lock().unwrap();
                    seen.requests.push(head);
                    seen.connections += usize::from(std::mem::take(&mut first));
                }
                let body = format!(
                    r#"{{"id":"{id}","choices":[{{"index":0,"message":{{"content":"a"}},"finish_reason":"stop"}}]}}"#
                );
                let length = body.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
                if stream.write_all((head + &body).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn is_health(head: &str) -> bool {
    ["GET /v1/health/ready ", "GET /health ", "GET /v1/models "].iter().any(|path| head.starts_with(path))
}

enum Read {
    /// It is not whole yet.
    More,
    Whole {
        head: String,
        /// With its body.
        length: usize,
    },
    Broken(&'static str),
}

/// Reads one request, strictly.
fn read(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.windows(2).any(|window| window == b"\n\n") {
            Read::Broken("bare line ends")
        } else {
            Read::More
        };
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { return Read::Broken("a head that is no text") };
    if let Some(why) = fault(head) {
        return Read::Broken(why);
    }
    let body = &bytes[end + 4..];
    let lengths: Vec<_> = fields(head, "content-length").collect();
    let codings: Vec<_> = fields(head, "transfer-encoding").collect();
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => Some(0),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let Ok(length) = length.parse::<usize>() else { return Read::Broken("an endless length") };
            Some(length).filter(|length| body.len() >= *length)
        }
        ([], ["chunked"]) => match chunked(body) {
            Ok(length) => length,
            Err(why) => return Read::Broken(why),
        },
        _ => return Read::Broken("two framings, or a strange one"),
    };
    length.map_or(Read::More, |length| Read::Whole { head: head.to_owned(), length: end + 4 + length })
}

/// What is wrong with a head.
fn fault(head: &str) -> Option<&'static str> {
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next()?.split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Some("a strange request line") };
    if !token(method) || !target.starts_with('/') || target.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Some("a strange request line");
    }
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Some("a line that is no field") };
        if !token(name) || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Some("a strange field");
        }
    }
    (fields(head, "host").count() != 1).then_some("not one host")
}

fn fields<'a>(head: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    pairs.filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn field<'a>(head: &'a str, name: &'a str) -> Option<&'a str> {
    fields(head, name).next()
}

/// The length of a chunked body, framing included; `None` while it is not whole.
fn chunked(body: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let rest = &body[at..];
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).ok().filter(|size| size.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or("a strange chunk")?;
        let next = end + 2 + size;
        let Some(after) = rest.get(next..next + 2) else { return Ok(None) };
        if after != b"\r\n" {
            return Err("a chunk without its end");
        }
        at += next + 2;
        if size == 0 {
            return Ok(Some(at));
        }
    }
}
