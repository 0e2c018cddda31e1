//! Lengths that are usual for a task: the table of a published walk-through of NIM benchmarking.

use clap::ValueEnum;

use crate::bench::schedule::Lengths;

/// What requests are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// 150 to 300 tokens in, as many out.
    Translation,
    /// 500 to 2,000 tokens in, 100 to 300 out.
    #[value(alias = "summarisation")]
    Summarization,
    /// 200 to 500 tokens in, 50 to 200 out.
    #[value(alias = "qa")]
    QuestionAnswering,
    /// 100 to 500 tokens in, 200 to 1,000 out.
    #[value(alias = "code")]
    CodeGeneration,
    /// 50 to 200 tokens in, 500 to 2,000 out.
    #[value(alias = "essay")]
    EssayWriting,
    /// 50 to 150 tokens in, 100 to 500 out.
    Chat,
    /// 100 to 500 tokens in, 10 to 50 out.
    Classification,
    /// 300 to 1,000 tokens in, 100 to 500 out.
    #[value(alias = "extraction")]
    InformationExtraction,
}

impl Task {
    /// The ranges of prompts and answers, in tokens.
    fn ranges(self) -> ((f64, f64), (f64, f64)) {
        match self {
            Self::Translation => ((150.0, 300.0), (150.0, 300.0)),
            Self::Summarization => ((500.0, 2000.0), (100.0, 300.0)),
            Self::QuestionAnswering => ((200.0, 500.0), (50.0, 200.0)),
            Self::CodeGeneration => ((100.0, 500.0), (200.0, 1000.0)),
            Self::EssayWriting => ((50.0, 200.0), (500.0, 2000.0)),
            Self::Chat => ((50.0, 150.0), (100.0, 500.0)),
            Self::Classification => ((100.0, 500.0), (10.0, 50.0)),
            Self::InformationExtraction => ((300.0, 1000.0), (100.0, 500.0)),
        }
    }

    /// The lengths of prompts.
    pub(super) fn input(self) -> Lengths {
        lengths(self.ranges().0)
    }

    /// The lengths of answers.
    pub(super) fn output(self) -> Lengths {
        lengths(self.ranges().1)
    }
}

/// The middle of a range, and a spread that leaves one in twenty outside it.
fn lengths((low, high): (f64, f64)) -> Lengths {
    Lengths { mean: f64::midpoint(low, high), stddev: (high - low) / 4.0 }
}
