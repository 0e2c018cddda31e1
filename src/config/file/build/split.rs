//! A route's `split`: its groups, each of backends of its own.

use super::Builder;
use super::route::members;
use crate::config::diagnostic::Code;
use crate::config::file::scalar::{self, Wrong};
use crate::config::file::view::View;
use crate::config::settings::{Split, SplitGroup};
use crate::route::split::Rollback;

/// What shares written in decimals may miss their sum by.
const ROUNDING: f64 = 1e-9;

/// The groups of a route; their members are added to `used`, which holds the baseline's.
pub(super) fn split(
    route: &View<'_>,
    names: &[String],
    used: &mut Vec<(usize, u32)>,
    builder: &mut Builder<'_, '_, '_>,
) -> Option<Split> {
    let view = route.key("split");
    if !view.is_set() || view.is_unknown() {
        return None;
    }
    let mut groups: Vec<SplitGroup> = Vec::new();
    for (name, at, group) in view.entries() {
        if name == Split::BASELINE {
            let wrong = Wrong::new(
                format!("`{name}` is what the route's own `backends` are called"),
                "give the group another name, such as `canary`",
            );
            builder.sink.error(at, &group.path, Code::Conflict, wrong);
        }
        let backends = members(&group.key("backends"), names, used, builder);
        let read = group.key("share").read(scalar::share);
        let share = read.unwrap_or(0.0);
        if read.is_some_and(|share| share <= 0.0) {
            let message = format!("`{name}` gets no request");
            builder.warning(&group.key("share"), Code::Unused, message, "raise its share, such as `5%`");
        }
        let rollback = rollback(route, &group, name, builder);
        groups.push(SplitGroup { name: name.into(), backends, share, rollback });
    }
    judge(&view, &groups, builder);
    (!groups.is_empty()).then_some(Split { groups })
}

/// Rolling back by itself is the default: what hurts callers should end before a person has seen it, and what was ended
/// in error is one request to the admin port away.
fn rollback(route: &View<'_>, group: &View<'_>, name: &str, builder: &mut Builder<'_, '_, '_>) -> Rollback {
    let view = group.key("rollback");
    let written = Rollback::ALL.into_iter().find(|one| Some(one.as_str()) == view.text());
    let slo = route.key("slo");
    let promises = ["ttft", "itl", "e2e"].into_iter().any(|latency| slo.key(latency).is_set());
    if written == Some(Rollback::Auto) && !promises && !slo.is_unknown() {
        let message = format!("the route promises nothing, so `{name}` cannot break anything and is never rolled back");
        builder.warning(&view, Code::Unused, message, "give the route an `slo`, or write `rollback: never`");
    }
    written.unwrap_or_default()
}

fn judge(view: &View<'_>, groups: &[SplitGroup], builder: &mut Builder<'_, '_, '_>) {
    if groups.is_empty() {
        let hint = "such as `{ canary: { backends: [new], share: 5% } }`";
        builder.error(view, Code::Missing, "this split names no group", hint);
    }
    if groups.len() > Split::MOST_GROUPS {
        let message = format!("{} groups are more than the {} that there may be", groups.len(), Split::MOST_GROUPS);
        builder.error(view, Code::Conflict, message, "compare fewer at once");
    }
    let sum: f64 = groups.iter().map(|group| group.share).sum();
    if sum > 1.0 + ROUNDING {
        let message = format!("the shares of the groups sum to {}%, more than all requests", (sum * 1e4).round() / 1e2);
        builder.error(view, Code::Conflict, message, "lower them to 100% together; what is left goes to `backends`");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Diagnostic, NoEnvironment, dump, parse};

    fn text(promise: &str, split: &str) -> String {
        format!(
            "listeners: [{{ address: 127.0.0.1:1 }}]\nbackends:\n  - {{ name: a, url: http://a }}\n  - {{ name: b, url: \
             http://b }}\n  - {{ name: c, url: http://c }}\nroutes:\n  - name: r\n    backends: [a]\n    slo: {promise}\n    \
             split: {split}\n  - {{ name: rest, backends: [a, b, c] }}\n"
        )
    }

    fn found(promise: &str, split: &str) -> Vec<Diagnostic> {
        let read = parse("headway.yaml", &text(promise, split), &NoEnvironment);
        let told = read.map_or_else(|report| report.0, |loaded| loaded.warnings);
        told.into_iter().filter(|one| !one.message.contains("never reached")).collect()
    }

    const PROMISE: &str = "{ ttft: { p95: 1s } }";

    #[track_caller]
    fn check(split: &str, (error, path, says): (bool, &str, &str)) {
        let found = found(PROMISE, split);
        let told = found.iter().find(|one| one.path == path && one.message.contains(says));
        let told = told.unwrap_or_else(|| panic!("{split}: {found:#?}"));
        assert!(told.is_error() == error && !told.hint.is_empty(), "{told}");
    }

    #[test]
    fn a_good_split_is_what_it_says_and_is_shown_so() {
        let split = "{ canary: { backends: [b], share: 5% }, other: { backends: [c], share: 0.1, rollback: never } }";
        assert_eq!(found(PROMISE, split), []);
        let loaded = parse("headway.yaml", &text(PROMISE, split), &NoEnvironment).expect("good");
        let route = &loaded.settings.routes[0];
        let split = route.split.as_ref().expect("a split");
        let groups: Vec<_> = split.groups.iter().map(|one| (&*one.name, one.backends.clone(), one.share)).collect();
        assert_eq!(groups, [("canary", vec![1], 0.05), ("other", vec![2], 0.1)]);
        assert_eq!(split.groups.iter().map(|one| one.rollback.as_str()).collect::<Vec<_>>(), ["auto", "never"]);
        assert_eq!(route.backends, [(0, 1), (1, 1), (2, 1)]);
        let shown = dump(&loaded.settings);
        let route = &shown["routes"][0];
        assert_eq!(route["backends"].as_array().map(Vec::len), Some(1), "the baseline alone");
        let canary =
            serde_json::json!({ "backends": [{ "name": "b", "weight": 1 }], "share": 0.05, "rollback": "auto" });
        assert_eq!(route["split"]["canary"], canary);
    }

    #[test]
    fn what_makes_no_sense_is_said_at_its_place() {
        let canary = |rest: &str| format!("{{ canary: {{ {rest} }} }}");
        for (split, told) in [
            (canary("backends: [a], share: 5%"), (true, "routes[0].split.canary.backends[0]", "in another group")),
            (canary("backends: [b, b], share: 5%"), (true, "routes[0].split.canary.backends[1]", "there twice")),
            (canary("backends: [d], share: 5%"), (true, "routes[0].split.canary.backends[0]", "no backend is called")),
            (canary("backends: [], share: 5%"), (true, "routes[0].split.canary.backends", "there is no backend")),
            (canary("backends: [b], share: 0%"), (false, "routes[0].split.canary.share", "gets no request")),
            (canary("backends: [b], share: 120%"), (true, "routes[0].split.canary.share", "")),
            (canary("backends: [b]"), (true, "routes[0].split.canary.share", "`share` is missing")),
            (
                canary("backends: [{ name: b, weight: 0 }], share: 5%"),
                (true, "routes[0].split.canary.backends", "sum to 0"),
            ),
            ("{}".to_owned(), (true, "routes[0].split", "names no group")),
            (
                "{ baseline: { backends: [b], share: 5% } }".to_owned(),
                (true, "routes[0].split.baseline", "own `backends`"),
            ),
            (
                "{ x: { backends: [b], share: 60% }, y: { backends: [c], share: 50% } }".to_owned(),
                (true, "routes[0].split", "sum to 110%"),
            ),
            (
                "{ x: { backends: [b], share: 5% }, y: { backends: [b], share: 5% } }".to_owned(),
                (true, "routes[0].split.y.backends[0]", "in another group"),
            ),
        ] {
            check(&split, told);
        }
    }

    #[test]
    fn ten_shares_of_a_tenth_are_no_more_than_all() {
        let split = "{ x: { backends: [b], share: 70% }, y: { backends: [c], share: 30% } }";
        assert_eq!(found(PROMISE, split), []);
    }

    #[test]
    fn a_rollback_that_is_asked_for_needs_something_to_break() {
        let split = |rest: &str| format!("{{ canary: {{ backends: [b], share: 5%{rest} }} }}");
        let warned = |promise: &str, rest: &str| {
            found(promise, &split(rest)).iter().any(|one| one.message.contains("never rolled back"))
        };
        assert!(warned("{ window: 1m }", ", rollback: auto"));
        assert!(!warned("{ window: 1m }", "") && !warned("{ window: 1m }", ", rollback: never"));
        assert!(!warned(PROMISE, ", rollback: auto"));
    }
}
