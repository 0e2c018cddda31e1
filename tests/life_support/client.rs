//! An HTTP/1.1 client of plain sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::patiently;

pub(crate) const PATH: &str = "/v1/chat/completions";

/// A streamed chat request for that model.
pub(crate) fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}],"stream":true}}"#)
}

/// The head of a request with a body of that length.
pub(crate) fn head(id: &str, length: usize) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: headway\r\nx-request-id: {id}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// A whole request.
pub(crate) fn request(id: &str, body: &str) -> String {
    head(id, body.len()) + body
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// A connection on which a request was sent.
pub(crate) async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = connect(address).await;
    stream.write_all(text.as_bytes()).await.expect("it reads");
    stream
}

/// Makes the coming close a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// Reads until that text has come; what was read.
pub(crate) async fn read_until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let mut bytes = Vec::new();
    patiently(text, async {
        while !String::from_utf8_lossy(&bytes).contains(text) {
            let read = stream.read_buf(&mut bytes).await.expect("more");
            assert!(read > 0, "`{text}` never came: {}", String::from_utf8_lossy(&bytes));
        }
    })
    .await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer, and whether it was whole when the connection or the answer ended.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) whole: bool,
}

/// Reads one answer, to its end or to the connection's.
pub(crate) async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> Reply {
    let mut bytes = Vec::new();
    let whole = patiently("an answer", async {
        loop {
            if is_whole(&bytes) {
                return true;
            }
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    })
    .await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, text, whole }
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
    let body = &bytes[split + 4..];
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with(b"\r\n0\r\n\r\n") || body == b"0\r\n\r\n";
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// Sends a request and reads its answer.
pub(crate) async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> Reply {
    stream.write_all(text.as_bytes()).await.expect("it reads");
    stream.flush().await.expect("it reads");
    read_reply(stream).await
}
