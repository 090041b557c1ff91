//! The crate's one error enum: every way a tokenizer file, a conversation, a template or a prompt file can be wrong.

use std::path::PathBuf;
use std::time::Duration;

/// What went wrong, with the field or message it concerns, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: cannot read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was read, and a field of it is not what the format asks for.
    #[error("{file}: {field}: expected {expected}, found {found}")]
    Malformed {
        /// File name, or the name of the JSON document when it came as bytes.
        file: String,
        /// Dotted path of the field.
        field: String,
        /// What the format asks for.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A prompt uses a control token that the tokenizer does not have: prompt format and tokenizer do not belong together.
    #[error(
        "control token {token:?} is not in the tokenizer's vocabulary; the prompt format does not belong to this checkpoint"
    )]
    UnknownControlToken {
        /// The token's spelling.
        token: String,
    },
    /// The tokenizer library refused a text.
    #[error("tokenizer failed on a text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// The library's reason.
        reason: String,
    },
    /// Plain text came out as a control token: the vocabulary breaks the rule that text and control tokens never mix.
    #[error("plain text encoded to control token {token:?}")]
    ControlTokenFromText {
        /// The control token.
        token: String,
    },
    /// A message has a role that this prompt format has no place for.
    #[error("messages[{index}].role: expected one of {expected}, found {found:?}")]
    UnknownRole {
        /// Index of the message.
        index: usize,
        /// Roles the format knows.
        expected: &'static str,
        /// The role found.
        found: String,
    },
    /// A message lacks a field that the prompt format needs.
    #[error("messages[{index}].{field}: expected {expected}, found nothing")]
    MissingField {
        /// Index of the message.
        index: usize,
        /// The field's name.
        field: &'static str,
        /// What the format needs there.
        expected: &'static str,
    },
    /// A tool message where the messages before it leave no call without its result.
    #[error(
        "messages[{index}]: expected a result of a call in the assistant's message before it, found no such call"
    )]
    ResultWithoutCall {
        /// Index of the message.
        index: usize,
    },
    /// The request asks for something that the generation's prompt format does not have.
    #[error("{feature} is not supported by the prompt format {generation}")]
    Unsupported {
        /// Name of the generation.
        generation: &'static str,
        /// The thing asked for.
        feature: &'static str,
    },
    /// A name of a reasoning effort that the generation does not know.
    #[error("reasoning_effort: expected one of {expected}, found {found:?}")]
    UnknownEffort {
        /// The names it knows.
        expected: String,
        /// The name found.
        found: String,
    },
    /// A conversation for a checkpoint without any known prompt format.
    #[error(
        "no prompt format is known for this checkpoint ({model_type}, no chat template): give it raw text instead"
    )]
    NoPromptFormat {
        /// `model_type` of its config.
        model_type: String,
    },
    /// `continue_final_message` without a final assistant message that can be continued.
    #[error(
        "continue_final_message: expected the last message to be an assistant's with content and no tool calls, found {found}"
    )]
    CannotContinue {
        /// What the last message is.
        found: String,
    },
    /// The checkpoint's chat template does not parse.
    #[error("chat template: syntax error in line {line}: {reason}")]
    TemplateSyntax {
        /// Line in the template, from 1; 0 when unknown.
        line: usize,
        /// The parser's reason.
        reason: String,
    },
    /// The template called `raise_exception`: it refuses this conversation.
    #[error("chat template refuses the conversation: {message}")]
    TemplateRaised {
        /// The template's own message.
        message: String,
    },
    /// The template failed while rendering.
    #[error("chat template: error in line {line}: {reason}")]
    TemplateRender {
        /// Line in the template, from 1; 0 when unknown.
        line: usize,
        /// The engine's reason.
        reason: String,
    },
    /// The template ran into one of the limits that keep a hostile template from hanging the process.
    #[error("chat template exceeded its limit of {limit} {unit}")]
    TemplateLimit {
        /// The limit.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// User text spells control tokens, and the template treats the text in a way that hides which came from the user.
    #[error(
        "chat template: cannot tell the control tokens spelled in user text from the template's own; the conversation is refused"
    )]
    TemplateProvenance,
    /// A grammar is wrong, or asks for something that cannot be enforced.
    #[error("{path}: {reason}")]
    InvalidGrammar {
        /// Where: `regex`, `grammar`, or a place in a schema such as `schema.properties.age.type`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// A grammar is beyond a limit.
    #[error("{path}: expected at most {limit} {unit}, found {found}")]
    GrammarTooLarge {
        /// Where.
        path: String,
        /// What is counted.
        unit: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        found: u64,
    },
    /// Compiling a grammar takes longer than the limit.
    #[error("the grammar is too complex: compiling it takes more than {} ms", limit.as_millis())]
    GrammarTooSlow {
        /// The limit.
        limit: Duration,
    },
    /// As many grammars as allowed are being compiled; a later try may find room.
    #[error("{compiling} grammars are being compiled already; try again later")]
    GrammarBusy {
        /// How many.
        compiling: usize,
    },
    /// A list of stop strings holds an empty one, which would stop before the first character.
    #[error("stop[{index}]: expected a non-empty string, found \"\"")]
    EmptyStopString {
        /// Index in the list.
        index: usize,
    },
}

impl Error {
    /// A [`Error::Malformed`] from JSON that does not parse or lacks a field.
    pub(crate) fn json(file: &str, expected: &'static str, reason: &serde_json::Error) -> Self {
        let field = format!("line {} column {}", reason.line(), reason.column());
        Self::Malformed { file: file.to_owned(), field, expected, found: reason.to_string() }
    }
}

/// The crate's result type.
pub type Result<T> = std::result::Result<T, Error>;
