//! `config.json` becomes a [`ModelConfig`]: one typed value per supported family, every other model refused by name.

mod base;
mod deepseek;
mod deepseek_v4;
mod fields;
mod generation;
mod llama;
mod quantization;
mod rope;

use serde_json::Value;

pub use base::CommonConfig;
pub use deepseek::{
    DeepseekConfig, DeepseekGeneration, IndexerConfig, MlaConfig, MoeConfig, ScoringFunc, TopkMethod,
};
pub use deepseek_v4::{CSA_RATIO, DeepseekV4Config};
pub use generation::GenerationConfig;
pub use llama::LlamaConfig;
pub use quantization::Fp8Config;
pub use rope::RopeScaling;

use crate::{CheckpointError, Result};
use fields::Fields;

// Sizes beyond these are damage, not a model: the largest release is an order of magnitude smaller.
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 14;
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 30;

/// A model that this build can run.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// deepseek-moe, V2, V3, V3.2.
    Deepseek(DeepseekConfig),
    /// V4.
    DeepseekV4(DeepseekV4Config),
    /// llama and qwen2.
    Llama(LlamaConfig),
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Deepseek(DeepseekGeneration),
    DeepseekV4,
    Llama,
    Qwen2,
    /// A DeepSeek family that is known but has no layers here yet.
    NotYet,
}

/// Class name, `model_type`, family.
const FAMILIES: [(&str, &str, Family); 9] = [
    ("DeepseekForCausalLM", "deepseek", Family::Deepseek(DeepseekGeneration::V1)),
    ("DeepseekV2ForCausalLM", "deepseek_v2", Family::Deepseek(DeepseekGeneration::V2)),
    ("DeepseekV3ForCausalLM", "deepseek_v3", Family::Deepseek(DeepseekGeneration::V3)),
    ("DeepseekV32ForCausalLM", "deepseek_v32", Family::Deepseek(DeepseekGeneration::V32)),
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("DeepseekV4ForCausalLM", "deepseek_v4", Family::DeepseekV4),
    ("DeepseekV41ForCausalLM", "deepseek_v41", Family::NotYet),
    ("DeepseekV41ForConditionalGeneration", "deepseek_v41", Family::NotYet),
];

impl ModelConfig {
    /// Reads the bytes of `file`, which is named in errors.
    ///
    /// # Errors
    /// [`CheckpointError::Config`] with the key, the accepted and the found value.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        Self::from_value(&document(bytes, file)?, file)
    }

    /// As [`ModelConfig::from_json`], of a document that has been parsed, or made from what another kind of file says.
    pub(crate) fn from_value(value: &Value, file: &str) -> Result<Self> {
        let fields = Fields::new(file, "", value)?;
        let (architecture, model_type, family) = family(&fields)?;
        match family {
            Family::Deepseek(generation) => {
                deepseek::deepseek(&fields, architecture, model_type, generation).map(Self::Deepseek)
            }
            Family::DeepseekV4 => {
                deepseek_v4::deepseek_v4(&fields, architecture, model_type).map(Self::DeepseekV4)
            }
            Family::Llama => llama::llama(&fields, architecture, model_type).map(Self::Llama),
            Family::Qwen2 => llama::qwen2(&fields, architecture, model_type).map(Self::Llama),
            Family::NotYet => {
                let found = format!("{architecture}, a DeepSeek family that this build cannot run yet");
                Err(fields.error_found("architectures", supported(), found))
            }
        }
    }

    /// What every family has.
    pub fn common(&self) -> &CommonConfig {
        match self {
            Self::Deepseek(config) => &config.common,
            Self::DeepseekV4(config) => &config.common,
            Self::Llama(config) => &config.common,
        }
    }
}

/// The class name decides; `model_type` stands in where it is absent and must not contradict it.
fn family<'a>(fields: &Fields<'a>) -> Result<(&'a str, &'a str, Family)> {
    let architecture = match fields.get("architectures") {
        None => None,
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(Value::Array(list)) => {
            Some(list[0].as_str().ok_or_else(|| fields.error("architectures", "a list of class names"))?)
        }
        Some(_) => return Err(fields.error("architectures", "a list of class names")),
    };
    let model_type = fields.text("model_type")?;
    let by_class = architecture.and_then(|name| FAMILIES.iter().find(|row| row.0 == name));
    let by_type = model_type.and_then(|name| FAMILIES.iter().find(|row| row.1 == name));
    match (architecture, by_class, by_type) {
        (Some(name), Some(class), Some(kind)) if class.2 != kind.2 => {
            let expected = format!("`{}`, because architectures is {name}", class.1);
            Err(fields.error("model_type", expected))
        }
        (Some(name), Some(class), _) => Ok((name, model_type.unwrap_or(class.1), class.2)),
        (Some(_), None, _) => Err(fields.error("architectures", supported())),
        (None, _, Some(kind)) => Ok((kind.0, kind.1, kind.2)),
        (None, _, None) => Err(fields.error("model_type", supported())),
    }
}

fn supported() -> String {
    let rows = FAMILIES.iter().filter(|row| row.2 != Family::NotYet);
    let names: Vec<_> = rows.map(|(class, kind, _)| format!("{class} ({kind})")).collect();
    format!("one of {}", names.join(", "))
}

/// The JSON document in `bytes`.
pub(crate) fn document(bytes: &[u8], file: &str) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| CheckpointError::config(file, "the document", "valid JSON", error))
}
