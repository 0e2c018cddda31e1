//! A first token that is late is asked for elsewhere too: whoever has one first answers, the other is let go and paid for.

use std::time::Duration;

use headway::measure::outcome::{Blame, Outcome};

use crate::support::backend::{Script, Scripted, Step, send};
use crate::support::client::End;
use crate::support::headway::{Headway, Setup};
use crate::support::texts::{
    CHAT, COMPLETION, DONE, FINISH, LAST, ROLE, STREAM, TOKEN, UNARY, answer, begun, chunk, json, post,
};
use crate::support::until;

/// Requests after which both backends' first tokens can be predicted. At 4.9 % none of them may be hedged, and the next
/// one may.
const WARM: usize = 20;

/// Two backends that take turns, known well enough for a first token to be late.
struct Pair {
    headway: Headway,
    a: Scripted,
    b: Scripted,
}

fn of(name: &str) -> String {
    [ROLE, &TOKEN.replace("train", name), &TOKEN.replace("train", name), FINISH, DONE].concat()
}

/// A whole answer, after a pause.
fn late(name: &str) -> Script {
    [vec![Step::Pause], answer(&of(name))].concat()
}

impl Pair {
    async fn hedged() -> Self {
        Self::warm("hedge: { after: p95, budget: 4.9% }").await
    }

    async fn warm(route: &str) -> Self {
        let (a, b) = (Scripted::start(answer(&of("a"))).await, Scripted::start(answer(&of("b"))).await);
        let price = "price: { input_per_mtok: 1000, output_per_mtok: 1000 }";
        let headway = Setup::default().backend("a", &a, price).backend("b", &b, price).route(route).start().await;
        for _ in 0..WARM {
            assert_eq!(headway.stream().await.end, End::Clean);
        }
        headway.idle().await;
        Self { headway, a, b }
    }

    /// The tries of the latest exchange.
    async fn tries(&self, count: usize) -> Vec<(String, Outcome, Blame, bool)> {
        let records = self.headway.records(count).await;
        let tries = records[count - 1].attempts.iter();
        tries.map(|one| (one.backend.to_string(), one.outcome, one.blame, one.hedge)).collect()
    }
}

fn attempt(backend: &str, outcome: Outcome, hedge: bool) -> (String, Outcome, Blame, bool) {
    (backend.to_owned(), outcome, outcome.blame(), hedge)
}

#[tokio::test]
async fn whoever_is_asked_second_and_is_first_answers_alone() {
    let pair = Pair::hedged().await;
    pair.a.always(vec![begun([": still here\n\n", ROLE].concat()), Step::Pause]);
    let reply = pair.headway.stream().await;
    assert_eq!((reply.status, reply.end, reply.text()), (200, End::Clean, of("b")));
    until("the late one to be let go", || pair.a.left() == 1).await;
    let lost = attempt("a", Outcome::HedgeLost, false);
    assert_eq!(pair.tries(WARM + 1).await, [lost, attempt("b", Outcome::Complete, true)]);
    let record = &pair.headway.records(WARM + 1).await[WARM];
    let costs: Vec<f64> = record.attempts.iter().map(|one| one.cost.expect("a price")).collect();
    assert!(costs.iter().all(|cost| *cost > 0.0), "both are paid for: {costs:?}");
    assert!((record.cost.expect("a sum") - costs[0] - costs[1]).abs() < 1e-12);
    assert_eq!(record.backend().map(|name| &**name), Some("b"));
    assert_eq!(record.decision.as_ref().map(|one| one.number), record.attempts[1].decision);
    assert_ne!(record.attempts[0].decision, record.attempts[1].decision, "each was decided on");
    let page = pair.headway.admin("/metrics").await.text();
    let counted = "headway_attempts_total{route=\"r\",backend=\"a\",result=\"hedge_lost\"} 1";
    assert!(page.contains(counted), "{page}");
}

#[tokio::test]
async fn whoever_is_asked_first_may_still_be_first() {
    let pair = Pair::hedged().await;
    pair.a.always(late("a"));
    pair.b.always(late("b"));
    let asked = pair.b.count() + 1;
    let mut client = pair.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    pair.b.reached(asked).await;
    pair.a.resume();
    assert_eq!(client.reply().await.text(), of("a"));
    until("the second one to be let go", || pair.b.left() == 1).await;
    let lost = attempt("b", Outcome::HedgeLost, true);
    assert_eq!(pair.tries(WARM + 1).await, [lost, attempt("a", Outcome::Complete, false)]);
}

#[tokio::test]
async fn what_has_begun_is_not_asked_for_again() {
    let pair = Pair::hedged().await;
    let script = vec![begun([ROLE, TOKEN].concat()), Step::Pause, send(chunk([FINISH, DONE].concat())), send(LAST)];
    pair.a.always(script);
    let asked = pair.b.count();
    let mut client = pair.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    client.arrives(|text| text.contains(" train")).await;
    // As long as a hedge would have needed many times over.
    tokio::time::sleep(Duration::from_millis(300)).await;
    pair.a.resume();
    assert_eq!(client.reply().await.end, End::Clean);
    assert_eq!(pair.tries(WARM + 1).await, [attempt("a", Outcome::Complete, false)]);
    assert_eq!(pair.b.count(), asked);
}

#[tokio::test]
async fn a_client_that_leaves_ends_both() {
    let pair = Pair::hedged().await;
    pair.a.always(late("a"));
    pair.b.always(late("b"));
    let asked = pair.b.count() + 1;
    let mut client = pair.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    pair.b.reached(asked).await;
    drop(client);
    until("both to be let go", || pair.a.left() + pair.b.left() == 2).await;
    let left = |backend, hedge| attempt(backend, Outcome::ClientCancelled, hedge);
    assert_eq!(pair.tries(WARM + 1).await, [left("a", false), left("b", true)]);
}

#[tokio::test]
async fn one_that_fails_leaves_it_to_the_other() {
    for (fails_first, failure) in [(true, vec![begun(ROLE), Step::Pause, Step::Close]), (false, json("500 Oops", "{}"))]
    {
        let pair = Pair::hedged().await;
        pair.a.always(if fails_first { failure.clone() } else { late("a") });
        pair.b.always(if fails_first { late("b") } else { failure });
        let asked = pair.b.count() + 1;
        let mut client = pair.headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        pair.b.reached(asked).await;
        if fails_first {
            pair.a.resume();
            until("the first failure to be known", || pair.headway.server.fleet().backends()[0].in_flight() == 0).await;
            pair.b.resume();
            assert_eq!(client.reply().await.text(), of("b"));
            let failed = attempt("a", Outcome::Truncated, false);
            assert_eq!(pair.tries(WARM + 1).await, [failed, attempt("b", Outcome::Complete, true)]);
        } else {
            until("the second failure to be known", || pair.headway.server.fleet().backends()[1].in_flight() == 0)
                .await;
            pair.a.resume();
            assert_eq!(client.reply().await.text(), of("a"));
            let failed = attempt("b", Outcome::UpstreamError, true);
            assert_eq!(pair.tries(WARM + 1).await, [failed, attempt("a", Outcome::Complete, false)]);
        }
    }
}

#[tokio::test]
async fn two_that_fail_are_told_once_and_nobody_else_is_asked() {
    let pair = Pair::hedged().await;
    pair.a.always(vec![begun(ROLE), Step::Pause, Step::Close]);
    pair.b.always(vec![begun(ROLE), Step::Pause, Step::Close]);
    let asked = (pair.a.count() + 1, pair.b.count() + 1);
    let mut client = pair.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    pair.b.reached(asked.1).await;
    pair.a.resume();
    pair.b.resume();
    let reply = client.reply().await;
    assert_eq!((reply.status, &*reply.error_code()), (502, "upstream_disconnected"));
    assert_eq!(reply.field("x-should-retry").as_deref(), Some("false"));
    assert_eq!(pair.tries(WARM + 1).await.len(), 2);
    assert_eq!((pair.a.count(), pair.b.count()), asked);
}

#[tokio::test]
async fn a_refusal_of_the_second_one_is_not_the_answer() {
    let pair = Pair::hedged().await;
    pair.a.always(late("a"));
    pair.b.always(json("400 Bad Request", r#"{"error":{"message":"too long"}}"#));
    let asked = pair.b.count() + 1;
    let mut client = pair.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    pair.b.reached(asked).await;
    pair.a.resume();
    assert_eq!(client.reply().await.text(), of("a"));
}

#[tokio::test]
async fn the_budget_is_a_share_of_the_routes_requests() {
    let pair = Pair::hedged().await;
    pair.a.always(late("a"));
    pair.b.always(late("b"));
    let mut clients = Vec::new();
    // 20 requests of the warming, and these six: one of 26 may be sent twice.
    for _ in 0..6 {
        let mut client = pair.headway.connect().await;
        client.send(post(CHAT, STREAM)).await;
        clients.push(client);
    }
    until("a hedge", || pair.a.count() + pair.b.count() == WARM + 6 + 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pair.a.count() + pair.b.count(), WARM + 6 + 1);
    for _ in 0..8 {
        pair.a.resume();
        pair.b.resume();
    }
    for mut client in clients {
        assert_eq!(client.reply().await.end, End::Clean);
    }
    let records = pair.headway.records(WARM + 6).await;
    let lost = records.iter().flat_map(|one| &one.attempts).filter(|one| one.outcome == Outcome::HedgeLost);
    assert_eq!(lost.count(), 1);
}

#[tokio::test]
async fn only_streams_of_routes_that_say_so_are_hedged() {
    let unasked = Pair::warm("").await;
    unasked.a.always(late("a"));
    let asked = unasked.b.count();
    let mut client = unasked.headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    unasked.a.resume();
    assert_eq!((client.reply().await.text(), unasked.b.count()), (of("a"), asked));
    let hedged = Pair::hedged().await;
    hedged.a.always([vec![Step::Pause], json("200 OK", COMPLETION)].concat());
    let asked = hedged.b.count();
    let mut client = hedged.headway.connect().await;
    client.send(post(CHAT, UNARY)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    hedged.a.resume();
    assert_eq!((client.reply().await.text(), hedged.b.count()), (COMPLETION.to_owned(), asked));
}

#[tokio::test]
async fn a_backend_that_is_not_known_yet_is_not_called_late() {
    let (a, b) = (Scripted::start(late("a")).await, Scripted::start(late("b")).await);
    let setup = Setup::default().backend("a", &a, "").backend("b", &b, "");
    let headway = setup.route("hedge: { after: p50, budget: 100% }").start().await;
    let mut client = headway.connect().await;
    client.send(post(CHAT, STREAM)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.resume();
    assert_eq!((client.reply().await.text(), b.count()), (of("a"), 0));
}

#[tokio::test]
async fn no_answer_is_ever_made_of_two() {
    let pair = Pair::warm("hedge: { budget: 100% }").await;
    // Heads, roles and comments of both come before either's token, and tokens of both at about the same time.
    for (backend, name) in [(&pair.a, "a"), (&pair.b, "b")] {
        let token = TOKEN.replace("train", name);
        let script = vec![
            begun(ROLE),
            Step::Wait(Duration::from_millis(25)),
            send(chunk(&token)),
            Step::Wait(Duration::from_millis(1)),
            send([chunk([&*token, FINISH, DONE].concat()), LAST.into()].concat()),
        ];
        backend.always(script);
    }
    for _ in 0..40 {
        let reply = pair.headway.stream().await;
        let text = reply.text();
        assert!(reply.end == End::Clean && (text == of("a") || text == of("b")), "{text}");
    }
    let records = pair.headway.records(WARM + 40).await;
    let raced = records.iter().filter(|one| one.attempts.len() == 2).count();
    assert!(raced > 0, "some were late");
    assert!(records.iter().all(|one| one.outcome == Outcome::Complete));
}
