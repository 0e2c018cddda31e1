//! What stands on the screen, at several widths, from answers as the admin listener gives them.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::screen::{Asked, Screen};
use super::snapshot::Snapshot;
use super::*;

fn routes() -> Value {
    let objective = |latency: &str, quantile: f64, threshold: f64, attainment: f64, burn: f64, left: f64| {
        json!({
            "latency": latency, "quantile": quantile, "threshold_ms": threshold, "judged": 100, "good": 98,
            "attainment": attainment, "met": attainment >= quantile, "budget_left": left,
            "burn_rate": { "5m": burn, "1h": burn / 2.0 },
        })
    };
    json!({ "routes": [
        {
            "name": "chat", "policy": "cheapest_within_slo", "requests_per_second": 12.34, "cost": 0.0123,
            "objectives": [
                objective("ttft", 0.95, 200.0, 0.983, 0.34, 0.97),
                objective("itl", 0.95, 60.0, 0.912, 1.76, -0.2),
                { "latency": "joint", "judged": 100, "good": 90, "attainment": 0.9, "burn_rate": {} },
            ],
            "backends": [
                { "backend": "h100-latency", "requests": 3,
                  "predicted": { "ttft": { "expected_ms": 30.0, "bound_ms": 45.1 }, "e2e": { "expected_ms": 1.0, "bound_ms": 1.0 } } },
                { "backend": "l40s-cheap", "requests": 90,
                  "predicted": { "ttft": { "expected_ms": 98.0, "bound_ms": 143.0 }, "e2e": { "expected_ms": 1.0, "bound_ms": 1.0 } } },
            ],
            "last_minute": { "requests": 700, "ttft": { "samples": 700, "p50_ms": 99.0, "p95_ms": 180.0, "p99_ms": 200.0 },
                             "itl": { "samples": 700, "p50_ms": 20.0, "p95_ms": 61.5, "p99_ms": 80.0 } },
        },
        { "name": "batch", "requests_per_second": 2.0, "cost": 0.0021, "objectives": [], "backends": [] },
    ] })
}

fn backends() -> Value {
    json!({ "backends": [
        {
            "name": "h100-latency", "profile": "tensorrt_llm-h100-fp8-tp1-latency", "state": "ready", "in_flight": 2,
            "max_in_flight": 48, "engine": { "running": 2.0, "waiting": 0.0, "kv_cache_ratio": 0.01 },
            "gpu": "nvml", "gpus": [{ "gpu": "0", "utilization": 0.4, "throttled": false }, { "gpu": "1", "utilization": 0.6 }],
            "price": { "input_per_mtok": 0.2, "output_per_mtok": 0.6 }, "cost": 0.0051, "requests": 30,
            "last_minute": { "requests": 50, "ttft": { "samples": 50, "p50_ms": 20.0, "p95_ms": 31.0, "p99_ms": 40.0 } },
        },
        {
            "name": "a100", "profile": "vllm-a100-fp16-tp1", "state": "ejected", "in_flight": 0, "gpu": "unavailable",
            "price": { "per_gpu_hour": 2.5, "gpus": 2 }, "last_minute": { "requests": 0 },
        },
        {
            "name": "l40s-cheap", "profile": "tensorrt_llm-l40s-fp8-tp1-throughput", "state": "ready", "in_flight": 128,
            "max_in_flight": 128, "engine": { "running": 128.0, "waiting": 9.0, "kv_cache_ratio": 0.95 },
            "gpu": "fake", "gpus": [{ "gpu": "2", "utilization": 0.99, "throttled": true }],
            "price": { "input_per_mtok": 0.06, "output_per_mtok": 0.18 }, "cost": 0.0093, "requests": 900,
            "last_minute": { "requests": 650, "ttft": { "samples": 650, "p50_ms": 99.0, "p95_ms": 188.0, "p99_ms": 200.0 },
                             "itl": { "samples": 650, "p50_ms": 20.0, "p95_ms": 30.25, "p99_ms": 80.0 } },
        },
    ] })
}

fn decisions() -> Value {
    let decision = |number: u64, backend: Option<&str>, happened: Value| {
        json!({
            "number": number, "at": "2026-01-31T12:03:21.345678Z", "request_id": format!("req-{number}"), "route": "chat",
            "input_tokens": 310, "backend": backend, "reason": backend.map(|_| "cheapest_within_slo"),
            "turned_away": if backend.is_none() { json!("shed") } else { Value::Null },
            "candidates": [{ "backend": "l40s-cheap", "ttft": { "expected_ms": 98.0, "bound_ms": 143.0 } }],
            "happened": happened,
        })
    };
    let ended = |outcome: &str, ttft: f64, kept: bool| json!({ "outcome": outcome, "ttft_ms": ttft, "e2e_ms": 2_345.0, "kept": kept });
    json!({ "decisions": [
        decision(5, Some("l40s-cheap"), Value::Null),
        decision(4, None, Value::Null),
        decision(3, Some("l40s-cheap"), ended("complete", 120.0, true)),
        decision(2, Some("l40s-cheap"), ended("complete", 1_205.0, false)),
        decision(1, Some("l40s-cheap"), json!({ "outcome": "upstream_error", "kept": false })),
    ] })
}

fn snapshot() -> Snapshot {
    Snapshot::read(&json!({ "version": "0.1.0" }), &routes(), &backends(), &decisions()).expect("as the API has it")
}

fn screen() -> Screen {
    let mut screen = Screen::new("127.0.0.1:9090", true);
    screen.hear(snapshot());
    screen
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("it draws");
    let buffer = terminal.backend().buffer().clone();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned();
    (0..height).map(|y| row(y) + "\n").collect()
}

#[track_caller]
fn check(width: u16, height: u16, golden: &str) {
    let text = drawn(&mut screen(), width, height);
    assert_eq!(text, golden, "at {width} × {height} it is now:\n{text}");
}

#[test]
fn a_wide_screen_shows_everything() {
    check(170, 24, include_str!("golden/wide.txt"));
}

#[test]
fn a_usual_screen_shows_what_matters() {
    check(80, 24, include_str!("golden/usual.txt"));
}

#[test]
fn a_tiny_screen_shows_the_beginning() {
    check(40, 8, include_str!("golden/tiny.txt"));
}

fn key(screen: &mut Screen, code: KeyCode) -> Asked {
    screen.obey(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

/// The names of the backends, from top to bottom.
fn order(screen: &mut Screen) -> Vec<String> {
    let text = drawn(screen, 120, 30);
    let rows = text.lines().skip_while(|line| !line.starts_with("BACKEND")).skip(1).take(3);
    rows.map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect()
}

#[test]
fn backends_are_ordered_as_asked() {
    let mut screen = screen();
    assert_eq!(order(&mut screen), ["h100-latency", "a100", "l40s-cheap"]);
    assert_eq!(key(&mut screen, KeyCode::Right), Asked::Draw);
    assert_eq!(order(&mut screen), ["l40s-cheap", "h100-latency", "a100"]);
    assert!(drawn(&mut screen, 120, 30).contains("backends by share"));
    key(&mut screen, KeyCode::Left);
    assert_eq!(order(&mut screen), ["h100-latency", "a100", "l40s-cheap"]);
}

#[test]
fn a_paused_screen_stands_still_and_says_so() {
    let mut screen = screen();
    key(&mut screen, KeyCode::Char('p'));
    let before = drawn(&mut screen, 120, 30);
    assert!(before.starts_with("PAUSED headway 0.1.0"), "{before}");
    screen.hear(Snapshot::default());
    assert_eq!(drawn(&mut screen, 120, 30), before);
    key(&mut screen, KeyCode::Char(' '));
    screen.hear(Snapshot::default());
    assert!(drawn(&mut screen, 120, 30).contains("0 of 0 backends ready"));
}

#[test]
fn keys_end_it_and_scroll_it() {
    let mut screen = screen();
    assert_eq!(key(&mut screen, KeyCode::Char('q')), Asked::Quit);
    assert_eq!(key(&mut screen, KeyCode::Esc), Asked::Quit);
    assert_eq!(screen.obey(&Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL))), Asked::Quit);
    assert_eq!(key(&mut screen, KeyCode::Char('c')), Asked::Nothing);
    assert_eq!(screen.obey(&Event::Resize(40, 8)), Asked::Draw);
    (0..50).for_each(|_| assert_eq!(key(&mut screen, KeyCode::Down), Asked::Draw));
    let text = drawn(&mut screen, 80, 8);
    assert!(text.contains("upstream error") && !text.contains("OBJECTIVE"), "the end stays in view:\n{text}");
    key(&mut screen, KeyCode::Home);
    assert!(drawn(&mut screen, 80, 8).contains("OBJECTIVE"));
}

#[test]
fn a_proxy_that_is_gone_is_told_over_what_was_last_known() {
    let mut lost = screen();
    lost.trouble = Some(("connection refused".to_owned(), Duration::from_secs(7)));
    let text = drawn(&mut lost, 120, 24);
    assert!(text.starts_with("no answer for 7 s, trying again: connection refused\n"), "{text}");
    assert!(text.contains("l40s-cheap"));
    lost.hear(snapshot());
    assert_eq!(drawn(&mut lost, 120, 24), drawn(&mut screen(), 120, 24));
    let mut never = Screen::new("127.0.0.1:9090", true);
    assert!(drawn(&mut never, 80, 4).starts_with("asking headway at 127.0.0.1:9090\n"));
}

#[test]
fn colour_is_never_alone_and_can_be_done_without() {
    let colours = |colours: bool| {
        let mut screen = Screen::new("a:1", colours);
        screen.hear(snapshot());
        let mut terminal = Terminal::new(TestBackend::new(170, 24)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("it draws");
        let cells = terminal.backend().buffer().content().iter();
        let mut seen: Vec<_> = cells.map(|cell| cell.fg).filter(|colour| *colour != Color::Reset).collect();
        seen.sort_by_key(|colour| format!("{colour:?}"));
        seen.dedup();
        seen
    };
    assert_eq!(colours(true), [Color::Green, Color::Red, Color::Yellow]);
    assert_eq!(colours(false), []);
    assert_eq!(drawn(&mut screen(), 170, 24).lines().filter(|line| line.contains("ejected")).count(), 1);
}

#[test]
fn a_split_route_says_who_gets_which_share() {
    let group = |name: &str, state: &str, share: f64| json!({ "name": name, "state": state, "effective_share": share });
    let groups =
        json!([group("baseline", "baseline", 0.9), group("canary", "rolled_back", 0.0), group("b", "running", 0.1)]);
    let route = json!({ "name": "chat", "split": { "groups": groups } });
    let snapshot = Snapshot { routes: vec![serde_json::from_value(route).expect("a route")], ..Snapshot::default() };
    let shown = |width| -> String {
        let lines = view::body(&snapshot, view::Sort::default(), width);
        let line = lines.into_iter().find(|line| line.first().is_some_and(|cell| cell.text == "chat split:"));
        line.expect("a line of its own").into_iter().map(|cell| cell.text).collect()
    };
    assert_eq!(shown(80), "chat split: baseline 90.0 % canary 0.0 % (rolled back) b 10.0 %");
    assert_eq!(shown(40), "chat split: baseline 90.0 %", "as much as fits");
}
