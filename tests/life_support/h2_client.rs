//! An HTTP/2 client that resets streams, drops connections and leaves windows closed on purpose.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::client::{self, PATH};
use super::patiently;

/// A connection; dropping it closes the socket at once.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request under way.
pub(crate) struct Stream {
    pub(crate) up: SendStream<Bytes>,
    pub(crate) head: Option<ResponseFuture>,
    pub(crate) down: Option<RecvStream>,
    pub(crate) status: u16,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(client::connect(address).await).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = patiently(
            "h2",
            h2::client::Builder::new().initial_connection_window_size(1 << 18).handshake::<_, Bytes>(io),
        )
        .await
        .expect("h2");
        let driver = tokio::spawn(async move { drop(connection.await) });
        Self { sender, driver }
    }

    /// Sends a request's head, and its body if there is one; without, the body stays open.
    pub(crate) async fn send(&self, id: &str, body: Option<&str>) -> Stream {
        let request = Request::post(format!("http://headway{PATH}")).header("x-request-id", id);
        let request = request.header("content-type", "application/json").body(()).expect("a request");
        let mut sender = patiently("a stream", self.sender.clone().ready()).await.expect("a stream");
        let (head, mut up) = sender.send_request(request, false).expect("a stream");
        if let Some(body) = body {
            up.send_data(Bytes::from(body.to_owned()), true).expect("it is queued");
        }
        Stream { up, head: Some(head), down: None, status: 0 }
    }
}

impl Stream {
    pub(crate) fn reset(&mut self) {
        self.up.send_reset(Reason::CANCEL);
    }

    /// Sends a part of the body, as fast as the windows let it.
    pub(crate) async fn send_part(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            self.up.reserve_capacity(part.len());
            let capacity = patiently("a window", std::future::poll_fn(|cx| self.up.poll_capacity(cx))).await;
            let capacity = capacity.expect("an open stream").expect("an open stream").min(part.len());
            self.up.send_data(Bytes::copy_from_slice(&part[..capacity]), false).expect("it is queued");
            part = &part[capacity..];
        }
    }

    /// Waits for the response's head.
    pub(crate) async fn head(&mut self) -> Result<u16, h2::Error> {
        let response = patiently("a head", self.head.take().expect("not yet read")).await?;
        self.status = response.status().as_u16();
        self.down = Some(response.into_body());
        Ok(self.status)
    }

    /// The next piece of the body; its window is opened again.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let down = self.down.as_mut().expect("a head");
        match patiently("a piece", down.data()).await {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(bytes)) => {
                down.flow_control().release_capacity(bytes.len())?;
                Ok(Some(bytes))
            }
        }
    }

    pub(crate) async fn read_until(&mut self, text: &str) -> String {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            match self.piece().await.expect("more") {
                Some(bytes) => all.extend_from_slice(&bytes),
                None => panic!("`{text}` never came: {}", String::from_utf8_lossy(&all)),
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Head and whole body; the body's end as the stream says it.
    pub(crate) async fn reply(&mut self) -> (u16, String, Result<(), h2::Error>) {
        if let Err(error) = self.head().await {
            return (0, String::new(), Err(error));
        }
        let mut all = Vec::new();
        let end = loop {
            match self.piece().await {
                Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (self.status, String::from_utf8_lossy(&all).into_owned(), end)
    }
}
