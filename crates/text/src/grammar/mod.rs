//! Grammars that an answer must follow: a JSON object, a JSON schema, a regular expression, a Lark grammar, tool calls.
//!
//! `llguidance` turns a grammar into a parser that says, after every token, which tokens may follow. A [`GrammarCompiler`] belongs to one
//! tokenizer; it compiles a [`GrammarSpec`] into a [`Grammar`] once, within a budget, on a thread of its own, and remembers it; every answer
//! then gets its own [`Matcher`]. Grammars come from clients: whatever they send costs a bounded amount of work, or is refused with the place
//! that is wrong.

mod compiler;
mod matcher;
mod schema;
mod tool_calls;
mod vocabulary;

use std::time::Duration;

use serde_json::Value;

pub use compiler::{Grammar, GrammarCompiler};
pub use matcher::Matcher;

use crate::chat::Tool;
use crate::encoding::Generation;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema(Value),
    /// Text that a regular expression (Rust's syntax) matches from end to end.
    Regex(String),
    /// Text of a Lark grammar, in llguidance's dialect.
    Lark(String),
    /// Calls of tools as the models of a generation write them.
    ToolCalls {
        /// The generation.
        generation: Generation,
        /// The tools that may be called. The arguments of a tool with `strict` follow its schema; other tools take any object.
        tools: Vec<Tool>,
        /// Whether a call must come; otherwise text, or text and then calls.
        required: bool,
        /// Whether more than one call may come.
        parallel: bool,
        /// Whether the prompt opened the list of calls already, as V4's and V4.1's do for a required call without reasoning.
        opened: bool,
    },
}

/// What compiling and remembering grammars may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrammarLimits {
    /// Bytes of a grammar as it came.
    pub max_bytes: usize,
    /// Nested schemas.
    pub max_depth: usize,
    /// Largest count that a schema may ask for: items, properties, characters.
    pub max_count: u64,
    /// Time to compile one grammar.
    pub max_time: Duration,
    /// Grammars compiled at the same time, abandoned ones included; beyond that a grammar is refused at once.
    pub max_compiling: usize,
    /// Compiled grammars remembered; the least recently used goes first.
    pub max_cached: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 10,
            max_depth: 64,
            max_count: 100_000,
            max_time: Duration::from_secs(5),
            max_compiling: 8,
            max_cached: 128,
        }
    }
}

/// Why there is no grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The grammar is wrong, or asks for something that cannot be enforced.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where: `regex`, `grammar`, or a place in the schema such as `schema.properties.age.type`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// The grammar is beyond a limit.
    #[error("{path}: expected at most {limit} {unit}, found {found}")]
    TooLarge {
        /// Where.
        path: String,
        /// What is counted.
        unit: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        found: u64,
    },
    /// Compiling took longer than the limit.
    #[error("the grammar is too complex: compiling it takes more than {} ms", limit.as_millis())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// As many grammars as allowed are being compiled; a later try may find room.
    #[error("{compiling} grammars are being compiled already; try again later")]
    Busy {
        /// How many.
        compiling: usize,
    },
    /// The tokenizer has no such token, so the calls of this generation cannot be written with it.
    #[error("control token {token:?} is not in the tokenizer's vocabulary")]
    MissingToken {
        /// The token's spelling.
        token: String,
    },
    /// The tokenizer cannot serve any grammar.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// Why.
        reason: String,
    },
}

impl GrammarError {
    fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), reason: reason.into() }
    }
}
