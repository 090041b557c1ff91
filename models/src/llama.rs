//! llama and qwen2: DeepSeek-LLM, DeepSeek-Coder v1 and the R1 distills.
//!
//! Grouped-query attention with half-split rope, one gated MLP per block. qwen2 adds biases to q, k and v. Upstream:
//! `transformers/models/{llama,qwen2}`.

use std::sync::Arc;

use checkpoint::{CommonConfig, LlamaConfig, ModelConfig, RopeScaling};

use crate::layers::{Attention, Block, Ffn, Gqa, GqaShape, RopeFrequencies};
use crate::loader::{Loader, Part};
use crate::{Decoder, HeadShard, ModelError, Result};

/// Reads a llama or qwen2 model.
pub(crate) fn load(config: &LlamaConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let common = &config.common;
    if config.mlp_bias {
        return Err(ModelError::config("mlp_bias", "false", true));
    }
    let rope = rope(common, loader)?;
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
pub(crate) fn rope(common: &CommonConfig, loader: &mut Loader<'_>) -> Result<Arc<RopeFrequencies>> {
    let frequencies = RopeFrequencies::new(common.rope_theta, common.head_dim, &common.rope_scaling);
    Ok(Arc::new(match common.rope_scaling {
        RopeScaling::Divisors => {
            frequencies.divided_by(&loader.constants(checkpoint::ROPE_FREQS, &[common.head_dim / 2])?)
        }
        _ => frequencies,
    }))
}

/// Reads the attention of the layer at `prefix`; deepseek-moe-16b has the same.
pub(crate) fn attention(
    loader: &mut Loader<'_>,
    prefix: &str,
    common: &CommonConfig,
    rope: &Arc<RopeFrequencies>,
    [qkv_bias, o_bias]: [bool; 2],
) -> Result<Attention> {
    let CommonConfig { hidden_size, num_attention_heads, num_key_value_heads, head_dim, .. } = *common;
    let HeadShard { heads, kv_heads } =
        loader.shard().grouped_heads(num_attention_heads, num_key_value_heads)?;
    let shape = GqaShape { num_heads: heads.len(), num_kv_heads: kv_heads.len(), head_dim };
    let q = Part { range: heads, unit: head_dim, of: num_attention_heads };
    let kv = Part { range: kv_heads, unit: head_dim, of: num_key_value_heads };
    let at = |name: &str| format!("{prefix}.self_attn.{name}");
    Ok(Attention::Gqa(Gqa {
        q: loader.column_linear(&at("q_proj"), &q, hidden_size, qkv_bias)?,
        k: loader.column_linear(&at("k_proj"), &kv, hidden_size, qkv_bias)?,
        v: loader.column_linear(&at("v_proj"), &kv, hidden_size, qkv_bias)?,
        o: loader.row_linear(&at("o_proj"), hidden_size, &q, o_bias)?,
        shape,
        rope: rope.clone(),
        softmax_scale: (head_dim as f64).powf(-0.5) as f32,
    }))
}
