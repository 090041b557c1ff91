//! Grammars that an answer must follow: a JSON object, a JSON schema, a regular expression, a Lark grammar, tool calls.
//!
//! `llguidance` turns a grammar into a parser that says, after every token, which tokens may follow. A [`GrammarCompiler`] belongs to one
//! tokenizer; it compiles a [`GrammarSpec`] into a [`Grammar`] once, within a budget, on a thread of its own, and remembers it; every answer
//! then gets its own [`Matcher`]. Grammars come from clients: whatever they send costs a bounded amount of work, or is refused with the place
//! that is wrong.

mod compiler;
mod expression;
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
use crate::error::Error;

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

fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::InvalidGrammar { path: path.into(), reason: reason.into() }
}
