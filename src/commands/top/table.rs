//! Tables of text that fit a width: the less important columns go first.

/// What a piece of text says by its colour, beside its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// Less important.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// One line.
pub(super) type Line = Vec<Cell>;

impl Cell {
    /// Text in a tone. What a terminal would obey instead of showing it is replaced: names come from elsewhere.
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        let text = if text.chars().any(char::is_control) { text.replace(char::is_control, "·") } else { text };
        Self { text, tone }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, Tone::Plain)
    }

    pub(super) fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::plain(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::plain(text)
    }
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Figures stand to the right.
    pub(super) right: bool,
    /// The highest go first when there is no room; 0 stays.
    pub(super) spare: u8,
}

/// A column of words.
pub(super) const fn words(title: &'static str, spare: u8) -> Column {
    Column { title, right: false, spare }
}

/// A column of figures.
pub(super) const fn figures(title: &'static str, spare: u8) -> Column {
    Column { title, right: true, spare }
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Line>,
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// The table's lines, its headings first, none wider than `width`.
    pub(super) fn lines(&self, width: usize) -> Vec<Line> {
        let widths = self.widths();
        let shown = self.shown(&widths, width);
        let heading: Line = self.columns.iter().map(|column| Cell::new(column.title, Tone::Heading)).collect();
        let line = |cells: &Line| self.line(cells, &widths, &shown, width);
        std::iter::once(&heading).chain(&self.rows).map(line).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let of = |(place, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(place)).map(Cell::width);
            cells.chain([column.title.chars().count()]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(of).collect()
    }

    /// The places of the columns that fit, in order; those without a single figure are not shown either.
    fn shown(&self, widths: &[usize], width: usize) -> Vec<usize> {
        let told = |place: usize| self.rows.iter().any(|row| row.get(place).is_some_and(|cell| !cell.text.is_empty()));
        let mut shown: Vec<usize> = (0..self.columns.len()).filter(|&place| told(place)).collect();
        let spare = |place: usize| self.columns.get(place).map_or(0, |column| column.spare);
        loop {
            let needed: usize = shown.iter().filter_map(|&place| widths.get(place)).map(|width| width + GAP).sum();
            let first = shown.iter().enumerate().max_by_key(|(_, place)| spare(**place));
            match first {
                Some((at, &place)) if needed > width + GAP && spare(place) > 0 => {
                    shown.remove(at);
                }
                _ => return shown,
            }
        }
    }

    fn line(&self, cells: &Line, widths: &[usize], shown: &[usize], width: usize) -> Line {
        let mut line = Line::new();
        for (at, &place) in shown.iter().enumerate() {
            let (Some(cell), Some(&wide)) = (cells.get(place), widths.get(place)) else { continue };
            let right = self.columns.get(place).is_some_and(|column| column.right);
            let last = at + 1 == shown.len();
            let gap = if last { 0 } else { GAP };
            let text = match (right, last) {
                (true, _) => format!("{:>wide$}{:gap$}", cell.text, ""),
                (false, true) => cell.text.clone(),
                (false, false) => format!("{:<wide$}{:gap$}", cell.text, ""),
            };
            line.push(Cell { text, tone: cell.tone });
        }
        cut(line, width)
    }
}

/// The beginning of a line that fits; what is cut off is marked.
pub(super) fn cut(line: Line, width: usize) -> Line {
    if line.iter().map(Cell::width).sum::<usize>() <= width {
        return line;
    }
    let mut room = width.saturating_sub(1);
    let mut short = Line::new();
    for cell in line {
        let text: String = cell.text.chars().take(room).collect();
        room -= text.chars().count();
        short.push(Cell { text, tone: cell.tone });
    }
    short.push(Cell::new("…", Tone::Dim));
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = vec![words("NAME", 0), figures("COUNT", 1), words("NOTHING", 0), words("MORE", 2)];
        let row = |name: &str, count: &str, more: &str| vec![name.into(), count.into(), "".into(), more.into()];
        Table { columns, rows: vec![row("one", "7", "and so on"), row("another", "1234567", "")] }
    }

    #[track_caller]
    fn check(width: usize, expected: &[&str]) {
        let lines = table().lines(width);
        let text: Vec<String> = lines.iter().map(|line| line.iter().map(|cell| cell.text.as_str()).collect()).collect();
        assert_eq!(text.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected, "{width}");
    }

    #[test]
    fn columns_go_before_text_is_cut() {
        check(80, &["NAME       COUNT  MORE", "one            7  and so on", "another  1234567"]);
        check(27, &["NAME       COUNT  MORE", "one            7  and so on", "another  1234567"]);
        check(26, &["NAME       COUNT", "one            7", "another  1234567"]);
        check(10, &["NAME", "one", "another"]);
        check(5, &["NAME", "one", "anot…"]);
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do_by_a_name() {
        assert_eq!(Cell::plain("a\u{1b}[31mb\n").text, "a·[31mb·");
    }
}
