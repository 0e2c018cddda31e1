//! Recorded arrivals: when requests came and how long they were, without any text.
//!
//! Two published forms are read: Azure's CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`) and Mooncake's JSON lines
//! (`timestamp` in milliseconds, `input_length`, `output_length`). Times are made relative to the first row.

use std::time::Duration;

/// Most rows read from one file.
const MOST_ROWS: usize = 5_000_000;

/// One recorded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRow {
    /// When it came, from the first row.
    pub at: Duration,
    /// Tokens of prompt.
    pub input_tokens: u32,
    /// Tokens of answer.
    pub output_tokens: u32,
}

/// Why a text is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is of neither form.
    #[error(
        "line {line} is no request: expected `2023-11-16 18:15:46.680590,INPUT,OUTPUT` or \
         `{{\"timestamp\": MS, \"input_length\": N, \"output_length\": N}}`"
    )]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// There is no request in it.
    #[error("there is no request in it")]
    Empty,
    /// There are more rows than are read.
    #[error("it has more than {MOST_ROWS} requests")]
    TooLong,
}

/// One recorded request and the blocks of its prompt, each 512 tokens and named by a hash of all up to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedPrompt {
    /// When it came, and its lengths.
    pub row: TraceRow,
    /// The blocks; none where the trace does not tell them.
    pub blocks: Vec<u64>,
}

/// Reads a trace in either form; rows are put into the order of their times.
///
/// # Errors
/// At the first line that is no request, and when there is none.
pub fn read_trace(text: &str) -> Result<Vec<TraceRow>, TraceError> {
    Ok(read_prompts(text)?.into_iter().map(|recorded| recorded.row).collect())
}

/// Reads a trace in either form, with the blocks of its prompts.
///
/// # Errors
/// At the first line that is no request, and when there is none.
pub fn read_prompts(text: &str) -> Result<Vec<RecordedPrompt>, TraceError> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || (number == 0 && line.starts_with("TIMESTAMP")) {
            continue;
        }
        let row = if line.starts_with('{') { mooncake(line) } else { azure(line) };
        rows.push(row.ok_or(TraceError::Line { line: number + 1 })?);
        if rows.len() > MOST_ROWS {
            return Err(TraceError::TooLong);
        }
    }
    rows.sort_by_key(|recorded| recorded.row.at);
    let first = rows.first().ok_or(TraceError::Empty)?.row.at;
    for recorded in &mut rows {
        recorded.row.at = recorded.row.at.saturating_sub(first);
    }
    Ok(rows)
}

fn azure(line: &str) -> Option<RecordedPrompt> {
    let mut fields = line.split(',');
    let at = parse_timestamp(fields.next()?)?;
    let (input, output) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
    let row = TraceRow { at, input_tokens: input.max(1), output_tokens: output.max(1) };
    fields.next().is_none().then_some(RecordedPrompt { row, blocks: Vec::new() })
}

/// Reads `YYYY-MM-DD HH:MM:SS.fffffff`, with `T` for the space and `Z` at the end where RFC 3339 has them, as time since a
/// fixed day.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (date, time) = text.strip_suffix('Z').unwrap_or(text).split_once([' ', 'T'])?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let second = Duration::try_from_secs_f64(time.next()?.parse::<f64>().ok()?).ok()?;
    if !(1..=12).contains(&month) || !(1970..=9999).contains(&year) || hour > 23 || minute > 59 {
        return None;
    }
    let whole = days(year, month, day) * 86_400 + hour * 3600 + minute * 60;
    Some(Duration::from_secs(whole).saturating_add(second))
}

/// Days since the first of March of the year 0 (Howard Hinnant, `days_from_civil`).
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    year * 365 + year / 4 - year / 100 + year / 400 + of_year
}

/// A line of the Mooncake traces.
#[derive(serde::Deserialize)]
struct Mooncake {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

fn mooncake(line: &str) -> Option<RecordedPrompt> {
    let line: Mooncake = serde_json::from_str(line).ok()?;
    let at = Duration::try_from_secs_f64(line.timestamp / 1000.0).ok()?;
    let row = TraceRow { at, input_tokens: line.input_length.max(1), output_tokens: line.output_length.max(1) };
    Some(RecordedPrompt { row, blocks: line.hash_ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(u128, u32, u32)]) {
        let rows = read_trace(text).expect("a trace");
        let rows: Vec<_> = rows.iter().map(|row| (row.at.as_micros(), row.input_tokens, row.output_tokens)).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn both_published_forms_are_read() {
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n\
                     2023-11-16 18:15:50.9951690,396,109";
        check(azure, &[(0, 374, 44), (4_314_579, 396, 109)]);
        let mooncake = r#"{"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 7, "output_length": 0, "hash_ids": []}"#;
        check(mooncake, &[(0, 7, 1), (3_000_000, 6758, 500)]);
        let blocks: Vec<_> = read_prompts(mooncake).expect("a trace").into_iter().map(|one| one.blocks).collect();
        assert_eq!(blocks, [vec![], vec![0, 1]]);
    }

    #[test]
    fn a_trace_may_run_past_midnight_and_the_end_of_a_month() {
        check("2024-02-28 23:59:59.5,1,1\n2024-03-01 00:00:00.5,1,1", &[(0, 1, 1), (86_401_000_000, 1, 1)]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(read_trace("2023-11-16 18:15:46,1,2\nnonsense"), Err(TraceError::Line { line: 2 }));
        assert_eq!(read_trace("TIMESTAMP,ContextTokens,GeneratedTokens\n"), Err(TraceError::Empty));
    }
}
