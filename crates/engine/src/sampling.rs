//! [`SamplingParams`]: how one request picks its tokens, and the ranges each field may take.

use crate::EngineError;

/// Most alternatives that a step reports with their log-probabilities.
pub const MAX_LOGPROBS: usize = 20;

/// How the next token is chosen from the logits.
///
/// The order is that of vLLM: logit bias, repetition, frequency and presence penalty, temperature, `min_p`, `top_k`,
/// `top_p`, then one draw. Each filter works on the distribution that the one before it left, renormalised.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits. 0 is greedy: the largest logit after bias and penalties, a tie goes to the lowest id,
    /// and the filters below have no effect. At least 0.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens, ties going to the lower id; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most probable tokens whose probabilities sum to at least `top_p`. In (0, 1].
    pub top_p: f32,
    /// Keeps tokens at least `min_p` times as probable as the most probable one. In [0, 1].
    pub min_p: f32,
    /// Subtracted once from the logit of every token that was generated before. In [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted from a logit once per earlier occurrence among the generated tokens. In [-2, 2].
    pub frequency_penalty: f32,
    /// For every token of the prompt or the output: a positive logit is divided by it, a negative one multiplied
    /// (CTRL, section 4.1). Above 0; 1 changes nothing.
    pub repetition_penalty: f32,
    /// `(token id, bias)`: added to the logit. Each bias in [-100, 100]; negative infinity bans the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Names the random stream. The same seed, prompt and parameters give the same tokens, whatever else the engine
    /// runs. `None` takes a fresh one from the operating system.
    pub seed: Option<u64>,
    /// Reports the log-probability of each token, and of this many of the most probable ones, from the logits before
    /// bias, penalties and temperature. At most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    /// The model's own distribution: temperature 1, no filter, no penalty.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field against its range; `vocab_size` bounds the ids of `logit_bias`.
    ///
    /// # Errors
    /// [`EngineError::Request`] names the field, the accepted range and the value.
    pub fn validate(&self, vocab_size: usize) -> Result<(), EngineError> {
        let within = |field, value: f32, ok: bool, expected| {
            // A NaN fails every comparison, so it never passes as "in range".
            if ok { Ok(()) } else { Err(EngineError::request(field, expected, value)) }
        };
        let t = self.temperature;
        within("temperature", t, t >= 0.0 && t.is_finite(), "a finite number of at least 0")?;
        within("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        within("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let symmetric = |v: f32| (-2.0..=2.0).contains(&v);
        within("presence_penalty", self.presence_penalty, symmetric(self.presence_penalty), "-2 to 2")?;
        within("frequency_penalty", self.frequency_penalty, symmetric(self.frequency_penalty), "-2 to 2")?;
        let r = self.repetition_penalty;
        within("repetition_penalty", r, r > 0.0 && r.is_finite(), "a finite number above 0")?;
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                let expected = format!("token ids below {vocab_size}");
                return Err(EngineError::request("logit_bias", expected, token));
            }
            let ok = (-100.0..=100.0).contains(&bias) || bias == f32::NEG_INFINITY;
            within("logit_bias", bias, ok, "-100 to 100, or negative infinity")?;
        }
        match self.logprobs {
            Some(count) if count > MAX_LOGPROBS => {
                Err(EngineError::request("logprobs", format!("at most {MAX_LOGPROBS}"), count))
            }
            _ => Ok(()),
        }
    }
}
