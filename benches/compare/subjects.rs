//! What is compared, each configured for event streams as its own documentation says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Program and arguments; empty for the backend itself.
    pub(crate) command: Vec<String>,
}

/// Every subject, direct connection first; their configuration files go into `folder`.
pub(crate) fn all(folder: &Path, backends: &[SocketAddr; 2]) -> Vec<Subject> {
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a configuration file");
        path.display().to_string()
    };
    let (nginx, haproxy, headway) = (free_port(), free_port(), free_port());
    let nginx_file = write("nginx.conf", nginx_conf(folder, nginx, backends));
    let haproxy_file = write("haproxy.cfg", haproxy_cfg(haproxy, backends));
    let headway_file = write("headway.yaml", headway_yaml(folder, headway, backends));
    vec![
        Subject { name: "direct", address: backends[0], command: Vec::new() },
        Subject { name: "nginx", address: nginx, command: command(&["nginx", "-c", &nginx_file, "-e", "/dev/null"]) },
        Subject { name: "haproxy", address: haproxy, command: command(&["haproxy", "-f", &haproxy_file]) },
        Subject {
            name: "headway",
            address: headway,
            command: command(&[env!("CARGO_BIN_EXE_headway"), "serve", "--config", &headway_file]),
        },
    ]
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn nginx_conf(folder: &Path, listen: SocketAddr, backends: &[SocketAddr; 2]) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx-error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log {folder}/nginx-access.log;\n  client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
         keepalive_requests 1000000;\n  \
         upstream nim {{ server {}; server {}; keepalive 2048; keepalive_requests 1000000; }}\n  \
         server {{ listen {listen}; location / {{ proxy_pass http://nim; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; proxy_buffering off; proxy_read_timeout 3600s; }} }}\n}}\n",
        backends[0], backends[1]
    )
}

fn haproxy_cfg(listen: SocketAddr, backends: &[SocketAddr; 2]) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  option http-no-delay\n  timeout connect 2s\n  timeout client 3600s\n  timeout server 3600s\n\
         frontend f\n  bind {listen}\n  default_backend b\n\
         backend b\n  balance leastconn\n  http-reuse always\n  server a {}\n  server b {}\n",
        backends[0], backends[1]
    )
}

/// Everything on: objectives, prices, metrics, access log.
fn headway_yaml(folder: &Path, listen: SocketAddr, backends: &[SocketAddr; 2]) -> String {
    format!(
        "listeners: [{{ address: \"{listen}\" }}]\nthreads: 1\nadmin: {{ address: \"127.0.0.1:0\" }}\n\
         telemetry: {{ access_log: {{ format: json, path: {}/access.log }} }}\n\
         defaults: {{ timeouts: {{ idle: 1h, first_token: 1h }} }}\n\
         backends:\n  - {{ name: a, url: \"http://{}\", price: {{ per_gpu_hour: 4, gpus: 1 }} }}\n  \
         - {{ name: b, url: \"http://{}\", price: {{ per_gpu_hour: 2, gpus: 1 }} }}\n\
         routes:\n  - name: chat\n    backends: [a, b]\n    policy: cheapest_within_slo\n    \
         slo: {{ ttft: {{ p95: 300ms }}, itl: {{ p95: 40ms }} }}\n",
        folder.display(),
        backends[0],
        backends[1]
    )
}
