//! Lines of a Prometheus page (text format 0.0.4 and `OpenMetrics`), as far as figures of engines and GPUs need them.

/// Nothing that is read here counts further; what does is no count.
pub(super) const MOST: f64 = 1e12;

/// One line of a page: a name, labels as written, a count.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// `name{label="value",…} 1.0`, a time stamp allowed; `None` for comments, and for values below 0 or not finite.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let (name, rest) = line.split_at(line.find(|c: char| c == '{' || c.is_whitespace())?);
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_at(end_of_labels(rest)?),
            None => ("", rest),
        };
        let value = rest.trim_start_matches('}').split_whitespace().next()?.parse().ok()?;
        (0.0..=MOST).contains(&value).then_some(Self { name, labels, value })
    }

    /// A label's value; values with escapes are never those that are asked for.
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        loop {
            let (name, after) = rest.split_once("=\"")?;
            let (value, next) = after.split_at(end_of_value(after)?);
            if name.trim_matches([',', ' ']) == key {
                return Some(value);
            }
            rest = next.get(1..)?;
        }
    }
}

/// Where the labels' closing brace is: not within quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Where a quoted value ends.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    let ends = |(_, character): &(usize, char)| {
        let end = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        end
    };
    text.char_indices().find(ends).map(|(at, _)| at)
}
