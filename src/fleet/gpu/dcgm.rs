//! Asking the DCGM exporter of a backend's host.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::connectors::http::Connector;
use tokio::time::{sleep, timeout};

use super::super::backend::Shared;
use super::super::resolve::Names;
use super::super::{endpoint, health};
use super::{Gpu, GpuReport};
use crate::clock::Clock;
use crate::config::settings::{Backend, BackendUrl, GpuId, NamedGpu};
use crate::wire::dcgm::{self, DcgmGpu};

/// Between two questions; exporters look at their GPUs every 10 to 30 seconds.
const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for a page, connecting included.
const PATIENCE: Duration = Duration::from_secs(4);
/// What was heard is believed until two questions in a row had no answer.
const BELIEVED: Duration = Duration::from_secs(15);
/// Between two looks at whether the configuration has come to name an exporter.
const IDLE: Duration = Duration::from_secs(1);

/// Asks a backend's exporter, as long as the configuration names one.
pub(in crate::fleet) async fn keep_asking(shared: &Shared, connector: &Connector, names: &Names, clock: &dyn Clock) {
    let mut answered = true;
    loop {
        let settings = shared.latest.load_full();
        let Some(exporter) = &settings.dcgm else {
            sleep(IDLE).await;
            continue;
        };
        let asking = ask(&exporter.url, settings.allow_link_local, connector, names, clock);
        let found = timeout(PATIENCE, Box::pin(asking)).await.ok().flatten();
        let gpus = found.map(|found| choose(&settings, &found));
        if gpus.is_some() != answered {
            answered = gpus.is_some();
            tell(&settings.name, answered);
        }
        if let Some(gpus) = gpus {
            shared.heard(GpuReport::new("dcgm", gpus, clock.now(), BELIEVED));
        }
        sleep(EVERY).await;
    }
}

fn tell(backend: &str, answered: bool) {
    if answered {
        tracing::info!(backend, "the DCGM exporter answers again");
    } else {
        tracing::warn!(backend, "no DCGM exporter answers there; the backend's GPUs are not seen");
    }
}

/// Every GPU that the exporter shows; `None` where it shows none.
async fn ask(
    url: &BackendUrl,
    link_local: bool,
    connector: &Connector,
    names: &Names,
    clock: &dyn Clock,
) -> Option<Vec<DcgmGpu>> {
    let address = match url.host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, url.port),
        Err(_name) => names.look_up(&url.host, url.port, link_local, clock).await?.addresses.first().copied()?,
    };
    let peer = endpoint::plain_peer(address, url, PATIENCE);
    let page = health::page_of(connector, &peer, url).await?;
    let gpus = dcgm::parse(&String::from_utf8_lossy(&page));
    (!gpus.is_empty()).then_some(gpus)
}

/// Those of the backend, as the configuration names them; all where it names none.
fn choose(settings: &Backend, found: &[DcgmGpu]) -> Vec<Gpu> {
    if settings.gpus.is_empty() {
        return found.iter().map(|one| shown(number(one), one)).collect();
    }
    let of = |id: &GpuId| {
        let one = found.iter().find(|one| is_named(one, id));
        one.map_or_else(|| missing(id), |one| shown(Arc::clone(&id.0), one))
    };
    settings.gpus.iter().map(of).collect()
}

fn shown(id: Arc<str>, one: &DcgmGpu) -> Gpu {
    let model = (!one.model.is_empty()).then(|| one.model.as_str().into());
    Gpu { id, model, reading: one.reading, problem: None }
}

fn missing(id: &GpuId) -> Gpu {
    let problem = Some("the DCGM exporter does not show it".into());
    Gpu { id: Arc::clone(&id.0), model: None, reading: <_>::default(), problem }
}

/// A number, or two for an instance: never a text of the page's own, since it becomes a label.
fn number(one: &DcgmGpu) -> Arc<str> {
    match one.instance {
        None => one.gpu.to_string().into(),
        Some(instance) => format!("{}/{instance}", one.gpu).into(),
    }
}

/// An instance is named by its numbers, or by the old form of its UUID, `MIG-GPU-…/INSTANCE/…`; the exporter does not
/// tell the new one.
fn is_named(one: &DcgmGpu, id: &GpuId) -> bool {
    match id.named() {
        Some(NamedGpu::Index(gpu)) => one.gpu == gpu && one.instance.is_none(),
        Some(NamedGpu::Instance { gpu, instance }) => one.gpu == gpu && one.instance == Some(instance),
        Some(NamedGpu::Uuid(uuid)) => match uuid.strip_prefix("MIG-").map(|rest| rest.splitn(3, '/')) {
            None => one.uuid == uuid && one.instance.is_none(),
            Some(mut parts) => {
                let (gpu, instance) = (parts.next(), parts.next().and_then(|number| number.parse().ok()));
                gpu == Some(&*one.uuid) && instance.is_some() && one.instance == instance
            }
        },
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(gpu: u32, instance: Option<u32>, uuid: &str) -> DcgmGpu {
        DcgmGpu { gpu, instance, uuid: uuid.to_owned(), model: String::new(), reading: <_>::default() }
    }

    #[track_caller]
    fn check(name: &str, expected: &[usize]) {
        let found = [one(0, None, "GPU-a"), one(1, None, "GPU-b"), one(1, Some(2), "GPU-b"), one(1, Some(3), "GPU-b")];
        let id = GpuId(name.into());
        let named = found.iter().enumerate().filter(|(_, one)| is_named(one, &id)).map(|(place, _)| place);
        assert_eq!(named.collect::<Vec<_>>(), expected, "{name}");
    }

    #[test]
    fn a_gpu_of_a_page_is_named_as_the_configuration_does_it() {
        check("0", &[0]);
        check("GPU-a", &[0]);
        check("GPU-b", &[1]);
        check("1/3", &[3]);
        check("MIG-GPU-b/2/0", &[2]);
        check("MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", &[]);
        check("7", &[]);
    }
}
