//! Where the records of one case go: into its collector, line by line into a file, at the end into the reports.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::args::BenchArgs;
use super::asked;
use super::plan::{Plan, Point};
use crate::bench::goodput::Goodput;
use crate::bench::record::RequestRecord;
use crate::bench::report::html::Case;
use crate::bench::report::{self, Collector, Place, RunInfo};
use crate::clock::Clock;
use crate::telemetry::time::rfc3339;

/// The records of one case.
pub(super) struct Sink {
    collector: Collector,
    warmup: Option<Collector>,
    lines: BufWriter<File>,
    folder: PathBuf,
    id: String,
    began: String,
}

impl Sink {
    pub(super) fn create(
        args: &BenchArgs,
        plan: &Plan,
        server: usize,
        point: &Point,
        goodput: Option<Goodput>,
        run: &str,
        clock: &dyn Clock,
    ) -> anyhow::Result<Self> {
        let folder = plan.folder(args, server, point);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = create(&folder.join(args.profile_export_file.with_extension("jsonl")))?;
        let warmup = (args.warmup_request_count > 0).then(|| Collector::of_warmup(goodput.clone()));
        let (collector, lines) = (Collector::detailed(goodput), BufWriter::new(file));
        Ok(Self { collector, warmup, lines, folder, id: run.to_owned(), began: now(clock) })
    }

    pub(super) fn take(&mut self, record: &RequestRecord) -> anyhow::Result<()> {
        self.collector.add(record);
        if let Some(warmup) = &mut self.warmup {
            warmup.add(record);
        }
        let place = Place { warmed: self.warmup.is_some(), good: self.collector.is_good(record) };
        Ok(report::write_json_line(&mut self.lines, record, place)?)
    }

    /// Another server's turn.
    pub(super) fn pause(&mut self) {
        self.collector.pause();
    }

    pub(super) fn finish(
        mut self,
        args: &BenchArgs,
        plan: &Plan,
        server: usize,
        point: &Point,
        cancelled: bool,
        clock: &dyn Clock,
    ) -> anyhow::Result<Case> {
        self.lines.flush()?;
        let report = self.collector.report();
        let name = args.profile_export_file.file_stem().and_then(|name| name.to_str()).unwrap_or("profile_export");
        let url = plan.servers.get(server).map_or("", String::as_str);
        let run = RunInfo {
            id: self.id.clone(),
            seed: args.random_seed,
            command: command(std::env::args()),
            times: (self.began.clone(), now(clock)),
            cancelled,
            input_config: asked::aiperf(args, url, point),
        };
        self.write(&format!("{name}_genai_perf.json"), &report::json(&report, &asked::genai_perf(args, url, point))?)?;
        self.write(&format!("{name}_genai_perf.csv"), &report::csv(&report))?;
        // AIPerf writes no summary of a run without a valid request.
        if report.valid() > 0 {
            let warmup = self.warmup.as_ref().map(Collector::report).filter(|warmup| warmup.valid() > 0);
            self.write(&format!("{name}_aiperf.json"), &report::aiperf_json(&report, warmup.as_ref(), &run)?)?;
            self.write(&format!("{name}_aiperf.csv"), &report::aiperf_csv(&report))?;
        }
        let (name, series, load) = (plan.name(server, point), plan.series(server, point), point.load());
        Ok(Case { name, series, load, gpus: args.gpus.get(server).copied(), report })
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        create(&path)?.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }
}

pub(super) fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Without a zone, as AIPerf writes it; ours is UTC.
fn now(clock: &dyn Clock) -> String {
    rfc3339(clock.wall()).trim_end_matches('Z').to_owned()
}

/// The command line, without the values of headers: they may be credentials.
fn command(words: impl Iterator<Item = String>) -> String {
    let mut hidden = false;
    let shown = words.map(|word| {
        let header = matches!(word.as_str(), "-H" | "--header");
        let with_value = ["--header=", "-H"].into_iter().find(|flag| word.starts_with(flag) && word.len() > flag.len());
        let text = match with_value {
            _ if hidden => "***".to_owned(),
            Some(flag) => format!("{flag}***"),
            None => word,
        };
        hidden = header;
        text
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_shown_without_credentials() {
        let words = ["headway", "bench", "-H", "Authorization: secret", "--header=X: secret", "-HA:secret", "-m", "m"];
        let shown = command(words.into_iter().map(str::to_owned));
        assert_eq!(shown, "headway bench -H *** --header=*** -H*** -m m");
    }
}
