//! What every decoder-only family has: sizes, norm, rotary base, token ids, quantisation.

use super::fields::Fields;
use super::quantization::{Fp8Config, quantization};
use super::rope::{RopeScaling, rope_config};
use super::{MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH};
use crate::Result;

/// The part of a config that all families share. Names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonConfig {
    /// Class name, such as `DeepseekV3ForCausalLM`.
    pub architecture: String,
    /// Family name, such as `deepseek_v3`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers, draft layers excluded.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; equal to the query heads where latent attention is used.
    pub num_key_value_heads: usize,
    /// Width of one query head; with latent attention `qk_nope_head_dim + qk_rope_head_dim`.
    pub head_dim: usize,
    /// Width of a dense feed-forward.
    pub intermediate_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest supported sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the head reuses the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The dtype that the checkpoint was written in, as its author names it; each tensor's header decides.
    pub torch_dtype: Option<String>,
    /// Block quantisation of the linear layers.
    pub quantization: Option<Fp8Config>,
}

/// Rotary base and scaling.
pub(crate) struct RopeConfig {
    pub(crate) theta: f64,
    pub(crate) scaling: RopeScaling,
}

/// Reads everything but what depends on the attention kind: `head_dim` and `num_key_value_heads` are as written, or
/// 0 where the config is silent.
pub(crate) fn common(fields: &Fields<'_>, architecture: &str, model_type: &str) -> Result<CommonConfig> {
    common_with(fields, architecture, model_type, "intermediate_size")
}

/// As [`common`], for a family that keeps the width of its feed-forward under the key `intermediate`.
pub(crate) fn common_with(
    fields: &Fields<'_>,
    architecture: &str,
    model_type: &str,
    intermediate: &str,
) -> Result<CommonConfig> {
    const DEFAULT_POSITIONS: usize = 2048;
    fields.only("hidden_act", &"silu".into())?;
    let max_position_embeddings =
        fields.size_opt("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(DEFAULT_POSITIONS);
    let rope = rope_config(fields, max_position_embeddings)?;
    let torch_dtype = fields.text("torch_dtype")?.or(fields.text("dtype")?);
    Ok(CommonConfig {
        architecture: architecture.to_owned(),
        model_type: model_type.to_owned(),
        hidden_size: fields.size("hidden_size", MAX_WIDTH)?,
        num_hidden_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
        num_attention_heads: fields.size("num_attention_heads", MAX_HEADS)?,
        num_key_value_heads: fields.size_opt("num_key_value_heads", MAX_HEADS)?.unwrap_or(0),
        head_dim: fields.size_opt("head_dim", MAX_WIDTH)?.unwrap_or(0),
        intermediate_size: fields.size(intermediate, MAX_WIDTH)?,
        vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
        max_position_embeddings,
        rms_norm_eps: fields.number_opt("rms_norm_eps", 1e-30, 1.0)?.unwrap_or(1e-6) as f32,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        torch_dtype: torch_dtype.map(str::to_owned),
        quantization: quantization(fields)?,
    })
}

/// Settles heads and head width of ordinary (grouped-query) attention, and checks that they divide.
pub(crate) fn settle_grouped_query(fields: &Fields<'_>, common: &mut CommonConfig) -> Result<()> {
    let heads = common.num_attention_heads;
    if common.num_key_value_heads == 0 {
        common.num_key_value_heads = heads;
    }
    if !heads.is_multiple_of(common.num_key_value_heads) {
        return Err(fields.error("num_key_value_heads", format!("a divisor of num_attention_heads {heads}")));
    }
    if common.head_dim == 0 {
        if !common.hidden_size.is_multiple_of(heads) {
            return Err(fields
                .error("num_attention_heads", format!("a divisor of hidden_size {}", common.hidden_size)));
        }
        common.head_dim = common.hidden_size / heads;
    }
    if !common.head_dim.is_multiple_of(2) {
        let expected = "an even number, because rotary embedding turns pairs";
        return Err(fields.error_found("head_dim", expected, common.head_dim));
    }
    Ok(())
}
