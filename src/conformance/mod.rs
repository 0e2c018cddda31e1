//! Whether a proxy before OpenAI-compatible servers does right by its clients: streaming, leaving, breaking.
//!
//! The proxy under test stands between a client and a scripted backend, both ours, so that both ends of every exchange
//! are seen with their times. Which script a request gets is told by a mark in its prompt, which every proxy passes on.

mod backend;
mod cases;
mod client;
mod http1;
mod script;
mod stage;
mod verdict;

use std::net::SocketAddr;
use std::time::Duration;

use self::backend::Backend;
use self::cases::{CASES, Case};
use self::client::Target;
use self::script::Script;
use self::stage::Stage;
pub use self::verdict::Verdict;
use self::verdict::{Finding, skip};

/// How long the proxy may take until it sends something to the backend.
const WARM_UP: Duration = Duration::from_secs(30);

/// What is seen of a case that a proxy did not let come to the backend, because it takes it for broken, say.
const UNREACHED: &str = "did not reach the backend";

/// What is under test, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The proxy.
    pub proxy: SocketAddr,
    /// Its name, as the Host field has it.
    pub authority: String,
    /// What stands before `/v1` in its paths.
    pub base_path: String,
    /// Where the scripted backend listens.
    pub backend: SocketAddr,
    /// The model to ask for.
    pub model: String,
    /// A key to send.
    pub key: Option<String>,
    /// After which time without a token the proxy gives up.
    pub first_token: Option<Duration>,
    /// Only cases whose name contains one of these; all, when there is none.
    pub only: Vec<String>,
}

/// What one case came to.
#[derive(Debug, Clone)]
pub struct Row {
    /// The case's name.
    pub case: &'static str,
    /// What a proxy that does it right does.
    pub expected: &'static str,
    /// What was seen.
    pub seen: String,
    /// What that is worth.
    pub verdict: Verdict,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// The scripted backend has no address.
    #[error("the scripted backend cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// Nothing that was sent to the proxy came to the backend.
    #[error("nothing sent to {proxy} reached {backend} within {}s (last status {status}): is the proxy configured to send model `{model}` there?", WARM_UP.as_secs())]
    NoWay {
        /// The proxy.
        proxy: SocketAddr,
        /// The backend.
        backend: SocketAddr,
        /// The model.
        model: String,
        /// What the proxy answered last; 0 when nothing.
        status: u16,
    },
}

/// The names of all cases, and what each expects.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    CASES.iter().map(|case| (case.name, case.expected))
}

/// Runs the cases, one after the other; `each` hears of each as it ends.
///
/// # Errors
/// When the backend cannot listen, or the proxy does not send to it.
pub async fn run(options: &Options, mut each: impl FnMut(&Row)) -> Result<Vec<Row>, ConformanceError> {
    let address = options.backend;
    let backend =
        Backend::start(address, &options.model).await.map_err(|error| ConformanceError::Bind { address, error })?;
    let target = Target {
        address: options.proxy,
        authority: options.authority.clone(),
        base: options.base_path.clone(),
        key: options.key.clone(),
    };
    let stage = Stage { target, backend, model: options.model.clone(), first_token: options.first_token };
    warm_up(&stage).await?;
    let (mut rows, mut reachable) = (Vec::new(), true);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()));
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let finding = played(&stage, case, reachable).await;
        let row = Row { case: case.name, expected: case.expected, seen: finding.seen, verdict: finding.verdict };
        each(&row);
        rows.push(row);
        // A proxy that took the backend out after a failure gets it back before the next case.
        reachable = warm_up(&stage).await.is_ok();
    }
    Ok(rows)
}

/// What a case comes to; nothing where the proxy did not ask the backend at all.
async fn played(stage: &Stage, case: &Case, reachable: bool) -> Finding {
    let before = stage.backend.given_out();
    if !reachable {
        return skip(UNREACHED);
    }
    let finding = (case.play)(stage).await;
    let reached = !case.needs_the_backend() || stage.backend.was_reached_after(before);
    if reached { finding } else { skip(UNREACHED) }
}

/// Asks until a stream comes through.
async fn warm_up(stage: &Stage) -> Result<(), ConformanceError> {
    let mut status = 0;
    let asking = async {
        loop {
            let seen = stage.stream(Script::usual()).await;
            status = seen.reply.status;
            if status == 200 && seen.received.attempts > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let asked = tokio::time::timeout(WARM_UP, asking).await;
    asked.map_err(|_| ConformanceError::NoWay {
        proxy: stage.target.address,
        backend: stage.backend.address,
        model: stage.model.clone(),
        status,
    })
}
