//! DeepSeek-V4 (`deepseek_v4`): hyper-connection streams, window attention with compressed entries, hash-routed layers.

use serde_json::Value;

use super::base::{CommonConfig, common_with};
use super::deepseek::{IndexerConfig, MoeConfig, ScoringFunc, TopkMethod};
use super::fields::Fields;
use super::rope::RopeScaling;
use super::{MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH};
use crate::Result;

/// The ratio whose layers choose their entries by an indexer (CSA); any other is a layer that takes them all (HCA).
pub const CSA_RATIO: usize = 4;

/// Config of V4-Flash and V4-Pro. Names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepseekV4Config {
    /// Sizes, norm, the rotary base of layers without compression, token ids. `rope_scaling` is that of the layers with
    /// compression, and `intermediate_size` is `moe_intermediate_size`: no layer is dense.
    pub common: CommonConfig,
    /// Width of the query latent.
    pub q_lora_rank: usize,
    /// Rotated channels, the last of a head.
    pub qk_rope_head_dim: usize,
    /// Groups of heads that the output projection joins.
    pub o_groups: usize,
    /// Width of a group's output latent.
    pub o_lora_rank: usize,
    /// Tokens that every layer sees uncompressed, the query's own included.
    pub sliding_window: usize,
    /// Tokens of a compressed entry in each decoder layer, then in each draft layer; 0 for a layer without.
    pub compress_ratios: Vec<usize>,
    /// Rotary base of the layers with compression.
    pub compress_rope_theta: f64,
    /// Choice of entries in the layers of ratio [`CSA_RATIO`]; `None` if there are none.
    pub indexer: Option<IndexerConfig>,
    /// The experts of every layer.
    pub moe: MoeConfig,
    /// First layers whose experts follow from the token id.
    pub num_hash_layers: usize,
    /// Bound of the SwiGLU's factors.
    pub swiglu_limit: Option<f32>,
    /// Streams of the residual.
    pub hc_mult: usize,
    /// Normalisations of the matrix that mixes them.
    pub hc_sinkhorn_iters: usize,
    /// Added to its entries and sums.
    pub hc_eps: f32,
    /// Draft layers stored beside the decoder layers.
    pub num_nextn_predict_layers: usize,
}

pub(crate) fn deepseek_v4(
    fields: &Fields<'_>,
    architecture: &str,
    model_type: &str,
) -> Result<DeepseekV4Config> {
    refuse_dspark(fields)?;
    fields.only("attention_bias", &false.into())?;
    fields.only("num_key_value_heads", &1.into())?;
    let mut common = common_with(fields, architecture, model_type, "moe_intermediate_size")?;
    common.num_key_value_heads = 1;
    common.head_dim = fields.size("head_dim", MAX_WIDTH)?;
    if let RopeScaling::Yarn { mscale, mscale_all_dim, .. } = &mut common.rope_scaling {
        // The amplitude of cosines and sines is 1 whatever the config says.
        *mscale_all_dim = *mscale;
    }
    let num_nextn_predict_layers =
        fields.count_or_zero_opt("num_nextn_predict_layers", MAX_LAYERS)?.unwrap_or(0);
    let compress_ratios = compress_ratios(fields, common.num_hidden_layers, num_nextn_predict_layers)?;
    let qk_rope_head_dim = rope_head_dim(fields, common.head_dim)?;
    let has_indexer = compress_ratios.contains(&CSA_RATIO);
    let config = DeepseekV4Config {
        q_lora_rank: fields.size("q_lora_rank", MAX_WIDTH)?,
        qk_rope_head_dim,
        o_groups: fields.size("o_groups", MAX_HEADS)?,
        o_lora_rank: fields.size("o_lora_rank", MAX_WIDTH)?,
        sliding_window: fields.size("sliding_window", MAX_POSITIONS)?,
        compress_rope_theta: fields.number("compress_rope_theta", 1.0 + 1e-6, 1e15)?,
        indexer: if has_indexer { Some(indexer(fields, qk_rope_head_dim)?) } else { None },
        moe: moe(fields)?,
        num_hash_layers: fields.count_or_zero_opt("num_hash_layers", MAX_LAYERS)?.unwrap_or(0),
        swiglu_limit: fields.number_opt("swiglu_limit", 1e-6, 1e6)?.map(|limit| limit as f32),
        hc_mult: fields.size("hc_mult", 64)?,
        hc_sinkhorn_iters: fields.size("hc_sinkhorn_iters", 1 << 10)?,
        hc_eps: fields.number_opt("hc_eps", 0.0, 1.0)?.unwrap_or(1e-6) as f32,
        compress_ratios,
        num_nextn_predict_layers,
        common,
    };
    if !config.common.num_attention_heads.is_multiple_of(config.o_groups) {
        let heads = config.common.num_attention_heads;
        return Err(fields.error("o_groups", format!("a divisor of num_attention_heads {heads}")));
    }
    Ok(config)
}

/// A bundle with a DSpark drafter has a prediction module of another make under the names of the ordinary one.
fn refuse_dspark(fields: &Fields<'_>) -> Result<()> {
    let keys =
        ["dspark_block_size", "dspark_target_layer_ids", "dspark_noise_token_id", "dspark_markov_rank"];
    match keys.into_iter().find(|key| fields.get(key).is_some()) {
        None => Ok(()),
        Some(key) => Err(fields.error(key, "nothing: this build cannot run a bundle with a DSpark drafter")),
    }
}

fn rope_head_dim(fields: &Fields<'_>, head_dim: usize) -> Result<usize> {
    let dim = fields.size("qk_rope_head_dim", MAX_WIDTH)?;
    if !dim.is_multiple_of(2) || dim > head_dim {
        let expected =
            format!("an even number up to head_dim {head_dim}, because rotary embedding turns pairs");
        return Err(fields.error("qk_rope_head_dim", expected));
    }
    Ok(dim)
}

/// One ratio per decoder layer; the draft layers' follow, or are left out because they have no entries.
fn compress_ratios(fields: &Fields<'_>, layers: usize, drafts: usize) -> Result<Vec<usize>> {
    const MAX_RATIO: u64 = 1 << 12;
    let expected = || format!("a list of {layers} ratios from 0 to {MAX_RATIO}, one per decoder layer");
    let Some(Value::Array(list)) = fields.get("compress_ratios") else {
        return Err(fields.error("compress_ratios", expected()));
    };
    if list.len() < layers || list.len() > layers + drafts {
        let or = if drafts > 0 { format!(" (and {drafts} draft layers)") } else { String::new() };
        let found = format!("{} ratios", list.len());
        return Err(fields.error_found("compress_ratios", expected() + &or, found));
    }
    let ratio =
        |value: &Value| value.as_u64().filter(|&ratio| ratio <= MAX_RATIO).map(|ratio| ratio as usize);
    let ratios: Option<Vec<usize>> = list.iter().map(ratio).collect();
    let mut ratios = ratios.ok_or_else(|| fields.error("compress_ratios", expected()))?;
    ratios.resize(layers + drafts, 0);
    Ok(ratios)
}

fn indexer(fields: &Fields<'_>, rope_dim: usize) -> Result<IndexerConfig> {
    let indexer = IndexerConfig {
        index_n_heads: fields.size("index_n_heads", MAX_HEADS)?,
        index_head_dim: fields.size("index_head_dim", MAX_WIDTH)?,
        index_topk: fields.size("index_topk", MAX_POSITIONS)?,
    };
    if indexer.index_head_dim < rope_dim {
        return Err(fields.error("index_head_dim", format!("at least qk_rope_head_dim {rope_dim}")));
    }
    Ok(indexer)
}

fn moe(fields: &Fields<'_>) -> Result<MoeConfig> {
    let moe = MoeConfig {
        n_routed_experts: fields.size("n_routed_experts", MAX_EXPERTS)?,
        n_shared_experts: fields.count_or_zero_opt("n_shared_experts", MAX_EXPERTS)?.unwrap_or(0),
        num_experts_per_tok: fields.size("num_experts_per_tok", MAX_EXPERTS)?,
        moe_intermediate_size: fields.size("moe_intermediate_size", MAX_WIDTH)?,
        first_k_dense_replace: 0,
        moe_layer_freq: 1,
        scoring_func: fields.choice(
            "scoring_func",
            &[("sqrtsoftplus", ScoringFunc::SqrtSoftplus)],
            Some(ScoringFunc::SqrtSoftplus),
        )?,
        topk_method: fields.choice(
            "topk_method",
            &[("noaux_tc", TopkMethod::NoauxTc)],
            Some(TopkMethod::NoauxTc),
        )?,
        n_group: 1,
        topk_group: 1,
        norm_topk_prob: fields.flag("norm_topk_prob", true)?,
        routed_scaling_factor: fields.number_opt("routed_scaling_factor", 1e-6, 1e6)?.unwrap_or(1.0) as f32,
    };
    if moe.num_experts_per_tok > moe.n_routed_experts {
        let expected = format!("at most n_routed_experts {}", moe.n_routed_experts);
        return Err(fields.error("num_experts_per_tok", expected));
    }
    Ok(moe)
}
