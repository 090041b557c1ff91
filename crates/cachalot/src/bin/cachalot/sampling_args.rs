//! The options that say how tokens are picked and when a text ends.

use cachalot::GenerateOptions;

/// How tokens are picked. What is not given follows the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the most probable token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the smallest set of tokens whose probabilities sum to at least P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep tokens at least P times as probable as the most probable one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Lower the logits of tokens that were generated before
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Lower the logits of generated tokens once per occurrence
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Scale down the logits of tokens of the prompt and the output; 1 changes nothing
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Most tokens to generate, reasoning included
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// End the text before this string; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Reason before answering
    #[arg(long, overrides_with = "no_think")]
    think: bool,
    /// Answer at once
    #[arg(long)]
    no_think: bool,
}

impl SamplingArgs {
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            thinking: match (self.think, self.no_think) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            ..GenerateOptions::default()
        }
    }
}
