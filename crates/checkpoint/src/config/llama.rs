//! llama and qwen2: grouped-query attention and a dense feed-forward, which differ in their biases only.

use super::base::{CommonConfig, common, settle_grouped_query};
use super::fields::Fields;
use crate::Result;

/// Config of deepseek-llm, DeepSeek-Coder v1 and the R1 distills.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Sizes, norm, rotary base, token ids.
    pub common: CommonConfig,
    /// Whether q, k and v projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has a bias.
    pub o_bias: bool,
    /// Whether the feed-forward projections have a bias.
    pub mlp_bias: bool,
}

pub(crate) fn llama(fields: &Fields<'_>, architecture: &str, model_type: &str) -> Result<LlamaConfig> {
    let mut common = common(fields, architecture, model_type)?;
    settle_grouped_query(fields, &mut common)?;
    let attention_bias = fields.flag("attention_bias", false)?;
    Ok(LlamaConfig {
        common,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: fields.flag("mlp_bias", false)?,
    })
}

/// qwen2 always has q, k, v biases and never others; its config has no key for them.
pub(crate) fn qwen2(fields: &Fields<'_>, architecture: &str, model_type: &str) -> Result<LlamaConfig> {
    fields.only("use_sliding_window", &false.into())?;
    let mut common = common(fields, architecture, model_type)?;
    settle_grouped_query(fields, &mut common)?;
    Ok(LlamaConfig { common, qkv_bias: true, o_bias: false, mlp_bias: false })
}
