//! The terminal: drawn from lines, and left as it was found.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Styled, Span, Text};
use ratatui::widgets::Paragraph;

use super::snapshot::Snapshot;
use super::table::{Cell, Line, Tone, cut};
use super::view::{self, Sort};

/// Lines of the screen that do not move: the first one and the last one.
const FIXED: u16 = 2;

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// Where the figures are from.
    address: String,
    /// Whether colours may be used.
    colours: bool,
    snapshot: Option<Snapshot>,
    /// Why there is none, or no newer one, and for how long.
    pub(super) trouble: Option<(String, Duration)>,
    paused: bool,
    sort: Sort,
    scroll: usize,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To end.
    Quit,
    /// To draw anew.
    Draw,
    /// Nothing.
    Nothing,
}

impl Screen {
    /// An empty screen.
    pub(super) fn new(address: &str, colours: bool) -> Self {
        Self { address: address.to_owned(), colours, ..Self::default() }
    }

    /// Takes news in, unless the screen is to stand still.
    pub(super) fn hear(&mut self, news: Snapshot) {
        self.trouble = None;
        if !self.paused || self.snapshot.is_none() {
            self.snapshot = Some(news);
        }
    }

    /// Does what a key or a change of size asks for.
    pub(super) fn obey(&mut self, event: &Event) -> Asked {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            Event::Resize(..) => Asked::Draw,
            _ => Asked::Nothing,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Asked {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Asked::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Asked::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') | KeyCode::Right => self.sort = self.sort.step(true),
            KeyCode::Left => self.sort = self.sort.step(false),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(10),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home | KeyCode::Char('g') => self.scroll = 0,
            _ => return Asked::Nothing,
        }
        Asked::Draw
    }

    /// Draws everything.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let (width, height) = (usize::from(area.width), usize::from(area.height.saturating_sub(FIXED)));
        let body = self.snapshot.as_ref().map(|snapshot| view::body(snapshot, self.sort, width)).unwrap_or_default();
        self.scroll = self.scroll.min(body.len().saturating_sub(height));
        let mut lines = vec![self.first(width)];
        lines.extend(body.into_iter().skip(self.scroll).take(height));
        lines.resize(height + 1, Line::new());
        lines.push(self.last(width));
        let styled: Vec<_> = lines.iter().map(|line| self.styled(line)).collect();
        frame.render_widget(Paragraph::new(Text::from(styled)), area);
    }

    fn first(&self, width: usize) -> Line {
        let summary = |snapshot| view::summary(snapshot, &self.address);
        let asking = || vec![Cell::plain(format!("asking headway at {}", self.address))];
        let mut line = self.snapshot.as_ref().map_or_else(asking, summary);
        if let Some((why, since)) = &self.trouble {
            let text = format!("no answer for {} s, trying again: {why}", since.as_secs());
            line = vec![Cell::new(text, Tone::Bad)];
        }
        if self.paused {
            line.insert(0, Cell::new("PAUSED ", Tone::Warning));
        }
        cut(line, width)
    }

    fn last(&self, width: usize) -> Line {
        let keys = format!("q quit · p pause · ← → backends {} · ↑ ↓ scroll", self.sort.name());
        cut(vec![Cell::new(keys, Tone::Dim)], width)
    }

    fn styled(&self, line: &Line) -> Styled<'static> {
        line.iter().map(|cell| Span::styled(cell.text.clone(), self.style(cell.tone))).collect()
    }

    /// While nothing new comes, what is there is old, and looks it.
    fn style(&self, tone: Tone) -> Style {
        let colour = |colour: Color| if self.colours { Style::new().fg(colour) } else { Style::new() };
        match tone {
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            _ if self.trouble.is_some() => Style::new().add_modifier(Modifier::DIM),
            Tone::Plain => Style::new(),
            Tone::Heading => Style::new().add_modifier(Modifier::BOLD),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Good => colour(Color::Green),
            Tone::Warning => colour(Color::Yellow),
        }
    }
}
