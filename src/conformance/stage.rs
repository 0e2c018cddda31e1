//! One proxy between our client and our backend.

use std::time::Duration;

use super::backend::{Backend, MARK, Received};
use super::client::{Reply, Target, ask};
use super::script::Script;

/// Longest wait for an answer, where a case has no better idea.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// What cases play on.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) target: Target,
    pub(super) backend: Backend,
    pub(super) model: String,
    /// After which the proxy gives up on a backend that sends no token, where that is known.
    pub(super) first_token: Option<Duration>,
}

/// Both sides of one exchange.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) reply: Reply,
    pub(super) received: Received,
}

impl Stage {
    /// A request's body with a mark; `members` are more of its members, each with a comma behind it.
    pub(super) fn body(&self, turn: u64, stream: bool, members: &str) -> String {
        format!(
            "{{\"model\":\"{}\",{members}\"messages\":[{{\"role\":\"user\",\"content\":\"{MARK}{turn} \"}}],\"stream\":{stream}}}",
            self.model
        )
    }

    /// A streamed request, answered by this script.
    pub(super) async fn stream(&self, script: Script) -> Seen {
        self.exchange(script, true, "", "").await
    }

    /// A request that is not streamed.
    pub(super) async fn unary(&self, script: Script) -> Seen {
        self.exchange(script, false, "", "").await
    }

    /// A request with these members and header fields on a connection of its own.
    pub(super) async fn exchange(&self, script: Script, stream: bool, members: &str, fields: &str) -> Seen {
        let turn = self.backend.expect(script);
        let request = self.target.request(fields, &self.body(turn, stream, members));
        self.send(turn, &request, PATIENCE).await
    }

    pub(super) async fn send(&self, turn: u64, request: &[u8], patience: Duration) -> Seen {
        let reply = match self.target.connect().await {
            Ok(mut tcp) => ask(&mut tcp, request, patience).await,
            Err(_) => Reply {
                status: 0,
                head: String::new(),
                body: Vec::new(),
                arrivals: Vec::new(),
                end: super::client::End::Cut,
                took: Duration::ZERO,
            },
        };
        Seen { reply, received: self.backend.received(turn) }
    }

    /// Waits, not for ever, until this holds of what the backend received.
    pub(super) async fn wait(&self, turn: u64, patience: Duration, holds: impl Fn(&Received) -> bool) -> Received {
        let waiting = async {
            while !holds(&self.backend.received(turn)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(patience, waiting).await;
        self.backend.received(turn)
    }
}
