//! Certificates that are renewed while streams go on, on both sides, however the new ones are announced.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::authority::{Authority, Leaf, tls};
use crate::support::backend::{Backend, DONE, Script, stream};
use crate::support::client::{self, ask, chat, read_reply, read_until, request};
use crate::support::h2_client::Connection;
use crate::support::process::Process;
use crate::support::{Headway, backend, config, metric, page, patiently, settings, until};

/// The serial number of the certificate that the other side showed.
fn serial(stream: &TlsStream<TcpStream>) -> u64 {
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
    let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
    certificate.serial.iter_u64_digits().next().unwrap_or(0)
}

async fn shown(authority: &Authority, address: std::net::SocketAddr) -> u64 {
    serial(&tls(&authority.connector(b"http/1.1", None), address).await.expect("a handshake"))
}

async fn becomes(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    patiently(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A stream that goes on for a while, over both protocols.
fn long() -> Script {
    Script::events(&stream(200), true).paced(Duration::from_millis(20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listeners_certificate_is_renewed_while_streams_go_on() {
    let authority = Authority::new();
    let backend_ = Backend::start(long()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    std::fs::write(&file, config(&[backend("m", backend_.address)], "", &authority.listener(""))).expect("a file");
    let (process, data, admin) = Process::serving(Path::new(&file)).await;
    let connector = authority.connector(b"http/1.1", None);
    let mut h1 = tls(&connector, data).await.expect("a handshake");
    assert_eq!(serial(&h1), 1);
    h1.write_all(request("h1", &chat("m")).as_bytes()).await.expect("it reads");
    let mut begun = read_until(&mut h1, "t0").await;
    let h2 = Connection::over(tls(&authority.connector(b"h2", None), data).await.expect("a handshake")).await;
    let mut h2_stream = h2.send("h2", Some(&chat("m"))).await;
    h2_stream.head().await.expect("a head");

    // The files alone: their folder is another one than the configuration's.
    authority.issue("", Leaf::numbered(2));
    becomes("the watch's reload", async || shown(&authority, data).await == 2).await;
    authority.issue("", Leaf::numbered(3));
    process.signal("HUP");
    becomes("the signal's reload", async || shown(&authority, data).await == 3).await;
    authority.issue("", Leaf::numbered(4));
    let (status, answer) = page(admin, "POST", "/-/reload").await;
    assert!(status == 200 && !answer.contains("restart"), "{answer}");
    assert_eq!(shown(&authority, data).await, 4);

    // What cannot be used changes nothing, and is named.
    for (name, text) in [("cert.pem", "no certificate"), ("key.pem", "no key")] {
        let good = std::fs::read_to_string(authority.path(name)).expect("a file");
        authority.write(name, text);
        let (status, answer) = page(admin, "POST", "/-/reload").await;
        assert!(status == 422 && answer.contains(name) && answer.contains("headway.yaml:"), "{answer}");
        assert_eq!(shown(&authority, data).await, 4);
        let metrics = page(admin, "GET", "/metrics").await.1;
        assert!(metric(&metrics, "headway_config_last_reload_successful", &[]) < 0.5, "{metrics}");
        authority.write(name, &good);
    }
    let other = Authority::new();
    authority.write("key.pem", &std::fs::read_to_string(other.path("key.pem")).expect("a file"));
    let (status, answer) = page(admin, "POST", "/-/reload").await;
    assert!(status == 422 && answer.contains("cannot be used together"), "{answer}");
    assert_eq!(shown(&authority, data).await, 4);

    // The streams of the first certificate are whole.
    begun += &read_until(&mut h1, "\r\n0\r\n\r\n").await;
    assert!(begun.contains("t199 ") && begun.contains(DONE), "{begun}");
    let text = h2_stream.read_until(DONE).await;
    assert!(text.contains("t199 "), "{text}");
    // Its connection goes on as well.
    h1.write_all(request("again", &chat("m")).as_bytes()).await.expect("it reads");
    read_until(&mut h1, "t0").await;
}

#[tokio::test]
async fn who_may_connect_is_renewed_too() {
    let (authority, other) = (Authority::new(), Authority::new());
    let backend_ = Backend::start(Script::events(&stream(2), true)).await;
    let clients = tempfile::tempdir().expect("a folder");
    let file = clients.path().join("clients.pem");
    let trust = |whose: &Authority| std::fs::copy(whose.path("ca.pem"), &file).map(drop).expect("a file");
    trust(&authority);
    let listener = authority.listener(&format!(", client_ca: \"{}\"", file.display()));
    let text = config(&[backend("m", backend_.address)], "", &listener);
    let headway = Headway::start(&text).await;
    let ask_as = async |own: Option<&Authority>| {
        let mut stream = tls(&authority.connector(b"http/1.1", own), headway.address).await.ok()?;
        let _ = stream.write_all(request("r", &chat("m")).as_bytes()).await;
        let reply = read_reply(&mut stream).await;
        reply.whole.then_some((stream, reply.status))
    };
    let (mut known, status) = ask_as(Some(&authority)).await.expect("it is let in");
    assert_eq!(status, 200);
    assert!(ask_as(None).await.is_none() && ask_as(Some(&other)).await.is_none());
    trust(&other);
    headway.server.apply(settings(&text)).expect("it applies");
    assert!(ask_as(None).await.is_none() && ask_as(Some(&authority)).await.is_none());
    assert_eq!(ask_as(Some(&other)).await.expect("it is let in").1, 200);
    // Who is in stays in.
    assert_eq!(ask(&mut known, &request("known", &chat("m"))).await.status, 200);
    assert!(headway.metric("headway_tls_handshakes_failed_total", &[]).await >= 2.0);
}

#[tokio::test]
async fn our_certificate_towards_a_backend_is_renewed_and_what_was_learned_stays() {
    let (authority, next) = (Authority::new(), Authority::new());
    for h2 in [false, true] {
        let protocol: &[u8] = if h2 { b"h2" } else { b"http/1.1" };
        let acceptor = authority.acceptor("", Some(&authority), protocol);
        let paced = Script::events(&stream(50), true).paced(Duration::from_millis(20));
        let backend_ = Backend::start_with(paced, Some(acceptor)).await;
        let own = tempfile::tempdir().expect("a folder");
        let path = |name: &str| own.path().join(name).display().to_string();
        let show = |whose: &Authority| {
            for name in ["cert.pem", "key.pem"] {
                std::fs::copy(whose.path(name), path(name)).expect("a file");
            }
        };
        show(&authority);
        let stanza = backend("m", backend_.address).replace("http://", "https://");
        let tls = format!(
            "ca: \"{}\", server_name: localhost, certificate: \"{}\", key: \"{}\"",
            authority.path("ca.pem"),
            path("cert.pem"),
            path("key.pem")
        );
        let text = config(&[format!("{stanza}, http2: {h2}, tls: {{ {tls} }}")], "", "");
        let headway = Headway::start(&text).await;
        let before = headway.server.fleet();
        let mut live = client::send(headway.address, &request("live", &chat("m"))).await;
        let begun = read_until(&mut live, "t0").await;
        let connections = backend_.connections();

        // Renewed by the same authority: a new connection, the same backend.
        authority.issue("", Leaf::numbered(7));
        show(&authority);
        headway.server.apply(settings(&text)).expect("it applies");
        let backend = Arc::clone(&headway.server.fleet().backends()[0]);
        assert!(backend.usable() && backend.in_flight() == 1, "{:?}", backend.state());
        assert_eq!(before.backends()[0].last_check().map(|check| check.at), backend.last_check().map(|check| check.at));
        let mut second = client::send(headway.address, &request("second", &chat("m"))).await;
        assert_eq!(read_reply(&mut second).await.status, 200);
        assert_eq!(backend_.connections(), connections + 1);

        // One that the backend does not know: what is new fails, what is there goes on.
        show(&next);
        headway.server.apply(settings(&text)).expect("it applies");
        let mut third = client::send(headway.address, &request("third", &chat("m"))).await;
        assert_eq!(read_reply(&mut third).await.status, 502);
        assert!(read_until(&mut live, "\r\n0\r\n\r\n").await.contains(DONE), "{begun}");

        // Files that do not belong together change nothing.
        std::fs::copy(authority.path("cert.pem"), path("cert.pem")).expect("a file");
        let refused = headway.server.apply(settings(&text)).expect_err("it is refused").to_string();
        assert!(refused.contains("backend `m`") && refused.contains("cert.pem"), "{refused}");
        show(&authority);
        headway.server.apply(settings(&text)).expect("it applies");
        let mut fourth = client::send(headway.address, &request("fourth", &chat("m"))).await;
        assert_eq!(read_reply(&mut fourth).await.status, 200);
        headway.idle().await;
    }
}

#[tokio::test]
async fn the_authority_of_a_backend_is_renewed() {
    let (old, new) = (Authority::new(), Authority::new());
    let backend_ =
        Backend::start_with(Script::events(&stream(2), true), Some(new.acceptor("", None, b"http/1.1"))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::copy(old.path("ca.pem"), &file).expect("a file");
    let stanza = backend("m", backend_.address).replace("http://", "https://").replace("60s", "100ms");
    let text = config(&[format!("{stanza}, tls: {{ ca: \"{}\", server_name: localhost }}", file.display())], "", "");
    let headway = Headway::unready(&text, Arc::new(headway::clock::SystemClock)).await;
    let fleet = headway.server.fleet();
    until("a failed check", || fleet.backends()[0].last_check().is_some()).await;
    let shown = fleet.readiness().reasons.concat();
    assert!(shown.contains("not signed by an authority that is trusted"), "{shown}");
    std::fs::copy(new.path("ca.pem"), &file).expect("a file");
    headway.server.apply(settings(&text)).expect("it applies");
    let fleet = headway.server.fleet();
    until("a backend that is trusted", || fleet.backends()[0].usable()).await;
    let mut client = client::send(headway.address, &request("r", &chat("m"))).await;
    assert_eq!(read_reply(&mut client).await.status, 200);
}

#[tokio::test]
async fn when_certificates_end_is_told() {
    let authority = Authority::new();
    authority.issue("", Leaf { serial: 1, year: 2100 });
    let backend_ = Backend::start_with(Script::Silent, Some(authority.acceptor("", None, b"http/1.1"))).await;
    let stanza = backend("m", backend_.address).replace("http://", "https://");
    let shown = |name: &str| {
        format!(
            "certificate: \"{}\", key: \"{}\"",
            authority.path(&format!("{name}cert.pem")),
            authority.path(&format!("{name}key.pem"))
        )
    };
    authority.issue("own-", Leaf { serial: 1, year: 2090 });
    let stanza =
        format!("{stanza}, tls: {{ ca: \"{}\", server_name: localhost, {} }}", authority.path("ca.pem"), shown("own-"));
    let text = config(&[stanza], "", &authority.listener(""));
    let headway = Headway::start(&text).await;
    let family = "headway_certificate_expiry_timestamp_seconds";
    assert_eq!(headway.metric(family, &["listener=\"127.0.0.1:0\"", "role=\"own\""]).await, 4_102_444_800.0);
    assert_eq!(headway.metric(family, &["backend=\"m\"", "role=\"own\""]).await, 3_786_912_000.0);
    assert!(headway.metric(family, &["backend=\"m\"", "role=\"authority\""]).await > 4e9);
    authority.issue("", Leaf { serial: 1, year: 2101 });
    headway.server.apply(settings(&text)).expect("it applies");
    assert_eq!(headway.metric(family, &["listener=\"127.0.0.1:0\"", "role=\"own\""]).await, 4_133_980_800.0);
}
