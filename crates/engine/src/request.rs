//! [`Request`]: a prompt of token ids and how to continue it, checked before anything is allocated.

use crate::{EngineError, SamplingParams};

/// One continuation to generate.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The token ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// Tokens that end the generation. They are not part of the output.
    pub stop_token_ids: Vec<u32>,
    /// Most tokens to generate, at least 1; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
}

impl Request {
    /// A request with default sampling, no stop token and no limit but the context.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self { prompt, ..Self::default() }
    }

    /// Checks the request against a model of `vocab_size` tokens and an engine of `context_len` positions.
    ///
    /// # Errors
    /// [`EngineError::Request`] names the field.
    pub fn validate(&self, vocab_size: usize, context_len: usize) -> Result<(), EngineError> {
        self.validate_prompt(vocab_size, context_len)?;
        let length = self.prompt.len();
        let left = context_len - length;
        if let Some(max) = self.max_tokens.filter(|&max| max == 0 || max > left) {
            let expected = format!("1 to {left} after a prompt of {length} tokens");
            return Err(EngineError::request("max_tokens", expected, max));
        }
        if let Some(stop) = self.stop_token_ids.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(EngineError::request(
                "stop_token_ids",
                format!("token ids below {vocab_size}"),
                stop,
            ));
        }
        self.sampling.validate(vocab_size)
    }

    /// The part of [`Request::validate`] that concerns the prompt alone.
    pub(crate) fn validate_prompt(&self, vocab_size: usize, context_len: usize) -> Result<(), EngineError> {
        let length = self.prompt.len();
        if length == 0 {
            return Err(EngineError::request("prompt", "at least 1 token", "empty"));
        }
        if let Some(i) = self.prompt.iter().position(|&token| token as usize >= vocab_size) {
            let found = format!("token {} at position {i}", self.prompt[i]);
            return Err(EngineError::request("prompt", format!("token ids below {vocab_size}"), found));
        }
        if length >= context_len {
            let expected = format!("fewer tokens than the context of {context_len}");
            return Err(EngineError::request("prompt", expected, format!("{length} tokens long")));
        }
        Ok(())
    }
}
