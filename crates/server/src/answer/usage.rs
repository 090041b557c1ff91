//! [`Usage`]: the tokens that a request cost, and how OpenAI's and DeepSeek's APIs tell them.

use serde_json::{Value, json};

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    /// Of those, how many the prefix cache had.
    pub(crate) cached_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// Of those, how many were reasoning.
    pub(crate) reasoning_tokens: usize,
}

impl Usage {
    /// As the OpenAI-shaped routes tell it, with DeepSeek's figures of the cache.
    pub(crate) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "prompt_cache_hit_tokens": self.cached_tokens,
            "prompt_cache_miss_tokens": self.prompt_tokens - self.cached_tokens,
        })
    }
}
