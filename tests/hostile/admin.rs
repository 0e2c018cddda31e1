//! The admin listener is another port, and nothing that is sent to the data port leads there.

use tokio::io::AsyncWriteExt;

use crate::frames::{END_HEADERS, END_STREAM, HEADERS, Raw, block, field, frame};
use crate::neighbour::whole;
use crate::support::backend::Backend;
use crate::support::client::{connect, read_reply};
use crate::support::{Headway, backend, config, page};

/// What the admin listener answers to.
const PATHS: [&str; 13] = [
    "/",
    "/api",
    "/metrics",
    "/healthz",
    "/readyz?verbose",
    "/api/v1/config",
    "/api/v1/backends",
    "/api/v1/requests",
    "/api/v1/events",
    "/api/v1/version",
    "/-/reload",
    "/-/drain",
    "/api/v1/backends/n/drain",
];

/// Other spellings of a path.
fn spellings(path: &str, admin: &str) -> Vec<String> {
    let bare = path.trim_start_matches('/');
    vec![
        path.to_owned(),
        format!("/{path}"),
        format!("/.{path}"),
        format!("/v1/models/../..{path}"),
        format!("/v1/chat/completions/..{path}"),
        format!("/v1/models/..%2f..%2f{bare}"),
        format!("/%2e{path}"),
        format!("\\{bare}"),
        format!("{path};x=y"),
        format!("{path}%00"),
        format!("{path}#/v1/models"),
        path.replace('m', "%6d").replace('a', "%61"),
        format!("http://{admin}{path}"),
        format!("http://localhost{path}"),
    ]
}

/// Fields that some servers take for another target.
const FIELDS: [&str; 6] = [
    "",
    "x-original-url: {path}\r\n",
    "x-rewrite-url: {path}\r\n",
    "x-forwarded-host: {admin}\r\nx-forwarded-prefix: {path}\r\n",
    "x-http-method-override: POST\r\norigin: http://{admin}\r\n",
    "authorization: Bearer token\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_the_data_port_leads_to_the_admin_listener() {
    let backend_ = Backend::start(whole()).await;
    let headway = Headway::start(&config(&[backend("n", backend_.address)], "", "")).await;
    let admin = headway.server.admin_address().to_string();
    let (mut tries, mut answers) = (0, Vec::new());
    for path in PATHS {
        for target in spellings(path, &admin) {
            for host in ["localhost", admin.as_str(), "h"] {
                // Each field once, with the plain spelling; the other spellings without.
                let fields = if target == path { &FIELDS[..] } else { &FIELDS[..1] };
                for field in fields {
                    let method = if path.contains("drain") || path.contains("reload") { "POST" } else { "GET" };
                    let field = field.replace("{path}", path).replace("{admin}", &admin);
                    let text =
                        format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{field}content-length: 0\r\n\r\n");
                    let mut client = connect(headway.address).await;
                    client.write_all(text.as_bytes()).await.expect("it reads");
                    let reply = read_reply(&mut client).await;
                    assert!(matches!(reply.status, 400 | 404), "{text}: {reply:?}");
                    tries += 1;
                    answers.push(reply.status);
                }
            }
        }
        let method = if path.contains('-') { "POST" } else { "GET" };
        for authority in ["localhost", admin.as_str()] {
            let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
            let fields = fields.map(|(name, value)| field(name, value));
            let mut raw = Raw::open(headway.address, &[]).await;
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).await;
            let ended = raw.end(1).await;
            assert!(!ended.ok, "{path} of {authority}: {ended:?}");
            tries += 1;
        }
    }
    println!("{tries} tries, {} not found, {} refused", count(&answers, 404), count(&answers, 400));
    // Nobody drained or reloaded anything, and the admin listener is where it was.
    assert_eq!(page(headway.server.admin_address(), "GET", "/readyz").await.0, 200);
    assert!(headway.server.fleet().backends()[0].usable());
    assert_eq!(backend_.connections(), 0);
}

fn count(answers: &[u16], status: u16) -> usize {
    answers.iter().filter(|one| **one == status).count()
}
