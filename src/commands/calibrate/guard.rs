//! Whether a backend has users: measuring would hurt them, and they would spoil the measurement.
//!
//! What cannot be found out is not taken for a no: whoever knows better says `--in-service`.

use anyhow::bail;
use serde_json::Value;
use tokio::time::sleep;

use super::visit::Visit;
use crate::commands::ask::Admin;
use crate::config::settings::{Backend, EngineMetrics, Settings};

/// Fewer requests than this are none.
const NOBODY: f64 = 0.5;
/// Looks at its metrics, an interval apart, before what they say is believed: the latest may be of our own load.
const LOOKS: u32 = 3;

/// Watches over one backend's users.
pub(super) struct Guard<'a> {
    visit: &'a Visit,
    settings: &'a Settings,
    place: usize,
    /// Whether its engine says its load.
    page: bool,
    /// Whether the one who asks knows better.
    off: bool,
}

/// What a running headway says of a backend.
#[derive(Debug, PartialEq, Eq)]
enum Used {
    /// It sends it requests, or has some under way there.
    Yes(String),
    /// It has it, drained, and nothing under way.
    Drained,
    /// There is no headway, or it does not know it.
    Unknown,
}

impl<'a> Guard<'a> {
    pub(super) async fn of(visit: &'a Visit, settings: &'a Settings, place: usize, off: bool) -> Self {
        let page = visit.has_page(place).await;
        Self { visit, settings, place, page, off }
    }

    /// Refuses a backend that has users, or may have some.
    ///
    /// # Errors
    /// When a headway of this configuration sends it requests, its engine has some that are not ours, or nothing says so.
    pub(super) async fn may_go_on(&self) -> anyhow::Result<()> {
        let Some(backend) = self.settings.backends.get(self.place).filter(|_| !self.off) else { return Ok(()) };
        let admin = self.settings.admin.address;
        let used = used(self.settings, backend).await?;
        if let Used::Yes(state) = &used {
            let name = &backend.name;
            bail!(
                "a running headway ({admin}) has it in service ({state}); drain it there first \
                 (curl -X POST http://{admin}/api/v1/backends/{name}/drain), or measure it nevertheless with --in-service"
            );
        }
        match (self.page, used) {
            (true, _) => self.engine_is_idle().await,
            (false, Used::Drained) => Ok(()),
            (false, _) => bail!(
                "nothing says whether it has users: its engine has no page of metrics (`metrics` names it), and no headway at \
                 {admin} knows it; if it has none, --in-service measures it"
            ),
        }
    }

    /// Tokens that its engine's key/value cache holds, where it says.
    pub(super) async fn kv_cache_tokens(&self) -> Option<u64> {
        let load = if self.page { self.visit.engine(self.place).await? } else { return None };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of tokens")]
        load.kv_capacity.map(|tokens| tokens as u64)
    }

    async fn engine_is_idle(&self) -> anyhow::Result<()> {
        let mut looks = 0;
        loop {
            let Some(load) = self.visit.engine(self.place).await else {
                bail!("its engine's page of metrics does not answer any more");
            };
            looks += 1;
            match load.running + load.waiting {
                few if few <= NOBODY => return Ok(()),
                _ if looks <= LOOKS => sleep(EngineMetrics::INTERVAL).await,
                _ => bail!(
                    "its engine has {:.0} requests running and {:.0} waiting that are not ours; measure it nevertheless with \
                     --in-service",
                    load.running,
                    load.waiting
                ),
            }
        }
    }
}

/// Asks the headway at the configuration's admin address. Where nobody listens, there is none.
async fn used(settings: &Settings, backend: &Backend) -> anyhow::Result<Used> {
    let address = settings.admin.address;
    if address.port() == 0 {
        return Ok(Used::Unknown);
    }
    let admin = Admin::at(address, settings.admin.token.as_ref());
    match admin.get("/api/v1/backends").await {
        Ok(answer) => Ok(used_by(&answer, backend)),
        Err(error) if is_refused(&error) => Ok(Used::Unknown),
        Err(error) => {
            Err(error.context(format!("whether a headway at {address} uses it is not known; --in-service measures it")))
        }
    }
}

fn is_refused(error: &anyhow::Error) -> bool {
    let refused = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::ConnectionRefused;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(refused))
}

/// What a headway says of all its backends at the same URL.
fn used_by(answer: &Value, backend: &Backend) -> Used {
    let scheme = if backend.url.https { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", backend.url.authority(), backend.url.base_path);
    let all = answer.get("backends").and_then(Value::as_array);
    let same = all.into_iter().flatten().filter(|one| one.get("url").and_then(Value::as_str) == Some(&*url));
    let mut found = Used::Unknown;
    for one in same {
        let state = one.get("state").and_then(Value::as_str).unwrap_or("unknown");
        match (state, one.get("in_flight").and_then(Value::as_u64)) {
            ("draining", Some(0)) => found = Used::Drained,
            ("draining", _) => return Used::Yes("draining, with requests under way".to_owned()),
            _ => return Used::Yes(state.to_owned()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{NoEnvironment, parse};

    #[track_caller]
    fn check(answer: &Value, expected: &Used) {
        let text = "listeners: [{ address: 127.0.0.1:1 }]\nbackends: [{ name: a, url: 'http://a:8000/x' }]\n\
                    routes: [{ name: r, backends: [a] }]\n";
        let loaded = parse("headway.yaml", text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(used_by(answer, &loaded.settings.backends[0]), *expected, "{answer}");
    }

    #[test]
    fn every_backend_at_the_same_url_must_be_drained_and_empty() {
        let one =
            |url: &str, state: &str, in_flight: u64| json!({ "url": url, "state": state, "in_flight": in_flight });
        let all = |backends: &[Value]| json!({ "backends": backends });
        let here = "http://a:8000/x";
        check(&all(&[]), &Used::Unknown);
        check(&all(&[one("http://b:8000", "ready", 0)]), &Used::Unknown);
        check(&all(&[one(here, "ready", 0)]), &Used::Yes("ready".to_owned()));
        check(&all(&[one(here, "draining", 0)]), &Used::Drained);
        check(&all(&[one(here, "draining", 0), one(here, "ready", 0)]), &Used::Yes("ready".to_owned()));
        check(&all(&[one(here, "draining", 2)]), &Used::Yes("draining, with requests under way".to_owned()));
    }
}
