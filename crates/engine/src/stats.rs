//! [`GenerationStats`]: what a generation cost, in tokens and time spent inside its steps.

use std::time::Duration;

/// Counts and times of one generation. Times cover the engine's own steps, not what the caller did between them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationStats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, how many were found in the KV cache and not computed again.
    pub cached_tokens: usize,
    /// Tokens produced, without the stop token.
    pub generated_tokens: usize,
    /// Steps after the first token, each of which ran the model on one token and what was guessed behind it.
    pub decode_steps: usize,
    /// Tokens that were guessed and computed.
    pub guessed_tokens: usize,
    /// Of those, how many were right: tokens that took no step of their own.
    pub accepted_tokens: usize,
    /// Time of the steps up to and including the first sampled token.
    pub prefill: Duration,
    /// Time of the steps after it.
    pub decode: Duration,
    /// From the acceptance of the request to its first step; zero where nothing queues.
    pub queued: Duration,
    /// From the acceptance of the request to its first token, waiting included.
    pub time_to_first_token: Option<Duration>,
    /// The seed that repeats this run.
    pub seed: u64,
}

impl GenerationStats {
    /// Prompt tokens computed per second; 0 before the first step.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.prefill)
    }

    /// Tokens per second after the first one; 0 if there was only one.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_steps + self.accepted_tokens, self.decode)
    }

    /// Part of the guesses that were right, 0 to 1; `None` if nothing was guessed.
    pub fn acceptance_rate(&self) -> Option<f64> {
        (self.guessed_tokens > 0).then(|| self.accepted_tokens as f64 / self.guessed_tokens as f64)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 || time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
