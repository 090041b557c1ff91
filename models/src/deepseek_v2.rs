//! DeepSeek-V2, V2-Lite, V2.5 and Coder-V2 (`model_type: deepseek_v2`), and the block that V3 and V3.2 share
//! with them.
//!
//! Multi-head latent attention with YaRN over interleaved pairs; softmax routing, plain (V2-Lite) or limited to the
//! best groups (V2). Paper: arXiv 2405.04434; upstream: `transformers/models/deepseek_v2`.

use std::sync::Arc;

use checkpoint::{CommonConfig, DeepseekConfig, MlaConfig, ModelConfig, MoeConfig, ScoringFunc, TopkMethod};
use kernels::ops::{GateConfig, GroupScore, MlaDims, Scoring};

use crate::layers::{
    Attention, Block, ExpertChoice, Ffn, LatentQuery, Mla, Moe, RopeFrequencies, mla_softmax_scale,
};
use crate::loader::{Loader, Part};
use crate::{Decoder, ModelError, Result};

/// Epsilon of `q_a_layernorm` and `kv_a_layernorm`: hard-coded upstream, whatever `rms_norm_eps` says.
const LATENT_NORM_EPS: f32 = 1e-6;

/// Reads a V2 model.
pub(crate) fn load(config: &DeepseekConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let gate = config.moe.as_ref().map(gate).transpose()?;
    let blocks = Blocks::new(config, gate)?;
    Decoder::load(ModelConfig::Deepseek(config.clone()), loader, |loader, layer_idx| {
        blocks.load(loader, layer_idx, dense)
    })
}

/// Attention over all keys: V2 and V3.
pub(crate) fn dense(_: &mut Loader<'_>, _: usize, mla: Mla) -> Result<Attention> {
    Ok(Attention::Mla(mla))
}

/// V2's routing rule. `norm_topk_prob` is ignored, as upstream does: V2's weights are scaled softmax scores.
fn gate(moe: &MoeConfig) -> Result<GateConfig> {
    if moe.scoring_func != ScoringFunc::Softmax {
        return Err(ModelError::config("scoring_func", "softmax", format!("{:?}", moe.scoring_func)));
    }
    let [n_group, topk_group] = match moe.topk_method {
        TopkMethod::Greedy => [1, 1],
        TopkMethod::GroupLimitedGreedy => [moe.n_group, moe.topk_group],
        TopkMethod::NoauxTc => {
            return Err(ModelError::config("topk_method", "greedy or group_limited_greedy", "noaux_tc"));
        }
    };
    Ok(GateConfig {
        scoring: Scoring::Softmax,
        top_k: moe.num_experts_per_tok,
        n_group,
        topk_group,
        group_score: GroupScore::Max,
        norm_topk_prob: false,
        routed_scaling_factor: moe.routed_scaling_factor,
    })
}

/// Builds the blocks of V2, V3 and V3.2: latent attention, and a feed-forward layer whose routing rule the family chose.
pub(crate) struct Blocks<'c> {
    config: &'c DeepseekConfig,
    mla: &'c MlaConfig,
    gate: Option<GateConfig>,
    rope: Arc<RopeFrequencies>,
}

impl<'c> Blocks<'c> {
    pub(crate) fn new(config: &'c DeepseekConfig, gate: Option<GateConfig>) -> Result<Self> {
        let Some(mla) = &config.mla else {
            return Err(ModelError::config("kv_lora_rank", "the rank of the latent", "absent"));
        };
        let CommonConfig { rope_theta, rope_scaling, .. } = &config.common;
        let rope = Arc::new(RopeFrequencies::new(*rope_theta, mla.qk_rope_head_dim, rope_scaling));
        Ok(Self { config, mla, gate, rope })
    }

    /// Frequencies over the rope channels of a head.
    pub(crate) fn rope(&self) -> &Arc<RopeFrequencies> {
        &self.rope
    }

    /// Reads block `layer_idx`; MTP blocks follow the decoder's own. `attention` completes the attention of the layer.
    pub(crate) fn load(
        &self,
        loader: &mut Loader<'_>,
        layer_idx: usize,
        attention: impl FnOnce(&mut Loader<'_>, usize, Mla) -> Result<Attention>,
    ) -> Result<Block> {
        let common = &self.config.common;
        let prefix = format!("model.layers.{layer_idx}");
        let mla = self.mla(loader, &format!("{prefix}.self_attn"))?;
        Ok(Block {
            attention_norm: loader.block_norm(&prefix, "input_layernorm", common)?,
            attention: attention(loader, layer_idx, mla)?,
            ffn_norm: loader.block_norm(&prefix, "post_attention_layernorm", common)?,
            ffn: ffn(loader, layer_idx, self.config, self.gate.as_ref())?,
        })
    }

    fn mla(&self, loader: &mut Loader<'_>, prefix: &str) -> Result<Mla> {
        let MlaConfig { q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim } =
            *self.mla;
        let CommonConfig { hidden_size: dim, num_attention_heads: of, .. } = self.config.common;
        let range = loader.shard().heads(of)?;
        let dims =
            MlaDims { num_heads: range.len(), qk_nope_head_dim, qk_rope_head_dim, v_head_dim, kv_lora_rank };
        // Every part is this rank's heads, in channels of its own.
        let heads = |unit: usize| Part { range: range.clone(), unit, of };
        let at = |name: &str| format!("{prefix}.{name}");
        let query = match q_lora_rank {
            None => LatentQuery::Full(loader.column_linear(
                &at("q_proj"),
                &heads(dims.qk_head_dim()),
                dim,
                false,
            )?),
            Some(rank) => LatentQuery::LowRank {
                a: loader.linear(&at("q_a_proj"), [rank, dim], false)?,
                norm: loader.norm(&at("q_a_layernorm"), rank, LATENT_NORM_EPS)?,
                b: loader.column_linear(&at("q_b_proj"), &heads(dims.qk_head_dim()), rank, false)?,
            },
        };
        Ok(Mla {
            query,
            kv_a: loader.linear(&at("kv_a_proj_with_mqa"), [dims.row_width(), dim], false)?,
            kv_a_norm: loader.norm(&at("kv_a_layernorm"), kv_lora_rank, LATENT_NORM_EPS)?,
            kv_b: loader.rows(&at("kv_b_proj"), &heads(qk_nope_head_dim + v_head_dim), kv_lora_rank)?,
            o: loader.row_linear(&at("o_proj"), dim, &heads(v_head_dim), false)?,
            dims,
            rope: self.rope.clone(),
            softmax_scale: mla_softmax_scale(dims.qk_head_dim(), &self.config.common.rope_scaling),
        })
    }
}

/// Whether layer `layer_idx` routes: from `first_k_dense_replace` on, every `moe_layer_freq`-th.
pub(crate) fn is_moe_layer(moe: &MoeConfig, layer_idx: usize) -> bool {
    layer_idx >= moe.first_k_dense_replace && layer_idx.is_multiple_of(moe.moe_layer_freq)
}

/// Reads the feed-forward part of layer `layer_idx`, dense or routed as the config says; `gate` is the family's rule.
pub(crate) fn ffn(
    loader: &mut Loader<'_>,
    layer_idx: usize,
    config: &DeepseekConfig,
    gate: Option<&GateConfig>,
) -> Result<Ffn> {
    let prefix = format!("model.layers.{layer_idx}.mlp");
    let CommonConfig { hidden_size, intermediate_size, .. } = config.common;
    match (&config.moe, gate) {
        (Some(moe), Some(gate)) if is_moe_layer(moe, layer_idx) => {
            Ok(Ffn::Moe(self::moe(loader, &prefix, layer_idx, hidden_size, moe, gate)?))
        }
        _ => Ok(Ffn::Mlp(loader.mlp(&prefix, hidden_size, intermediate_size)?)),
    }
}

fn moe(
    loader: &mut Loader<'_>,
    prefix: &str,
    layer_idx: usize,
    dim: usize,
    moe: &MoeConfig,
    gate: &GateConfig,
) -> Result<Moe> {
    let correction_bias = match moe.topk_method {
        TopkMethod::NoauxTc => {
            Some(loader.tensor(&format!("{prefix}.gate.e_score_correction_bias"), &[moe.n_routed_experts])?)
        }
        TopkMethod::Greedy | TopkMethod::GroupLimitedGreedy => None,
    };
    let shared_experts = match moe.n_shared_experts {
        0 => None,
        count => {
            Some(loader.mlp(&format!("{prefix}.shared_experts"), dim, count * moe.moe_intermediate_size)?)
        }
    };
    Ok(Moe {
        layer_idx,
        gate: loader.router(&format!("{prefix}.gate"), [moe.n_routed_experts, dim])?,
        choice: ExpertChoice::Scores(correction_bias),
        gate_config: gate.clone(),
        experts: loader.experts(prefix, moe.n_routed_experts, dim, moe.moe_intermediate_size)?,
        shared_experts,
        comm: loader.comm(),
    })
}

#[cfg(test)]
mod tests {
    use checkpoint::Checkpoint;
    use kernels::Device;
    use serde_json::json;
    use testkit::Fixture;

    use super::*;
    use crate::ModelOptions;

    /// The fixtures cannot see an epsilon that is a little off; their config has the same 1e-6 for all norms.
    #[test]
    fn latent_norms_ignore_rms_norm_eps_and_the_others_obey_it() {
        let fixture = Fixture::open("deepseek_v3");
        let mut config = fixture.config_json();
        config["rms_norm_eps"] = json!(1e-3);
        let weights = std::fs::read(fixture.dir().join("model.safetensors")).unwrap().leak();
        let checkpoint = Checkpoint::from_parts(config.to_string().as_bytes(), weights).unwrap();
        let ModelConfig::Deepseek(config) = checkpoint.config() else { panic!("a DeepSeek config") };
        let mut progress = |_| {};
        let (comm, options) = (Arc::new(comm::Solo), ModelOptions::default());
        let mut loader = Loader::new(&checkpoint, &Device::Cpu, comm, options, &mut progress);
        let block = Blocks::new(config, None).unwrap().load(&mut loader, 0, dense).unwrap();
        assert_eq!((block.attention_norm.eps, block.ffn_norm.eps), (1e-3, 1e-3));
        let Attention::Mla(mla) = block.attention else { panic!("latent attention") };
        let LatentQuery::LowRank { norm, .. } = mla.query else { panic!("a low-rank query") };
        assert_eq!((norm.eps, mla.kv_a_norm.eps), (1e-6, 1e-6));
    }
}
