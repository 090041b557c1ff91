//! The ranges of every field, in one place: validation and the OpenAPI document read them here.

/// Most continuations of a request, over all its prompts.
pub(crate) const MAX_CHOICES: usize = 128;
/// Most prompts of a completion, and inputs of an embedding.
pub(crate) const MAX_PROMPTS: usize = 128;
/// Most tokens that may be asked for; DeepSeek's figure. What does not fit the context is cut to it.
pub(crate) const MAX_TOKENS: usize = 393_216;
/// Most messages of a conversation.
pub(crate) const MAX_MESSAGES: usize = 16_384;
/// Most stop strings.
pub(crate) const MAX_STOPS: usize = 16;
/// Most bytes of a stop string: each is searched for in every piece of text.
pub(crate) const MAX_STOP_BYTES: usize = 1024;
/// Most stop tokens.
pub(crate) const MAX_STOP_TOKENS: usize = 128;
/// Most alternatives per token.
pub(crate) const MAX_TOP_LOGPROBS: usize = engine::MAX_LOGPROBS;
/// Most entries of `logit_bias`; OpenAI's figure.
pub(crate) const MAX_LOGIT_BIAS: usize = 1024;
/// Most tools.
pub(crate) const MAX_TOOLS: usize = 128;
/// Most bytes of a tool's name.
pub(crate) const MAX_TOOL_NAME: usize = 128;
/// Most bytes of `user_id`.
pub(crate) const MAX_USER_ID: usize = 512;
/// Highest temperature.
pub(crate) const MAX_TEMPERATURE: f64 = 2.0;
/// Largest amount of a presence or frequency penalty.
pub(crate) const MAX_PENALTY: f64 = 2.0;
/// Largest amount of a bias.
pub(crate) const MAX_BIAS: f64 = 100.0;
/// Highest repetition penalty.
pub(crate) const MAX_REPETITION_PENALTY: f64 = 10.0;
/// Longest `x-request-id` that is taken over.
pub(crate) const MAX_REQUEST_ID: usize = 128;
