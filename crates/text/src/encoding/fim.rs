//! Fill in the middle: the model writes what belongs between a prefix and a suffix. The form is the same from Coder v1 to V4; only the ids
//! differ. No BOS here: [`Tokenizer::encode_completion`](crate::Tokenizer::encode_completion) adds it where the checkpoint asks for it.

use crate::prompt::Prompt;

use super::markers::{FIM_BEGIN, FIM_END, FIM_HOLE};

/// Name of the format in prompt files.
pub const NAME: &str = "fim";

/// Renders prefix and suffix around the hole.
pub fn encode(prefix: &str, suffix: &str) -> Prompt {
    let mut prompt = Prompt::new();
    prompt.control(FIM_BEGIN).text(prefix).control(FIM_HOLE).text(suffix).control(FIM_END);
    prompt
}
