//! What the kernel says of this process, read from `/proc` when the page is asked for.

use std::fs;

/// Clock ticks per second in `/proc/*/stat`: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ProcessFigures {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
    pub(super) threads: u64,
    pub(super) start_seconds: f64,
}

impl ProcessFigures {
    /// Reads them; `None` where there is no `/proc`, and then the families are absent.
    pub(super) fn read() -> Option<Self> {
        let file = |name| fs::read_to_string(name).ok();
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
        let mut figures = Self::parse(
            &file("/proc/self/stat")?,
            &file("/proc/self/status")?,
            &file("/proc/self/limits")?,
            &file("/proc/stat")?,
        )?;
        // The listing itself holds one descriptor open.
        figures.open_fds = u64::try_from(open_fds).unwrap_or(u64::MAX).saturating_sub(1);
        Some(figures)
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Option<Self> {
        // The command's name may hold spaces and parentheses: fields are counted from its last one. They are numbered
        // from 1 in proc(5); the first after the name is field 3.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let booted = line_value(system, "btime")?.parse::<f64>().ok()?;
        let kib = |name| line_value(status, name)?.parse::<u64>().ok().map(|kib| kib * 1_024);
        let max_fds = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            resident_bytes: kib("VmRSS:")?,
            virtual_bytes: kib("VmSize:")?,
            open_fds: 0,
            max_fds: max_fds.split_ascii_whitespace().next()?.parse().unwrap_or(u64::MAX),
            threads: line_value(status, "Threads:")?.parse().ok()?,
            start_seconds: booted + field(22)? / TICKS_PER_SECOND,
        })
    }
}

/// The first word after `name`, on the line that starts with it.
fn line_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 1200 5000000 300 1844";
        let status = "Name:\ta\nVmSize:\t  2000 kB\nVmRSS:\t  1000 kB\nThreads:\t9\n";
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096   files\n";
        let figures = ProcessFigures::parse(stat, status, limits, "cpu 1 2 3\nbtime 1700000000\n").expect("all there");
        let expected = ProcessFigures {
            cpu_seconds: 3.0,
            resident_bytes: 1_024_000,
            virtual_bytes: 2_048_000,
            open_fds: 0,
            max_fds: 1_024,
            threads: 9,
            start_seconds: 1_700_000_012.0,
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let figures = ProcessFigures::read().expect("Linux");
        assert!(figures.resident_bytes > 0 && figures.open_fds >= 3 && figures.threads >= 1);
    }
}
