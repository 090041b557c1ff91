//! Everything about characters: how a conversation becomes token ids, and how ids become text again.
//!
//! ```no_run
//! use text::{ChatRequest, Generation, Message, SpecialTokens, Tokenizer};
//!
//! # fn main() -> text::Result<()> {
//! let tokenizer = Tokenizer::from_dir("deepseek-v3".as_ref())?;
//! let request = ChatRequest::new(vec![Message::user("Which whale dives deepest?")]);
//! let prompt = Generation::V3.encode(&request)?;
//! let ids = tokenizer.encode_prompt(&prompt)?;
//! let mut detokenizer = tokenizer.detokenizer(SpecialTokens::Skip);
//! let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
//! # let _ = text;
//! # Ok(())
//! # }
//! ```
//!
//! The way in: [`ChatRequest`] → a built-in format ([`Generation`]) or the checkpoint's own [`ChatTemplate`] → [`Prompt`] → [`Tokenizer`].
//! The way out: [`Detokenizer`] → [`StopMatcher`] → [`OutputParser`], which gives reasoning, content and tool calls. [`PromptFormat`] knows
//! both ways of a checkpoint. A [`grammar`] says which tokens an answer may be made of.
//!
//! Invariant: user text never becomes a control token. A [`Prompt`] keeps the two apart from the encoder to the ids, and the tokenizer
//! encodes text without its added vocabulary. Deliberately absent: tensors, sampling, HTTP, files other than the tokenizer's.

mod chat;
mod clock;
mod continuation;
mod detokenizer;
pub mod encoding;
mod error;
mod gguf;
pub mod grammar;
mod output;
mod prompt;
mod prompt_format;
mod provenance;
mod python_json;
mod stop;
mod template;
mod tokenizer;
mod tokenizer_config;
mod verify;
mod vocabulary;

pub use chat::{Arguments, ChatRequest, FunctionCall, Message, Role, Tool, ToolCall};
pub use detokenizer::{Detokenizer, SpecialTokens};
pub use encoding::{CheckpointFacts, Generation, Thinking};
pub use error::{Error, Result};
pub use gguf::GgufVocabulary;
pub use output::{OutputDelta, OutputParser, OutputStart, ParsedOutput, Piece, ReasoningSplitter};
pub use prompt::{Prompt, Segment};
pub use prompt_format::PromptFormat;
pub use stop::{StopMatcher, StopStep};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use tokenizer_config::TokenizerConfig;
pub use verify::{
    CaseReport, Chunkings, Difference, FileReport, Outcome, ParseCase, ParseFile, PromptCase, PromptFile,
    supported_formats, verify_parse_file, verify_prompt_file,
};
