//! What is compared: names, how a run shows each, and how it is written.

use headway::measure::objective::Latency;

use crate::run::{Run, Sample};
use crate::scene::{BACKENDS, ROUTES};

/// How a figure is written, and which direction is better.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A share, in percent; more is better.
    Kept,
    /// A rate; more is better.
    Rate,
    /// Dollars or milliseconds; less is better.
    Less,
    /// A share of something that is neither good nor bad.
    Share,
    /// A number that is neither.
    Plain,
}

pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) of: Box<dyn Fn(&Run) -> f64>,
}

impl Kind {
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "-".to_owned(),
            Self::Kept | Self::Share => format!("{:.1} %", value * 100.0),
            Self::Less if value < 10.0 => format!("{value:.3}"),
            Self::Less => format!("{value:.0}"),
            Self::Rate | Self::Plain => format!("{value:.2}"),
        }
    }

    /// Whether a ratio to a rival says anything, and if so whether one below 1 is better.
    pub(crate) fn less_is_better(self) -> Option<bool> {
        match self {
            Self::Kept | Self::Rate => Some(false),
            Self::Less => Some(true),
            Self::Share | Self::Plain => None,
        }
    }
}

fn figure(name: impl Into<String>, kind: Kind, of: impl Fn(&Run) -> f64 + 'static) -> Figure {
    Figure { name: name.into(), kind, of: Box::new(of) }
}

/// Every figure, in the order of the table.
pub(crate) fn all(steady: bool) -> Vec<Figure> {
    let mut all = vec![figure("every promise kept", Kind::Kept, |run| run.kept(None, |_| true))];
    if !steady {
        all.push(figure("kept during the incident", Kind::Kept, |run| run.kept_during(true)));
        all.push(figure("kept apart from it", Kind::Kept, |run| run.kept_during(false)));
    }
    all.push(figure("good requests per second", Kind::Rate, Run::good_per_second));
    all.push(figure("$ per 1,000 good", Kind::Less, Run::cost_per_thousand_good));
    all.push(figure("failed or refused", Kind::Plain, Run::failed));
    (0..ROUTES.len()).for_each(|route| of_route(&mut all, route));
    for (backend, (name, _)) in BACKENDS.iter().enumerate() {
        all.push(figure(format!("share of {name}"), Kind::Share, move |run| run.share(backend)));
    }
    all.push(figure("share varies, draws = 1", Kind::Plain, |run| run.restlessness()[0]));
    all.push(figure("share's memory, draws = 0", Kind::Plain, |run| run.restlessness()[1]));
    all.push(figure("longest run / of draws", Kind::Plain, |run| run.restlessness()[2]));
    all.push(figure("CPU: proxy", Kind::Share, |run| run.cpu.shares()[0]));
    all.push(figure("CPU: load and NIMs", Kind::Share, |run| run.cpu.shares()[1]));
    all.push(figure("CPU: whole machine", Kind::Share, |run| run.cpu.shares()[2]));
    all.push(figure("latest send, ms late", Kind::Plain, Run::latest));
    for percent in [50.0, 99.0] {
        let added = move |run: &Run| run.percentile(percent, |_| true, |sample| sample.added_ms);
        all.push(figure(format!("added to TTFT p{percent:.0} ms"), Kind::Plain, added));
    }
    all
}

/// What a request has of a latency.
type Of = fn(&Sample) -> Option<f64>;

fn of_route(all: &mut Vec<Figure>, route: usize) {
    let name = ROUTES[route].name;
    let here = move |sample: &Sample| sample.route == route;
    all.push(figure(format!("{name} kept"), Kind::Kept, move |run| run.kept(None, here)));
    let latencies: [(&str, Latency, Of); 3] = [
        ("TTFT", Latency::TimeToFirstToken, |sample| sample.ttft_ms),
        ("ITL", Latency::InterToken, |sample| sample.itl_ms),
        ("E2E", Latency::EndToEnd, |sample| sample.e2e_ms),
    ];
    for (latency_name, latency, of) in latencies.into_iter().filter(|(_, latency, _)| ROUTES[route].promises(*latency))
    {
        let kept = move |run: &Run| run.kept(Some(latency), here);
        all.push(figure(format!("{name} {latency_name} kept"), Kind::Kept, kept));
        let p95 = move |run: &Run| run.percentile(95.0, here, of);
        all.push(figure(format!("{name} {latency_name} p95 ms"), Kind::Less, p95));
    }
}
