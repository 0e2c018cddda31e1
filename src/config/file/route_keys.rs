//! Every key of a route: what it holds and what it is for.

use super::keys::{MANY, RETRY, TIMEOUTS};
use super::shape::{Key, Kind, Shape};
use crate::route::admission::DEEPEST;
use crate::route::policy::PolicyKind;
use crate::route::split::Rollback;

/// One route.
pub(super) const ROUTE: Shape = Shape::Map(&[
    Key::required("name", Shape::One(Kind::Name), "The name in metrics and logs."),
    Key::optional("match", MATCH, "Which requests it serves. Default: all."),
    Key::required("backends", Shape::List(&ROUTE_BACKEND), "The backends it may use, by name."),
    Key::optional("slo", SLO, "What it promises."),
    Key::one("policy", Kind::Choice(policies), "How it chooses. Default: cheapest_within_slo."),
    Key::one(
        "shadow_policy",
        Kind::Choice(policies),
        "Decides too, on the same facts; serves nothing and is counted. Default: none.",
    ),
    Key::one("priority", Kind::Integer(0, 1_000), "Of requests that wait, the highest goes first. Default: 0."),
    Key::optional(
        "on_overload",
        ON_OVERLOAD,
        "What becomes of requests that the promise cannot be kept for: shed refuses them, sacrifice serves them late \
         where that is cheapest, queue lets them wait. Default: sacrifice.",
    ),
    Key::one(
        "prefix_affinity",
        Kind::Choice(|| vec!["auto", "off"]),
        "Whether prompts go where their beginning was seen before. Default: auto.",
    ),
    Key::optional("timeouts", TIMEOUTS, "Timers that differ from the defaults."),
    Key::optional("retry", RETRY, "Retry rules that differ from the defaults."),
    Key::one(
        "commit",
        Kind::Choice(|| vec!["first_token", "headers"]),
        "When the response head goes to the client. Default: first_token.",
    ),
    Key::optional("hedge", HEDGE, "Asks a second backend for a stream whose first token is late. Default: never."),
    Key::one(
        "heartbeat",
        Kind::Duration,
        "How often a client that waits for a stream's first token is sent a comment; the first one commits status 200. \
         Default: never.",
    ),
    Key::one("expose", Kind::Switch, "Name backend and decision in response headers. Default: false."),
    Key::one(
        "client_slo",
        Kind::Choice(|| vec!["ignore", "tighten"]),
        "Whether x-slo-* request headers may tighten the objectives. Default: tighten.",
    ),
    Key::optional("client_slo_floor", CLIENT_SLO_FLOOR, "No tighter than this."),
    Key::optional(
        "split",
        Shape::Table(Kind::Name, &SPLIT_GROUP),
        "Groups of other backends by name, such as canary, each with its share of the requests; `backends` are the \
         baseline, and get the rest. Default: none.",
    ),
]);

const SPLIT_GROUP: Shape = Shape::Map(&[
    Key::required("backends", Shape::List(&ROUTE_BACKEND), "Its backends; none may be in another group of the route."),
    Key::required("share", Shape::One(Kind::Share), "The share of the route's requests, drawn at random."),
    Key::one(
        "rollback",
        Kind::Choice(|| Rollback::ALL.map(Rollback::as_str).to_vec()),
        "Whether it gets nothing more once it has broken the route's `slo`, and was worse than the baseline. Default: auto.",
    ),
]);

const HEDGE: Shape = Shape::Map(&[
    Key::one(
        "after",
        Kind::Quantile,
        "Late is a first token beyond this quantile of what the backend is expected to take. Default: p95.",
    ),
    Key::one("budget", Kind::Share, "Most requests sent twice, as a share of the last minute's. Default: 5%."),
]);

/// What becomes of requests that the promise cannot be kept for.
const ON_OVERLOAD: Shape = Shape::OneOrMap(
    Kind::Choice(|| vec!["shed", "sacrifice", "queue"]),
    &[Key::required("queue", QUEUE, "Requests wait for a place, the most important and most urgent first.")],
);

const QUEUE: Shape = Shape::Map(&[
    Key::one("depth", Kind::Integer(1, DEEPEST as u64), "How many may wait. Default: 64."),
    Key::one("wait", Kind::Duration, "How long one may wait. Default: 2s."),
]);

fn policies() -> Vec<&'static str> {
    PolicyKind::ALL.iter().map(|policy| policy.as_str()).collect()
}

const MATCH: Shape = Shape::Map(&[
    Key::optional("models", Shape::List(&Shape::One(Kind::Text)), "Models, `*` for any run of characters."),
    Key::optional("paths", Shape::List(&Shape::One(Kind::UrlPath)), "Exact paths."),
    Key::optional(
        "headers",
        Shape::Table(Kind::HeaderName, &Shape::One(Kind::Text)),
        "Header fields and their values.",
    ),
]);

const ROUTE_BACKEND: Shape = Shape::OneOrMap(
    Kind::Name,
    &[
        Key::required("name", Shape::One(Kind::Name), "The backend."),
        Key::one("weight", Kind::Integer(0, MANY), "Its share under the policy weighted. Default: 1."),
    ],
);

const SLO: Shape = Shape::Map(&[
    Key::optional("ttft", OBJECTIVE, "On time to first token, such as { p95: 300ms }."),
    Key::optional("itl", OBJECTIVE, "On inter-token latency, such as { p95: 40ms }."),
    Key::optional("e2e", OBJECTIVE, "On the whole answer, such as { p95: 30s }."),
    Key::one("window", Kind::Duration, "Over which attainment is shown. Default: 5m."),
    Key::one("budget_period", Kind::Duration, "Over which the error budget is reckoned. Default: 30d."),
]);

const OBJECTIVE: Shape = Shape::Table(Kind::Quantile, &Shape::One(Kind::Duration));

const CLIENT_SLO_FLOOR: Shape = Shape::Map(&[
    Key::one("ttft", Kind::Duration, "Smallest TTFT that a client may ask. Default: 100ms."),
    Key::one("itl", Kind::Duration, "Smallest ITL that a client may ask. Default: 10ms."),
]);
