//! The DeepSeekMoE families: deepseek-moe-16b (plain attention), V2 and V3 (latent attention), V3.2 (sparse).

use serde_json::Value;

use super::base::{CommonConfig, common, settle_grouped_query};
use super::fields::Fields;
use super::{MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH};
use crate::Result;

/// Which modelling code the checkpoint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeepseekGeneration {
    /// deepseek-moe-16b: `deepseek`.
    V1,
    /// V2, V2-Lite, Coder-V2: `deepseek_v2`.
    V2,
    /// V3, R1, V3.1: `deepseek_v3`.
    V3,
    /// V3.2, V3.2-Exp: `deepseek_v32`.
    V32,
}

/// Config of a DeepSeekMoE family.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepseekConfig {
    /// Which modelling code the checkpoint follows.
    pub generation: DeepseekGeneration,
    /// Sizes, norm, rotary base, token ids.
    pub common: CommonConfig,
    /// Latent attention; `None` for V1.
    pub mla: Option<MlaConfig>,
    /// Choice of the keys that a token attends to; V3.2 only.
    pub indexer: Option<IndexerConfig>,
    /// Experts; `None` if every layer is dense.
    pub moe: Option<MoeConfig>,
    /// Draft layers stored after the decoder layers.
    pub num_nextn_predict_layers: usize,
}

/// Multi-head latent attention (DeepSeek-V2, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlaConfig {
    /// Width of the query latent; `None` for one full projection (V2-Lite).
    pub q_lora_rank: Option<usize>,
    /// Width of the key-value latent.
    pub kv_lora_rank: usize,
    /// Unrotated width of a query or key head.
    pub qk_nope_head_dim: usize,
    /// Rotated width of a query head, and of the one shared key head.
    pub qk_rope_head_dim: usize,
    /// Width of a value head.
    pub v_head_dim: usize,
}

/// The lightning indexer (DeepSeek-V3.2, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexerConfig {
    /// Heads of the index query.
    pub index_n_heads: usize,
    /// Width of an index head and of the index key; its first `qk_rope_head_dim` channels are rotated.
    pub index_head_dim: usize,
    /// Keys that a token attends to, at most.
    pub index_topk: usize,
}

/// Routed and shared experts (DeepSeekMoE).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeConfig {
    /// Routed experts of a layer.
    pub n_routed_experts: usize,
    /// Shared experts, fused into one feed-forward; 0 if there are none.
    pub n_shared_experts: usize,
    /// Routed experts of a token.
    pub num_experts_per_tok: usize,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// Leading layers that are dense.
    pub first_k_dense_replace: usize,
    /// A later layer has experts if its index is a multiple of this.
    pub moe_layer_freq: usize,
    /// Router activation.
    pub scoring_func: ScoringFunc,
    /// Choice of experts.
    pub topk_method: TopkMethod,
    /// Groups of experts.
    pub n_group: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
    /// Whether the chosen weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights of routed experts.
    pub routed_scaling_factor: f32,
}

/// Router activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoringFunc {
    /// Over all experts.
    Softmax,
    /// Of each expert by itself.
    Sigmoid,
    /// The square root of the softplus of each expert by itself.
    SqrtSoftplus,
}

/// How experts are chosen from their scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopkMethod {
    /// The best scores.
    Greedy,
    /// The best scores inside the groups with the best maximum.
    GroupLimitedGreedy,
    /// The best scores plus correction bias, inside the groups with the best sum of two.
    NoauxTc,
}

pub(crate) fn deepseek(
    fields: &Fields<'_>,
    architecture: &str,
    model_type: &str,
    generation: DeepseekGeneration,
) -> Result<DeepseekConfig> {
    fields.only("attention_bias", &false.into())?;
    let mut common = common(fields, architecture, model_type)?;
    let mla = match generation {
        DeepseekGeneration::V1 => {
            settle_grouped_query(fields, &mut common)?;
            None
        }
        DeepseekGeneration::V2 | DeepseekGeneration::V3 | DeepseekGeneration::V32 => {
            let mla = mla(fields)?;
            common.num_key_value_heads = common.num_attention_heads;
            common.head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
            Some(mla)
        }
    };
    let indexer = match (generation, &mla) {
        (DeepseekGeneration::V32, Some(mla)) => Some(indexer(fields, mla)?),
        _ => None,
    };
    // Null experts mean a dense model in every generation; leaving V3's out is an omission.
    let is_v3 = matches!(generation, DeepseekGeneration::V3 | DeepseekGeneration::V32);
    let dense = fields.get("n_routed_experts").is_none() && (!is_v3 || fields.mentions("n_routed_experts"));
    let moe = if dense { None } else { Some(moe(fields, generation, common.num_hidden_layers)?) };
    let num_nextn_predict_layers =
        fields.count_or_zero_opt("num_nextn_predict_layers", MAX_LAYERS)?.unwrap_or(0);
    Ok(DeepseekConfig { generation, common, mla, indexer, moe, num_nextn_predict_layers })
}

fn mla(fields: &Fields<'_>) -> Result<MlaConfig> {
    fields.only("use_mla", &true.into())?;
    // The interleaved layout is what the released checkpoints have and what the layers compute.
    fields.only("rope_interleave", &true.into())?;
    let mla = MlaConfig {
        q_lora_rank: fields.size_opt("q_lora_rank", MAX_WIDTH)?,
        kv_lora_rank: fields.size("kv_lora_rank", MAX_WIDTH)?,
        qk_nope_head_dim: fields.size("qk_nope_head_dim", MAX_WIDTH)?,
        qk_rope_head_dim: fields.size("qk_rope_head_dim", MAX_WIDTH)?,
        v_head_dim: fields.size("v_head_dim", MAX_WIDTH)?,
    };
    if !mla.qk_rope_head_dim.is_multiple_of(2) {
        return Err(fields.error("qk_rope_head_dim", "an even number, because rotary embedding turns pairs"));
    }
    Ok(mla)
}

fn indexer(fields: &Fields<'_>, mla: &MlaConfig) -> Result<IndexerConfig> {
    // The releases pair the halves of an index head, unlike the channels of the attention's.
    fields.only("indexer_rope_interleave", &false.into())?;
    let indexer = IndexerConfig {
        index_n_heads: fields.size("index_n_heads", MAX_HEADS)?,
        index_head_dim: fields.size("index_head_dim", MAX_WIDTH)?,
        index_topk: fields.size("index_topk", MAX_POSITIONS)?,
    };
    if indexer.index_head_dim < mla.qk_rope_head_dim {
        let expected = format!("at least qk_rope_head_dim {}", mla.qk_rope_head_dim);
        return Err(fields.error("index_head_dim", expected));
    }
    if mla.q_lora_rank.is_none() {
        return Err(fields.error("q_lora_rank", "a rank, because the indexer's query comes from that latent"));
    }
    Ok(indexer)
}

/// What upstream's config class of a generation assumes for absent router keys.
struct RouterDefaults {
    scoring_func: ScoringFunc,
    topk_method: TopkMethod,
    n_group: usize,
    topk_group: usize,
    norm_topk_prob: bool,
    routed_scaling_factor: f64,
    first_k_dense_replace: usize,
}

fn router_defaults(generation: DeepseekGeneration) -> RouterDefaults {
    match generation {
        DeepseekGeneration::V1 | DeepseekGeneration::V2 => RouterDefaults {
            scoring_func: ScoringFunc::Softmax,
            topk_method: TopkMethod::Greedy,
            n_group: 1,
            topk_group: 1,
            norm_topk_prob: false,
            routed_scaling_factor: 1.0,
            first_k_dense_replace: 0,
        },
        DeepseekGeneration::V3 | DeepseekGeneration::V32 => RouterDefaults {
            scoring_func: ScoringFunc::Sigmoid,
            topk_method: TopkMethod::NoauxTc,
            n_group: 8,
            topk_group: 4,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            first_k_dense_replace: 3,
        },
    }
}

fn moe(fields: &Fields<'_>, generation: DeepseekGeneration, num_hidden_layers: usize) -> Result<MoeConfig> {
    let defaults = router_defaults(generation);
    let scoring = [("softmax", ScoringFunc::Softmax), ("sigmoid", ScoringFunc::Sigmoid)];
    let methods = [
        ("greedy", TopkMethod::Greedy),
        ("group_limited_greedy", TopkMethod::GroupLimitedGreedy),
        ("noaux_tc", TopkMethod::NoauxTc),
    ];
    let moe = MoeConfig {
        n_routed_experts: fields.size("n_routed_experts", MAX_EXPERTS)?,
        n_shared_experts: fields.count_or_zero_opt("n_shared_experts", MAX_EXPERTS)?.unwrap_or(0),
        num_experts_per_tok: fields.size("num_experts_per_tok", MAX_EXPERTS)?,
        moe_intermediate_size: fields.size("moe_intermediate_size", MAX_WIDTH)?,
        first_k_dense_replace: fields
            .count_or_zero_opt("first_k_dense_replace", MAX_LAYERS)?
            .unwrap_or(defaults.first_k_dense_replace),
        moe_layer_freq: moe_layer_freq(fields)?,
        scoring_func: fields.choice("scoring_func", &scoring, Some(defaults.scoring_func))?,
        topk_method: fields.choice("topk_method", &methods, Some(defaults.topk_method))?,
        n_group: fields.size_opt("n_group", MAX_EXPERTS)?.unwrap_or(defaults.n_group),
        topk_group: fields.size_opt("topk_group", MAX_EXPERTS)?.unwrap_or(defaults.topk_group),
        norm_topk_prob: fields.flag("norm_topk_prob", defaults.norm_topk_prob)?,
        routed_scaling_factor: fields
            .number_opt("routed_scaling_factor", 1e-6, 1e6)?
            .unwrap_or(defaults.routed_scaling_factor) as f32,
    };
    if moe.first_k_dense_replace > num_hidden_layers {
        return Err(
            fields.error("first_k_dense_replace", format!("at most num_hidden_layers {num_hidden_layers}"))
        );
    }
    check_groups(fields, &moe)?;
    Ok(moe)
}

fn moe_layer_freq(fields: &Fields<'_>) -> Result<usize> {
    // A list names the layers one by one; no release of these families has one.
    if let Some(Value::Array(_)) = fields.get("moe_layer_freq") {
        return Err(fields.error("moe_layer_freq", "one integer"));
    }
    Ok(fields.size_opt("moe_layer_freq", MAX_LAYERS)?.unwrap_or(1))
}

/// A token must find its experts inside the groups that it may choose from.
fn check_groups(fields: &Fields<'_>, moe: &MoeConfig) -> Result<()> {
    let mut eligible = moe.n_routed_experts;
    if moe.topk_method != TopkMethod::Greedy {
        if !moe.n_routed_experts.is_multiple_of(moe.n_group) {
            let expected = format!("a divisor of n_routed_experts {}", moe.n_routed_experts);
            return Err(fields.error_found("n_group", expected, moe.n_group));
        }
        if moe.topk_group > moe.n_group {
            let expected = format!("at most n_group {}", moe.n_group);
            return Err(fields.error_found("topk_group", expected, moe.topk_group));
        }
        let group_size = moe.n_routed_experts / moe.n_group;
        if moe.topk_method == TopkMethod::NoauxTc && moe.n_group > 1 && group_size < 2 {
            let expected = "groups of at least 2 experts, because a group's score is the sum of its best two";
            return Err(fields.error_found("n_group", expected, format!("{} groups of 1", moe.n_group)));
        }
        eligible = group_size * moe.topk_group;
    }
    if moe.num_experts_per_tok > eligible {
        return Err(fields.error(
            "num_experts_per_tok",
            format!("at most the {eligible} experts that a token may choose from"),
        ));
    }
    Ok(())
}
