//! `generation_config.json`: the sampling defaults that the model's authors chose.

use super::{document, fields::Fields};
use crate::Result;

/// Sampling defaults; an absent file or key leaves a field empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Softmax temperature; 0 means greedy.
    pub temperature: Option<f32>,
    /// Nucleus size, in (0, 1].
    pub top_p: Option<f32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the bytes of `file`.
    ///
    /// # Errors
    /// [`crate::CheckpointError::Config`] for bytes that are not a JSON object and values out of range.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let value = document(bytes, file)?;
        let fields = Fields::new(file, "", &value)?;
        Ok(Self {
            temperature: fields.number_opt("temperature", 0.0, 100.0)?.map(|v| v as f32),
            top_p: fields.number_opt("top_p", 1e-6, 1.0)?.map(|v| v as f32),
            eos_token_ids: fields.token_ids("eos_token_id")?,
        })
    }
}
