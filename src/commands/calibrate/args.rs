//! The arguments of `headway calibrate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::planner::Shape;
use crate::units::{parse_duration, parse_ratio};

/// What to measure, how gently, and where the measurements go.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    /// The configuration whose backends are measured.
    #[arg(long, short, value_name = "FILE", default_value = "config/headway.yaml")]
    pub config: PathBuf,
    /// Only these backends; those of an earlier calibration keep their measurements.
    #[arg(long = "backend", value_name = "NAME", value_delimiter = ',')]
    pub backends: Vec<String>,
    /// Clients at once, each sending its next request when it has its answer; more than a backend's `max_in_flight` are
    /// not tried.
    #[arg(long, value_name = "N", default_value = "1,4,16,64", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: Vec<u32>,
    /// Tokens of prompts.
    #[arg(long, value_name = "N", default_value = "200,1000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub input_tokens: Vec<u32>,
    /// Tokens of answers.
    #[arg(long, value_name = "N", default_value = "100", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub output_tokens: Vec<u32>,
    /// What a route must carry, in requests per second: `chat=20`, or with the lengths of its requests `chat=20:800/150`,
    /// which are then measured too. Gives the cheapest fleet.
    #[arg(long, value_name = "ROUTE=RATE", value_delimiter = ',', value_parser = demand)]
    pub demand: Vec<Demand>,
    /// The model to ask for, where a backend has several.
    #[arg(long, short, value_name = "ID")]
    pub model: Option<String>,

    /// Requests at each load; at least four for each client.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub requests: u32,
    /// Longest time at one load; what is under way then is waited for.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    pub point_time: Duration,
    /// Loads tried between the last that keeps an objective and the first that does not.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub between: usize,
    /// Measure backends that are in service, too: their users will feel it, and their load will be measured.
    #[arg(long)]
    pub in_service: bool,

    /// Where the measurements go [default: where `baselines` of the configuration says, else baselines.yaml beside it].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write no file.
    #[arg(long, conflicts_with = "out")]
    pub no_write: bool,
    /// How much of what a replica can do is left free in the cheapest fleet: requests do not come evenly.
    #[arg(long, value_name = "SHARE", default_value = "20%", value_parser = headroom)]
    pub headroom: f64,
    /// What the prompts are drawn from [default: the time, so that no prefix cache knows them].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How to print what was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// What a route must carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// The route's name.
    pub route: String,
    /// Requests per second.
    pub per_second: f64,
    /// What they look like, where it is said.
    pub shape: Option<Shape>,
}

fn headroom(text: &str) -> Result<f64, String> {
    let share = parse_ratio(text).map_err(|error| error.to_string())?;
    if share < 1.0 { Ok(share) } else { Err("a replica that is left free altogether serves nobody".to_owned()) }
}

fn demand(text: &str) -> Result<Demand, String> {
    let malformed = || format!("`{text}` is not ROUTE=RATE or ROUTE=RATE:INPUT/OUTPUT, such as chat=20:800/150");
    let (route, rest) = text.split_once('=').filter(|(route, _)| !route.is_empty()).ok_or_else(malformed)?;
    let (rate, lengths) = rest.split_once(':').map_or((rest, None), |(rate, lengths)| (rate, Some(lengths)));
    let per_second = rate.parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite()).ok_or_else(malformed)?;
    let shape = lengths.map(|lengths| shape(lengths).ok_or_else(malformed)).transpose()?;
    Ok(Demand { route: route.to_owned(), per_second, shape })
}

fn shape(text: &str) -> Option<Shape> {
    let (input, output) = text.split_once('/')?;
    let (input_tokens, output_tokens) = (input.parse().ok()?, output.parse().ok()?);
    (input_tokens > 0 && output_tokens > 1).then_some(Shape { input_tokens, output_tokens })
}

impl CalibrateArgs {
    /// The lengths to measure: every prompt with every answer, and those of the demand.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let demanded = self.demand.iter().filter_map(|demand| demand.shape);
        sorted(self.grid().into_iter().chain(demanded))
    }

    /// The lengths of a route's requests: those of its demand, else every prompt with every answer.
    pub(super) fn shapes_of(&self, route: &str) -> Vec<Shape> {
        let own = self.demand.iter().filter(|demand| demand.route == route);
        let stated = sorted(own.filter_map(|demand| demand.shape));
        if stated.is_empty() { self.grid() } else { stated }
    }

    fn grid(&self) -> Vec<Shape> {
        let prompts = |output_tokens: &u32| {
            let output_tokens = *output_tokens;
            self.input_tokens.iter().map(move |&input_tokens| Shape { input_tokens, output_tokens })
        };
        sorted(self.output_tokens.iter().flat_map(prompts))
    }

    /// The loads to try, ascending.
    pub(super) fn rungs(&self, most: Option<u32>) -> Vec<u32> {
        let mut rungs: Vec<u32> =
            self.concurrency.iter().map(|rung| most.map_or(*rung, |most| most.min(*rung))).collect();
        rungs.sort_unstable();
        rungs.dedup();
        rungs
    }
}

fn sorted(shapes: impl Iterator<Item = Shape>) -> Vec<Shape> {
    let mut all: Vec<Shape> = shapes.collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: CalibrateArgs,
    }

    fn parse(line: &str) -> CalibrateArgs {
        let words = std::iter::once("calibrate").chain(line.split_whitespace());
        Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn a_demand_is_a_rate_and_perhaps_lengths() {
        let shape = Shape { input_tokens: 800, output_tokens: 150 };
        let chat = |shape| Demand { route: "chat".to_owned(), per_second: 20.0, shape };
        assert_eq!((demand("chat=20"), demand("chat=20:800/150")), (Ok(chat(None)), Ok(chat(Some(shape)))));
        for bad in ["chat", "=20", "chat=", "chat=-1", "chat=1:800", "chat=1:800/1", "chat=1:a/b", "chat=inf"] {
            assert!(demand(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_are_measured_once_and_loads_stop_at_what_a_backend_takes() {
        let args = parse("--input-tokens 10,20 --output-tokens 5 --demand a=1:20/5,b=2:30/5,c=3");
        let shapes: Vec<_> = args.shapes().iter().map(|shape| (shape.input_tokens, shape.output_tokens)).collect();
        assert_eq!(shapes, [(10, 5), (20, 5), (30, 5)]);
        let of = |route| args.shapes_of(route).iter().map(|shape| shape.input_tokens).collect::<Vec<_>>();
        assert_eq!((of("a"), of("b"), of("c")), (vec![20], vec![30], vec![10, 20]), "not those of other routes");
        assert_eq!((args.rungs(None), args.rungs(Some(20))), (vec![1, 4, 16, 64], vec![1, 4, 16, 20]));
    }
}
