//! TLS on both sides: protocols by ALPN for clients, certificates verified towards backends.

use std::sync::Arc;

use headway::clock::SystemClock;

use crate::support::authority::Authority;
use crate::support::backend::{Backend, DONE, Script, stream};
use crate::support::client::{ask, chat, read_reply, request, send};
use crate::support::h2_client::Connection;
use crate::support::{Headway, backend, config, until};

#[tokio::test]
async fn a_tls_listener_speaks_what_alpn_says() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(3), true)).await;
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &authority.listener(""))).await;
    let mut h1 = authority.client(&headway, b"http/1.1", false).await;
    for round in 0..3 {
        let reply = ask(&mut h1, &request(&format!("h1-{round}"), &chat("m"))).await;
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{reply:?}");
    }
    let h2 = Connection::over(authority.client(&headway, b"h2", false).await).await;
    let mut streams = Vec::new();
    for number in 0..20 {
        streams.push(h2.send(&format!("h2-{number}"), Some(&chat("m"))).await);
    }
    for mut stream in streams {
        let (status, text, end) = stream.reply().await;
        assert!(status == 200 && text.ends_with(DONE) && end.is_ok(), "{status} {end:?}");
    }
    let mut plain = send(headway.address, &request("plain", &chat("m"))).await;
    assert!(!read_reply(&mut plain).await.whole);
    headway.idle().await;
    assert!(headway.records("plain").is_empty());
}

#[tokio::test]
async fn a_tls_stream_is_cancelled_with_its_client() {
    let authority = Authority::new();
    let first = stream(1).into_iter().take(1).collect::<Vec<_>>();
    let backend_ = Backend::start(Script::events(&first, false)).await;
    let limits = format!("{}\nlimits: {{ header_deadline: 300ms }}", authority.listener(""));
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &limits)).await;
    let mut h1 = authority.client(&headway, b"http/1.1", false).await;
    tokio::io::AsyncWriteExt::write_all(&mut h1, request("h1", &chat("m")).as_bytes()).await.unwrap();
    let h2 = Connection::over(authority.client(&headway, b"h2", false).await).await;
    let mut stream = h2.send("h2", Some(&chat("m"))).await;
    crate::support::client::read_until(&mut h1, "t0").await;
    stream.head().await.expect("a head");
    // Both outlive the deadline on heads.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((backend_.seen("h1").gone, backend_.seen("h2").gone), (None, None));
    drop(h1);
    stream.reset();
    for id in ["h1", "h2"] {
        backend_.wait(id, "is gone", |seen| seen.gone.is_some()).await;
        assert_eq!(headway.record(id).await.outcome.as_str(), "client_cancelled");
    }
    headway.idle().await;
}

#[tokio::test]
async fn client_certificates_are_wanted_where_configured() {
    let authority = Authority::new();
    let backend_ = Backend::start(Script::events(&stream(1), true)).await;
    let listener = authority.listener(&format!(", client_ca: \"{}\"", authority.path("ca.pem")));
    let headway = Headway::start(&config(&[backend("m", backend_.address)], "", &listener)).await;
    let mut known = authority.client(&headway, b"http/1.1", true).await;
    assert_eq!(ask(&mut known, &request("known", &chat("m"))).await.status, 200);
    let mut stranger = authority.client(&headway, b"http/1.1", false).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stranger, request("stranger", &chat("m")).as_bytes()).await;
    assert!(!read_reply(&mut stranger).await.whole);
    assert!(headway.records("stranger").is_empty());
}

/// Whether a request goes through to a TLS backend that is configured so.
async fn check(authority: &Authority, mutual: bool, h2: bool, tls: &str, expected: bool) {
    let protocol: &[u8] = if h2 { b"h2" } else { b"http/1.1" };
    let backend_ = Backend::start_with(
        Script::events(&stream(2), true),
        Some(authority.acceptor("", mutual.then_some(authority), protocol)),
    )
    .await;
    let stanza = backend("m", backend_.address).replace("http://", "https://");
    let stanza = format!("{stanza}, http2: {h2}, tls: {{ {tls} }}");
    let headway = Headway::unready(&config(&[stanza], "", ""), Arc::new(SystemClock)).await;
    let fleet = headway.server.fleet();
    until("a health check", || fleet.backends()[0].last_check().is_some()).await;
    let mut client = send(headway.address, &request("r", &chat("m"))).await;
    let reply = read_reply(&mut client).await;
    if expected {
        assert!(reply.status == 200 && reply.whole && reply.text.contains(DONE), "{tls}: {reply:?}");
    } else {
        assert!(matches!(reply.status, 502 | 503), "{tls}: {reply:?}");
    }
    assert_eq!(backend_.seen("r").requests, usize::from(expected), "{tls}");
}

#[tokio::test]
async fn a_backend_must_show_a_certificate_of_its_authority_for_its_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = format!("ca: \"{}\"", authority.path("ca.pem"));
    let named = format!("{ca}, server_name: localhost");
    let shown = |whose: &Authority| {
        format!("{named}, certificate: \"{}\", key: \"{}\"", whose.path("cert.pem"), whose.path("key.pem"))
    };
    for h2 in [false, true] {
        check(&authority, false, h2, &named, true).await;
        check(&authority, false, h2, "server_name: localhost", false).await;
        check(&authority, false, h2, &format!("{ca}, server_name: example.com"), false).await;
        check(&authority, true, h2, &shown(&authority), true).await;
        check(&authority, true, h2, &named, false).await;
        check(&authority, true, h2, &shown(&other), false).await;
    }
}
