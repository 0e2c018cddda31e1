//! The line that says what is measured now; one line each where there is no terminal.

use std::io::{self, IsTerminal, Write};

use crate::planner::Shape;

pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    pub(super) fn at(&mut self, backend: &str, shape: Shape, concurrency: u32) -> io::Result<()> {
        let Shape { input_tokens, output_tokens } = shape;
        let line = format!("{backend}: {input_tokens} in, {output_tokens} out, {concurrency} at once");
        let mut out = io::stderr().lock();
        if self.terminal {
            write!(out, "\r\x1b[K{line}")?;
            return out.flush();
        }
        writeln!(out, "{line}")
    }

    pub(super) fn end(&self) -> io::Result<()> {
        if self.terminal {
            write!(io::stderr().lock(), "\r\x1b[K")?;
        }
        Ok(())
    }
}
