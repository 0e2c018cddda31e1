//! Collectors of every mood, as bare sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Takes every batch.
pub(crate) async fn taking() -> SocketAddr {
    accepting(|tcp| async move {
        let _ = take(tcp).await;
    })
    .await
}

/// Accepts, and never says anything.
pub(crate) async fn hanging() -> SocketAddr {
    accepting(|tcp| async move {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        drop(tcp);
    })
    .await
}

/// Reads a byte a second.
pub(crate) async fn crawling() -> SocketAddr {
    accepting(|mut tcp| async move {
        let mut byte = [0];
        while tcp.read(&mut byte).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
}

/// Is not there.
pub(crate) async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("an address")
}

async fn accepting<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(tcp));
        }
    });
    address
}

async fn take(mut tcp: TcpStream) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(1 << 20);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if tcp.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let field = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = field.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        while buffer.len() < end + length {
            if tcp.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..end + length);
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
