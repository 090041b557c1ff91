//! [`GenerateRequest`]: what every front end asks for, with every field in range.

use engine::SamplingParams;
use text::{ChatRequest, Tool};

use super::{AnswerFormat, ToolChoice};

/// What is to be continued.
#[derive(Debug, Clone)]
pub(crate) enum PromptSource {
    /// A conversation.
    Chat(Box<ChatRequest>),
    /// Text, as it is.
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
    /// The hole between two texts.
    Fim { prefix: String, suffix: String },
}

impl PromptSource {
    /// The field of the request that holds it.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Text(_) | Self::Tokens(_) | Self::Fim { .. } => "prompt",
        }
    }
}

/// What the generated text is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OutputForm {
    /// A model's turn: reasoning, answer, calls of these tools.
    Turn {
        tools: Vec<Tool>,
        choice: ToolChoice,
        /// Whether it may hold several calls.
        parallel: bool,
    },
    /// Text and nothing else.
    Text,
}

/// A validated request. What needs the tokenizer or the context's length is checked when the prompt is encoded.
#[derive(Debug, Clone)]
pub(crate) struct GenerateRequest {
    /// At least one; each has `n` continuations.
    pub(crate) prompts: Vec<PromptSource>,
    pub(crate) n: usize,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    /// Goes on after the end of the model's turn. For measurements.
    pub(crate) ignore_eos: bool,
    /// Whether tokens that end a text are spelled out.
    pub(crate) show_special_tokens: bool,
    /// Names a namespace of the prefix cache inside that of the key.
    pub(crate) user_id: Option<String>,
    pub(crate) output: OutputForm,
    /// What the answer is held to, once the reasoning is over. Not beside tools that may be called.
    pub(crate) format: Option<AnswerFormat>,
}

impl GenerateRequest {
    /// Whether the model was asked to reason.
    pub(crate) fn thinks(&self) -> bool {
        self.prompts.iter().any(|p| matches!(p, PromptSource::Chat(chat) if chat.thinking == Some(true)))
    }
}
