//! [`Event`] and [`Output`]: what a generation says, piece by piece and as a whole.

use engine::GenerationStats;

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn.
    EndOfSequence,
    /// One of [`crate::GenerateOptions::stop`] came up: this one.
    StopString(String),
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// Somebody cancelled it.
    Cancelled,
}

impl FinishReason {
    /// The name that HTTP APIs use: `stop`, `length` or `cancelled`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::EndOfSequence | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One piece of a running generation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A part of a long prompt was computed.
    Prefill {
        /// Prompt tokens computed, cached ones included.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A piece of the reasoning before the answer; never empty.
    Reasoning(String),
    /// A piece of the answer; never empty.
    Text(String),
    /// The end; always the last event of a generation that did not fail.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        stats: GenerationStats,
    },
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The answer.
    pub text: String,
    /// The reasoning before it; empty if there was none.
    pub reasoning: String,
    /// The generated token ids, reasoning and control tokens included, without the end-of-sequence token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it cost.
    pub stats: GenerationStats,
}
