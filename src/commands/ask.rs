//! Questions to the admin listener of a running headway, for the commands that show what it knows.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const LONGEST: usize = 16 << 20;
/// Where an admin listener is when its URL does not say.
const PORT: u16 = 9_090;

/// The environment variable that holds the admin token where `--token` does not.
const TOKEN: &str = "HEADWAY_ADMIN_TOKEN";

/// The arguments that say whom to ask.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The admin listener of the headway to ask.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub admin: String,
    /// The admin token; by default that of the environment variable `HEADWAY_ADMIN_TOKEN`, which other users of this
    /// machine cannot see.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// Where to ask, and with which token.
pub(super) struct Admin {
    authority: String,
    address: String,
    token: Option<String>,
}

impl Admin {
    /// The one that the arguments mean.
    pub(super) fn of(args: &AdminArgs) -> anyhow::Result<Self> {
        let token = args.token.clone().or_else(|| std::env::var(TOKEN).ok()).filter(|token| !token.is_empty());
        Self::parse(&args.admin, token)
    }

    /// The one that a configuration describes; an address that stands for all is asked on this machine.
    pub(super) fn at(mut address: SocketAddr, token: Option<&SecretString>) -> Self {
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let (authority, address) = (address.to_string(), address.to_string());
        Self { authority, address, token: token.map(|token| token.expose_secret().to_owned()) }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Reads `http://127.0.0.1:9090`; the scheme and the port may be missing.
    fn parse(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("`{url}` is not an http:// URL; the admin listener speaks no other");
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(PORT));
        Ok(Self { authority: authority.to_string(), address, token })
    }

    /// Asks for a path, and reads the answer.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = timeout(PATIENCE, self.exchange(path)).await;
        let answer = answer.map_err(|_| anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()));
        let (status, body) = answer.and_then(|answer| answer).with_context(|| format!("asking {}", self.address))?;
        let value = serde_json::from_slice::<Value>(&body);
        if status == StatusCode::OK {
            return value.with_context(|| format!("{} does not answer as headway's admin listener does", self.address));
        }
        let told = value.ok().and_then(|value| Some(value.pointer("/error/message")?.as_str()?.to_owned()));
        bail!("{} answers {status}: {}", self.address, told.unwrap_or_else(|| "without a reason".to_owned()))
    }

    async fn exchange(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", &self.authority);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        driving.abort();
        let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

/// A text as it stands in a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(Admin::parse(url, None).ok().map(|admin| admin.address).as_deref(), expected, "{url}");
    }

    #[test]
    fn an_admin_listener_is_named_by_its_url() {
        check("http://127.0.0.1:9191", Some("127.0.0.1:9191"));
        check("http://headway.internal/", Some("headway.internal:9090"));
        check("localhost:1", Some("localhost:1"));
        check("[::1]:9", Some("[::1]:9"));
        check("https://localhost", None);
        check("http://", None);
    }

    #[test]
    fn an_address_that_stands_for_all_is_asked_here() {
        for (address, expected) in
            [("0.0.0.0:9090", "127.0.0.1:9090"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(Admin::at(address.parse().expect("an address"), None).address, expected);
        }
    }

    #[test]
    fn what_would_end_a_query_is_encoded() {
        assert_eq!(encoded("a-b_c.d"), "a-b_c.d");
        assert_eq!(encoded("a&b=c é"), "a%26b%3Dc%20%C3%A9");
    }
}
