//! The demo model: a very small DeepSeek-V3 that is part of the program, so that everything works before anything is
//! downloaded. `models/demo/README.md` says what it can do.

use checkpoint::{Checkpoint, CheckpointError, GenerationConfig};
use text::Tokenizer;

use crate::Error;

const CONFIG: &[u8] = include_bytes!("../../../models/demo/config.json");
const GENERATION_CONFIG: &[u8] = include_bytes!("../../../models/demo/generation_config.json");
const WEIGHTS: &[u8] = include_bytes!("../../../models/demo/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../../models/demo/tokenizer.json");
const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../../models/demo/tokenizer_config.json");

/// The demo model's held-out prompts, one JSON object per line.
pub(crate) const EVALUATION: &str = include_str!("../../../models/demo/eval.jsonl");

pub(crate) fn checkpoint() -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_parts(CONFIG, WEIGHTS)
}

pub(crate) fn generation_config() -> Result<GenerationConfig, CheckpointError> {
    GenerationConfig::from_json(GENERATION_CONFIG, "generation_config.json")
}

pub(crate) fn tokenizer() -> Result<Tokenizer, Error> {
    Ok(Tokenizer::from_bytes(TOKENIZER, Some(TOKENIZER_CONFIG))?)
}
