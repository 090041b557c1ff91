//! [`LoadOptions`] and [`GenerateOptions`]: every choice a caller has, with the model's own choices as defaults.

use checkpoint::GenerationConfig;
use engine::{Drafter, SamplingParams, Speculation};
use kernels::{DType, Device};
use models::{ExpertFormat, IndexFormat, ModelOptions};

use crate::DeviceOptions;

/// How a model is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Tokens of context per sequence; `None` takes the model's own, at most
    /// [`engine::DEFAULT_CONTEXT_LEN`].
    pub context_len: Option<usize>,
    /// Element type of the KV cache (`F32`, `BF16`, or `F8E4M3` for MLA and V4); `None` follows the checkpoint.
    pub kv_dtype: Option<DType>,
    /// Sequences of full length that may be in work or kept by chats at once.
    pub max_sequences: usize,
    /// Sequences in work or kept by chats at once, of models that keep state per sequence (V4): a share of memory each.
    pub state_slots: usize,
    /// Copies of such state for the prefix cache of a service.
    pub state_snapshots: usize,
    /// Whether the KV cache takes its memory at once ([`engine::EngineOptions::commit_cache`]).
    pub commit_cache: bool,
    /// Prompt tokens per step.
    pub prefill_chunk: usize,
    /// Ranks that the weights are split over; each computes its part of every layer. At most the attention heads.
    pub tensor_parallel: usize,
    /// Where the ranks live.
    pub device: DeviceOptions,
    /// What becomes of routed experts; `None` leaves it to [`ExpertFormat::default_for`] each device.
    pub experts: Option<ExpertFormat>,
    /// What the indexer of V3.2 or V4 compares; other models have [`IndexFormat::Exact`] only.
    pub index: IndexFormat,
    /// Guesses tokens and checks several in a step; the texts are the same ([`engine::EngineOptions::speculation`]). MTP
    /// layers are read only if they are to guess.
    pub speculation: Option<Speculation>,
}

impl LoadOptions {
    /// What they mean for the model on `device`.
    pub(crate) fn model(&self, device: &Device) -> ModelOptions {
        ModelOptions {
            experts: self.experts.unwrap_or_else(|| ExpertFormat::default_for(device)),
            index: self.index,
            mtp: self.speculation.is_some_and(|speculation| speculation.drafter == Drafter::Mtp),
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        let engine = engine::EngineOptions::default();
        Self {
            context_len: None,
            kv_dtype: None,
            max_sequences: 4,
            state_slots: engine.state_slots,
            state_snapshots: engine.state_snapshots,
            commit_cache: false,
            prefill_chunk: engine.prefill_chunk,
            tensor_parallel: 1,
            device: DeviceOptions::default(),
            experts: None,
            index: IndexFormat::Exact,
            speculation: None,
        }
    }
}

/// How a continuation is made. `None` takes what the checkpoint's `generation_config.json` says, and where that is
/// silent the neutral value of [`SamplingParams`], which documents each field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// 0 keeps every token.
    pub top_k: Option<usize>,
    /// 1 keeps every token.
    pub top_p: Option<f32>,
    /// 0 keeps every token.
    pub min_p: Option<f32>,
    /// 0 changes nothing.
    pub presence_penalty: Option<f32>,
    /// 0 changes nothing.
    pub frequency_penalty: Option<f32>,
    /// 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text; `None` draws one.
    pub seed: Option<u64>,
    /// Most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Whether the model reasons before it answers; `None` leaves that to its prompt format.
    pub thinking: Option<bool>,
    /// Goes on after the end-of-sequence token. For measurements.
    pub ignore_eos: bool,
}

impl GenerateOptions {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: Some(0.0), ..Self::default() }
    }

    pub(crate) fn sampling(&self, defaults: &GenerationConfig) -> SamplingParams {
        let neutral = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(neutral.temperature),
            top_k: self.top_k.unwrap_or(neutral.top_k),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(neutral.top_p),
            min_p: self.min_p.unwrap_or(neutral.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(neutral.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(neutral.frequency_penalty),
            repetition_penalty: self.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            logprobs: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_word_comes_before_the_checkpoints() {
        let checkpoint = GenerationConfig { temperature: Some(0.3), top_p: Some(0.9), ..Default::default() };
        let sampling = GenerateOptions { top_p: Some(0.5), ..Default::default() }.sampling(&checkpoint);
        assert_eq!((sampling.temperature, sampling.top_p), (0.3, 0.5));
        assert_eq!(GenerateOptions::greedy().sampling(&checkpoint).temperature, 0.0);
        let silent = GenerateOptions::default().sampling(&GenerationConfig::default());
        assert_eq!(silent, SamplingParams::default());
    }
}
