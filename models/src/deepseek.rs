//! deepseek-moe-16b (`model_type: deepseek`): llama's attention, V2's mixture of experts.
//!
//! Multi-head attention with half-split rope; softmax over all experts, the best `num_experts_per_tok` of them.
//! Paper: DeepSeekMoE, arXiv 2401.06066.

use checkpoint::{DeepseekConfig, ModelConfig, MoeConfig, ScoringFunc, TopkMethod};
use kernels::ops::{GateConfig, GroupScore, Scoring};

use crate::layers::Block;
use crate::loader::Loader;
use crate::{Decoder, ModelError, Result, deepseek_v2, llama};

/// Reads a deepseek-moe-16b model.
pub(crate) fn load(config: &DeepseekConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let common = &config.common;
    let gate = config.moe.as_ref().map(gate).transpose()?;
    let rope = llama::rope(common, loader)?;
    Decoder::load(ModelConfig::Deepseek(config.clone()), loader, |loader, layer_idx| {
        let prefix = format!("model.layers.{layer_idx}");
        Ok(Block {
            attention_norm: loader.block_norm(&prefix, "input_layernorm", common)?,
            attention: llama::attention(loader, &prefix, common, &rope, [false, false])?,
            ffn_norm: loader.block_norm(&prefix, "post_attention_layernorm", common)?,
            ffn: deepseek_v2::ffn(loader, layer_idx, config, gate.as_ref())?,
        })
    })
}

/// The first generation's routing rule; it has no groups.
fn gate(moe: &MoeConfig) -> Result<GateConfig> {
    if moe.scoring_func != ScoringFunc::Softmax {
        return Err(ModelError::config("scoring_func", "softmax", format!("{:?}", moe.scoring_func)));
    }
    if moe.topk_method != TopkMethod::Greedy {
        return Err(ModelError::config("topk_method", "greedy", format!("{:?}", moe.topk_method)));
    }
    Ok(GateConfig {
        scoring: Scoring::Softmax,
        top_k: moe.num_experts_per_tok,
        n_group: 1,
        topk_group: 1,
        group_score: GroupScore::Max,
        norm_topk_prob: moe.norm_topk_prob,
        routed_scaling_factor: moe.routed_scaling_factor,
    })
}
