//! The few shapes that the plots of reports are made of, and the look of their pages. Colours are classes and variables of the style sheet, so that a plot
//! follows the reader's light or dark scheme.

use std::fmt::Write;

/// The style sheet of pages with plots: it follows the reader's light or dark scheme.
pub(crate) const STYLE: &str = include_str!("style.css");

/// A picture with a title and a description for those who cannot see it.
#[derive(Debug)]
pub(crate) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// A linear scale from values to places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    pub(crate) fn new(from: (f64, f64), to: (f64, f64)) -> Self {
        let from = if from.1 > from.0 { from } else { (from.0, from.0 + 1.0) };
        Self { from, to }
    }

    /// Where a value is; what is outside is put on the edge.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = if value.is_finite() { value.clamp(self.from.0, self.from.1) } else { self.from.1 };
        self.to.0 + (value - self.from.0) / (self.from.1 - self.from.0) * (self.to.1 - self.to.0)
    }

    /// Round values, about `count` of them.
    pub(crate) fn ticks(&self, count: f64) -> Vec<f64> {
        let span = self.from.1 - self.from.0;
        let rough = span / count;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.from.0 / step).ceil() * step;
        std::iter::successors(Some(first), |tick| Some(tick + step))
            .take_while(|tick| *tick <= self.from.1 + step * 1e-9)
            .take(50)
            .collect()
    }
}

impl Svg {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(crate) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, opacity: f64, title: &str) {
        let _ = write!(
            self.body,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" opacity=\"{opacity}\"><title>{}</title></circle>",
            at.0,
            at.1,
            escaped(title)
        );
    }

    pub(crate) fn bar(&mut self, class: &str, from: (f64, f64), to: (f64, f64), title: &str) {
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            from.0,
            from.1,
            (to.0 - from.0).max(0.5),
            (to.1 - from.1).max(0.5),
            escaped(title)
        );
    }

    /// A line through points in one of the ten colours; dashed ones say less.
    pub(crate) fn path(&mut self, colour: usize, dashed: bool, points: &[(f64, f64)], title: &str) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let pattern = if dashed { ";stroke-dasharray:4 4;stroke-width:1.2" } else { "" };
        let _ = write!(
            self.body,
            "<polyline style=\"fill:none;stroke-width:2;stroke:var(--c{}){pattern}\" points=\"{}\"><title>{}</title></polyline>",
            colour % 10,
            path.join(" "),
            escaped(title)
        );
    }

    /// A dot in one of the ten colours.
    pub(crate) fn mark(&mut self, colour: usize, at: (f64, f64), title: &str) {
        let _ = write!(
            self.body,
            "<circle style=\"fill:var(--c{})\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}</title></circle>",
            colour % 10,
            at.0,
            at.1,
            escaped(title)
        );
    }

    /// A closed area in one of the ten colours.
    pub(crate) fn area(&mut self, colour: usize, points: &[(f64, f64)], title: &str) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            self.body,
            "<polygon style=\"fill:var(--c{})\" points=\"{}\"><title>{}</title></polygon>",
            colour % 10,
            path.join(" "),
            escaped(title)
        );
    }

    /// Text; `anchor` is start, middle or end.
    pub(crate) fn text(&mut self, class: &str, anchor: &str, at: (f64, f64), text: &str) {
        let _ = write!(
            self.body,
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            at.0,
            at.1,
            escaped(text)
        );
    }

    /// The picture as an element.
    pub(crate) fn done(self, title: &str, description: &str) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             aria-label=\"{}\"><title>{}</title><desc>{}</desc>{}</svg>",
            escaped(title),
            escaped(title),
            escaped(description),
            self.body
        )
    }
}

/// Text that cannot be taken for markup.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
