//! Why the model stopped, in the words of every dialect.

macro_rules! finish_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why the model stopped: a closed list, so that it can be a metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FinishReason {
            $($(#[$doc])* $name,)*
            /// A reason that is none of the known ones.
            Other,
        }

        impl FinishReason {
            /// The reason in the backend's own word; `other` when that word is not known.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other => "other",
                }
            }

            /// The reason of this name.
            #[must_use]
            pub fn from_name(name: &[u8]) -> Self {
                $(if name == $text.as_bytes() {
                    return Self::$name;
                })*
                Self::Other
            }

            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)* Self::Other];
        }
    };
}

finish_reasons! {
    /// A stop token or stop string.
    Stop = "stop",
    /// The token limit.
    Length = "length",
    /// The model called tools.
    ToolCalls = "tool_calls",
    /// A function call, in the older dialect.
    FunctionCall = "function_call",
    /// A content filter.
    ContentFilter = "content_filter",
    /// The engine gave the request up.
    Abort = "abort",
    /// The engine failed.
    Error = "error",
    /// The model repeated itself.
    Repetition = "repetition",
    /// Responses: the answer is whole.
    Completed = "completed",
    /// Responses: the answer is not whole, for a reason that was not stated.
    Incomplete = "incomplete",
    /// Responses: the token limit.
    MaxOutputTokens = "max_output_tokens",
    /// Responses: the answer failed.
    Failed = "failed",
    /// Responses: the answer was cancelled.
    Cancelled = "cancelled",
    /// Messages: the model's own end.
    EndTurn = "end_turn",
    /// Messages: the token limit.
    MaxTokens = "max_tokens",
    /// Messages: a stop string.
    StopSequence = "stop_sequence",
    /// Messages: the model called tools.
    ToolUse = "tool_use",
    /// Messages: a long turn was paused.
    PauseTurn = "pause_turn",
    /// Messages: the model refused.
    Refusal = "refusal",
    /// Messages: the context is full.
    ModelContextWindowExceeded = "model_context_window_exceeded",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_back_from_its_word() {
        for &reason in FinishReason::ALL {
            assert_eq!(FinishReason::from_name(reason.as_str().as_bytes()), reason);
        }
        assert_eq!(FinishReason::from_name(b"because"), FinishReason::Other);
    }
}
