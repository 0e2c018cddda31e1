//! Gaps between content responses, in a histogram of fixed size.

/// Every gap of one answer.
#[derive(Debug, Clone, Default)]
pub struct GapHistogram {}
