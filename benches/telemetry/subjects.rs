//! One headway, configured six ways.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::collector;

/// A way to run headway.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) command: Vec<String>,
}

/// Traces off first: everything is compared with that.
pub(crate) async fn all(folder: &Path, backends: &[SocketAddr; 2]) -> Vec<Subject> {
    let taking = collector::taking().await;
    let troubled = [collector::refusing().await, collector::hanging().await, collector::crawling().await];
    let ways = [
        ("off", None),
        ("5 %", Some((taking, "5%"))),
        ("100 %", Some((taking, "100%"))),
        ("100 %, refused", Some((troubled[0], "100%"))),
        ("100 %, hung", Some((troubled[1], "100%"))),
        ("100 %, 1 byte/s", Some((troubled[2], "100%"))),
    ];
    let headway = std::env::var("HEADWAY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_headway").to_owned());
    let subject = |(number, (name, otlp)): (usize, Way)| {
        let (address, admin) = (free_port(), free_port());
        let file = folder.join(format!("headway-{number}.yaml"));
        fs::write(&file, configuration(folder, number, (address, admin), backends, otlp))
            .expect("a configuration file");
        let command = [&*headway, "serve", "--config", &file.display().to_string()].map(str::to_owned).to_vec();
        Subject { name, address, admin, command }
    };
    ways.into_iter().enumerate().map(subject).collect()
}

/// What a subject is called, and its collector and sample ratio.
type Way = (&'static str, Option<(SocketAddr, &'static str)>);

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn configuration(
    folder: &Path,
    number: usize,
    (listen, admin): (SocketAddr, SocketAddr),
    backends: &[SocketAddr; 2],
    otlp: Option<(SocketAddr, &str)>,
) -> String {
    let otlp = otlp.map_or_else(String::new, |(collector, ratio)| {
        format!("otlp: {{ endpoint: \"http://{collector}\", sample_ratio: {ratio} }}, ")
    });
    format!(
        "listeners: [{{ address: \"{listen}\" }}]\nthreads: 1\nadmin: {{ address: \"{admin}\" }}\n\
         telemetry: {{ {otlp}access_log: {{ format: json, path: {}/access-{number}.log }} }}\n\
         backends:\n  - {{ name: a, url: \"http://{}\", price: {{ per_gpu_hour: 4, gpus: 1 }} }}\n  \
         - {{ name: b, url: \"http://{}\", price: {{ per_gpu_hour: 2, gpus: 1 }} }}\n\
         routes:\n  - {{ name: chat, backends: [a, b], slo: {{ ttft: {{ p95: 30s }} }} }}\n",
        folder.display(),
        backends[0],
        backends[1]
    )
}
