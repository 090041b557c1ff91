//! llama and qwen2: DeepSeek-LLM, DeepSeek-Coder v1 and the R1 distills.
//!
//! Grouped-query attention with half-split rope, one gated MLP per block. qwen2 adds biases to q, k and v. Upstream:
//! `transformers/models/{llama,qwen2}`.

use std::sync::Arc;

use checkpoint::{CommonConfig, LlamaConfig, ModelConfig};

use crate::layers::{Attention, Block, Ffn, Gqa, GqaShape, RopeFrequencies};
use crate::loader::Loader;
use crate::{Decoder, ModelError, Result};

/// Reads a llama or qwen2 model.
pub(crate) fn load(config: &LlamaConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let common = &config.common;
    if config.mlp_bias {
        return Err(ModelError::config("mlp_bias", "false", true));
    }
    let rope = rope(common);
    Decoder::load(ModelConfig::Llama(config.clone()), loader, |loader, layer_idx| {
        let prefix = format!("model.layers.{layer_idx}");
        Ok(Block {
            attention_norm: loader.block_norm(&prefix, "input_layernorm", common)?,
            attention: attention(loader, &prefix, common, &rope, [config.qkv_bias, config.o_bias])?,
            ffn_norm: loader.block_norm(&prefix, "post_attention_layernorm", common)?,
            ffn: Ffn::Mlp(loader.mlp(
                &format!("{prefix}.mlp"),
                common.hidden_size,
                common.intermediate_size,
            )?),
        })
    })
}

/// Frequencies over the whole head.
pub(crate) fn rope(common: &CommonConfig) -> Arc<RopeFrequencies> {
    Arc::new(RopeFrequencies::new(common.rope_theta, common.head_dim, &common.rope_scaling))
}

/// Reads the attention of the layer at `prefix`; deepseek-moe-16b has the same.
pub(crate) fn attention(
    loader: &mut Loader<'_>,
    prefix: &str,
    common: &CommonConfig,
    rope: &Arc<RopeFrequencies>,
    [qkv_bias, o_bias]: [bool; 2],
) -> Result<Attention> {
    let shape = GqaShape {
        num_heads: common.num_attention_heads,
        num_kv_heads: common.num_key_value_heads,
        head_dim: common.head_dim,
    };
    let (dim, q_dim) = (common.hidden_size, shape.num_heads * shape.head_dim);
    let kv_dim = shape.num_kv_heads * shape.head_dim;
    let mut linear = |name: &str, shape: [usize; 2], bias: bool| {
        loader.linear(&format!("{prefix}.self_attn.{name}"), shape, bias)
    };
    Ok(Attention::Gqa(Gqa {
        q: linear("q_proj", [q_dim, dim], qkv_bias)?,
        k: linear("k_proj", [kv_dim, dim], qkv_bias)?,
        v: linear("v_proj", [kv_dim, dim], qkv_bias)?,
        o: linear("o_proj", [dim, q_dim], o_bias)?,
        shape,
        rope: rope.clone(),
        softmax_scale: (shape.head_dim as f64).powf(-0.5) as f32,
    }))
}
