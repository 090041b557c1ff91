//! DeepSeek-V3, R1 and V3.1 (`model_type: deepseek_v3`): V2's block with another routing rule, and MTP.
//!
//! Sigmoid scores, chosen with `e_score_correction_bias` among the best groups by their top two, weighed without it.
//! Paper: arXiv 2412.19437, section 2; upstream: `transformers/models/deepseek_v3`.

use checkpoint::{DeepseekConfig, ModelConfig, MoeConfig, ScoringFunc, TopkMethod};
use kernels::ops::{GateConfig, GroupScore, Scoring};

use crate::deepseek_v2::{Blocks, dense};
use crate::layers::Block;
use crate::loader::Loader;
use crate::mtp::Depths;
use crate::{Decoder, ModelError, Result};

/// Reads a V3 model, with its MTP layers if the checkpoint has them.
pub(crate) fn load(config: &DeepseekConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let blocks = blocks(config)?;
    with_mtp(config, loader, |loader, layer_idx| blocks.load(loader, layer_idx, dense))
}

/// V2's blocks under V3's routing rule.
pub(crate) fn blocks(config: &DeepseekConfig) -> Result<Blocks<'_>> {
    Blocks::new(config, config.moe.as_ref().map(gate).transpose()?)
}

/// Reads a decoder and its MTP layers, whose blocks are the decoder's, through `block`.
pub(crate) fn with_mtp(
    config: &DeepseekConfig,
    loader: &mut Loader<'_>,
    mut block: impl FnMut(&mut Loader<'_>, usize) -> Result<Block>,
) -> Result<Decoder> {
    let DeepseekConfig { common, num_nextn_predict_layers, .. } = config;
    let decoder = Decoder::load(ModelConfig::Deepseek(config.clone()), loader, &mut block)?;
    let depths = Depths::load(common, *num_nextn_predict_layers, loader, block)?;
    Ok(decoder.with_mtp(depths))
}

/// V3's routing rule.
fn gate(moe: &MoeConfig) -> Result<GateConfig> {
    if moe.scoring_func != ScoringFunc::Sigmoid {
        return Err(ModelError::config("scoring_func", "sigmoid", format!("{:?}", moe.scoring_func)));
    }
    if moe.topk_method != TopkMethod::NoauxTc {
        return Err(ModelError::config("topk_method", "noaux_tc", format!("{:?}", moe.topk_method)));
    }
    Ok(GateConfig {
        scoring: Scoring::Sigmoid,
        top_k: moe.num_experts_per_tok,
        n_group: moe.n_group,
        topk_group: moe.topk_group,
        group_score: GroupScore::TopTwoSum,
        norm_topk_prob: moe.norm_topk_prob,
        routed_scaling_factor: moe.routed_scaling_factor,
    })
}
