//! DeepSeek-V4-Flash and V4-Pro (`model_type: deepseek_v4`), under the names that DeepSeek gave their tensors.
//!
//! A residual of several streams ([`StreamBlock`]), window attention with compressed entries ([`CsaHca`]) by the
//! schedule of `compress_ratios`, and a mixture of experts in every layer, in the first ones chosen by the token's id.
//! The draft layers under `mtp` are such layers, too ([`StreamMtpLayer`]).
//! Upstream: DeepSeek's V4 `inference/model.py`; `transformers/models/deepseek_v4`.

use std::sync::Arc;

use checkpoint::{CSA_RATIO, CommonConfig, DeepseekV4Config, IndexerConfig, ModelConfig, RopeScaling};
use kernels::ops::{Compressor, GateConfig, GroupScore, HyperConfig, Scoring};
use kernels::{IndexKeyRow, PackedRow, SharedKvRow, Weight};

use crate::decoder::Stack;
use crate::layers::{
    Compression, CsaHca, CsaHcaShape, EntryCompressor, EntryIndexer, ExpertChoice, Ffn, HyperConnection,
    IndexShape, Moe, RopeFrequencies, StreamBlock, StreamMtpLayer,
};
use crate::loader::{FfnNames, Loader, Part};
use crate::mtp::Depths;
use crate::{Decoder, HeadShard, ModelError, Result};

/// Reads a V4 model, with its MTP layers if the checkpoint has them.
pub(crate) fn load(config: &DeepseekV4Config, loader: &mut Loader<'_>) -> Result<Decoder> {
    if let Some(name) = loader.find("markov_head") {
        let expected = "a bundle without a DSpark drafter, which this build cannot run";
        return Err(ModelError::config("dspark_markov_rank", expected, format!("tensor `{name}`")));
    }
    let CommonConfig { hidden_size: dim, vocab_size, rms_norm_eps, num_hidden_layers, .. } = config.common;
    loader.name_ffn(FfnNames { gate: "w1", up: "w3", down: "w2", swiglu_limit: config.swiglu_limit });
    let embedding = loader.embedding("embed", vocab_size, dim)?;
    let blocks = Blocks::new(config);
    let blocks_read = (0..num_hidden_layers).map(|i| blocks.load(loader, &format!("layers.{i}"), i));
    let blocks_read = blocks_read.collect::<Result<Vec<_>>>()?;
    let head_maps = blocks.connection(loader, "hc_head", config.hc_mult, 1)?;
    let final_norm = loader.norm("norm", dim, rms_norm_eps)?;
    let head = if config.common.tie_word_embeddings {
        loader.skip_weight("head");
        loader.tied_head(&embedding)?
    } else {
        loader.head("head", vocab_size, dim)?
    };
    let stack = Stack::Streams { blocks: blocks_read, head: Box::new(head_maps) };
    let model_config = ModelConfig::DeepseekV4(config.clone());
    let decoder = Decoder::assemble(model_config, embedding, stack, final_norm, head);
    Ok(decoder.with_mtp(blocks.drafts(loader)?))
}

/// Frequencies of one kind of layers, for tokens and back again.
struct Rope {
    tokens: Arc<RopeFrequencies>,
    inverse: Arc<RopeFrequencies>,
}

impl Rope {
    fn new(theta: f64, dim: usize, scaling: &RopeScaling) -> Self {
        let tokens = Arc::new(RopeFrequencies::new(theta, dim, scaling));
        Self { inverse: Arc::new(tokens.inverse()), tokens }
    }
}

struct Blocks<'c> {
    config: &'c DeepseekV4Config,
    hyper: HyperConfig,
    gate: GateConfig,
    /// Of layers without entries: another base, and never scaled.
    window_rope: Rope,
    compressed_rope: Rope,
}

impl<'c> Blocks<'c> {
    fn new(config: &'c DeepseekV4Config) -> Self {
        let (common, moe) = (&config.common, &config.moe);
        let rope = |theta, scaling| Rope::new(theta, config.qk_rope_head_dim, scaling);
        Self {
            config,
            hyper: HyperConfig {
                streams: config.hc_mult,
                sinkhorn_iters: config.hc_sinkhorn_iters,
                eps: config.hc_eps,
                norm_eps: common.rms_norm_eps,
            },
            gate: GateConfig {
                scoring: Scoring::SqrtSoftplus,
                top_k: moe.num_experts_per_tok,
                n_group: 1,
                topk_group: 1,
                group_score: GroupScore::Max,
                norm_topk_prob: moe.norm_topk_prob,
                routed_scaling_factor: moe.routed_scaling_factor,
            },
            window_rope: rope(common.rope_theta, &RopeScaling::None),
            compressed_rope: rope(config.compress_rope_theta, &common.rope_scaling),
        }
    }

    /// The MTP layers, which count on from the decoder's; `None` if the config names none, or if the checkpoint was
    /// saved without them.
    fn drafts(&self, loader: &mut Loader<'_>) -> Result<Option<Depths>> {
        let DeepseekV4Config { common, num_nextn_predict_layers: count, .. } = self.config;
        if !(0..*count).any(|k| loader.contains(&format!("mtp.{k}.e_proj.weight"))) {
            return Ok(None);
        }
        let layers =
            (0..*count).map(|k| self.draft(loader, &format!("mtp.{k}"), common.num_hidden_layers + k));
        Ok(Some(Depths::Streams(layers.collect::<Result<_>>()?)))
    }

    fn draft(&self, loader: &mut Loader<'_>, prefix: &str, layer_idx: usize) -> Result<StreamMtpLayer> {
        let common = &self.config.common;
        let dim = common.hidden_size;
        Ok(StreamMtpLayer {
            embedding_norm: loader.block_norm(prefix, "enorm", common)?,
            hidden_norm: loader.block_norm(prefix, "hnorm", common)?,
            embedding_projection: loader.linear(&format!("{prefix}.e_proj"), [dim, dim], false)?,
            hidden_projection: loader.linear(&format!("{prefix}.h_proj"), [dim, dim], false)?,
            block: self.load(loader, prefix, layer_idx)?,
            head: self.connection(loader, &format!("{prefix}.hc_head"), self.config.hc_mult, 1)?,
            final_norm: loader.block_norm(prefix, "norm", common)?,
        })
    }

    fn load(&self, loader: &mut Loader<'_>, prefix: &str, layer_idx: usize) -> Result<StreamBlock> {
        let common = &self.config.common;
        let maps = self.hyper.maps();
        Ok(StreamBlock {
            attention_connection: self.connection(loader, &format!("{prefix}.hc_attn"), maps, 3)?,
            attention_norm: loader.block_norm(prefix, "attn_norm", common)?,
            attention: self.attention(loader, &format!("{prefix}.attn"), layer_idx)?,
            ffn_connection: self.connection(loader, &format!("{prefix}.hc_ffn"), maps, 3)?,
            ffn_norm: loader.block_norm(prefix, "ffn_norm", common)?,
            ffn: Ffn::Moe(self.moe(loader, &format!("{prefix}.ffn"), layer_idx)?),
        })
    }

    fn connection(
        &self,
        loader: &mut Loader<'_>,
        prefix: &str,
        maps: usize,
        scales: usize,
    ) -> Result<HyperConnection> {
        let width = self.config.hc_mult * self.config.common.hidden_size;
        Ok(HyperConnection {
            matrix: Weight::new(loader.tensor(&format!("{prefix}_fn"), &[maps, width])?, None)?,
            scale: loader.tensor(&format!("{prefix}_scale"), &[scales])?,
            base: loader.tensor(&format!("{prefix}_base"), &[maps])?,
            config: self.hyper,
        })
    }

    fn attention(&self, loader: &mut Loader<'_>, prefix: &str, layer_idx: usize) -> Result<CsaHca> {
        let DeepseekV4Config { q_lora_rank, o_groups, o_lora_rank, qk_rope_head_dim, .. } = *self.config;
        let CommonConfig { hidden_size: dim, num_attention_heads: of, head_dim, rms_norm_eps: eps, .. } =
            self.config.common;
        // A rank has whole groups of heads, or a part of one: then its output is a summand of the group's.
        let HeadShard { heads, kv_heads: groups } = loader.shard().grouped_heads(of, o_groups)?;
        let per_group = of / o_groups;
        let part = |range, unit, of| Part { range, unit, of };
        let own = part(heads.clone(), head_dim, of);
        let latents = part(groups.clone(), o_lora_rank, o_groups);
        let inputs = if heads.len() == groups.len() * per_group {
            part(0..per_group, head_dim, per_group)
        } else {
            let first = groups.start * per_group;
            part(heads.start - first..heads.end - first, head_dim, per_group)
        };
        let ratio = self.config.compress_ratios[layer_idx];
        let rope = if ratio == 0 { &self.window_rope } else { &self.compressed_rope };
        let at = |name: &str| format!("{prefix}.{name}");
        Ok(CsaHca {
            q_a: loader.linear(&at("wq_a"), [q_lora_rank, dim], false)?,
            q_norm: loader.norm(&at("q_norm"), q_lora_rank, eps)?,
            q_b: loader.column_linear(&at("wq_b"), &own, q_lora_rank, false)?,
            kv: loader.linear(&at("wkv"), [head_dim, dim], false)?,
            kv_norm: loader.norm(&at("kv_norm"), head_dim, eps)?,
            sinks: loader.vector(&at("attn_sink"), &part(heads.clone(), 1, of))?,
            o_a: loader.row_groups(&at("wo_a"), &latents, &inputs)?,
            o_b: loader.row_linear(&at("wo_b"), dim, &latents, false)?,
            shape: CsaHcaShape {
                num_heads: heads.len(),
                head_dim,
                rope_dim: qk_rope_head_dim,
                sliding_window: self.config.sliding_window,
            },
            rope: rope.tokens.clone(),
            inverse_rope: rope.inverse.clone(),
            compression: if ratio == 0 { None } else { Some(self.compression(loader, prefix, layer_idx)?) },
        })
    }

    fn compression(&self, loader: &mut Loader<'_>, prefix: &str, layer_idx: usize) -> Result<Compression> {
        let (ratio, head_dim) = (self.config.compress_ratios[layer_idx], self.config.common.head_dim);
        let indexer = self.config.indexer.filter(|_| ratio == CSA_RATIO);
        let row = SharedKvRow { head_dim, qk_rope_head_dim: self.config.qk_rope_head_dim };
        let row = PackedRow::SharedKv(row);
        let entries = self.compressor(loader, &format!("{prefix}.compressor"), ratio, row)?;
        let indexer = match indexer {
            Some(indexer) => {
                let prefix = format!("{prefix}.indexer");
                let IndexerConfig { index_n_heads: num_heads, index_head_dim, index_topk: topk } = indexer;
                let (dim, rank) = (self.config.common.hidden_size, self.config.q_lora_rank);
                let query = [num_heads * index_head_dim, rank];
                // Exact keys are never packed, so any form does.
                let keys = IndexKeyRow { index_head_dim };
                let keys = loader.index_format().packed(index_head_dim).unwrap_or(PackedRow::IndexKey(keys));
                Some(EntryIndexer {
                    layer_idx,
                    query: loader.linear(&format!("{prefix}.wq_b"), query, false)?,
                    weights: loader.linear(&format!("{prefix}.weights_proj"), [num_heads, dim], false)?,
                    keys: self.compressor(loader, &format!("{prefix}.compressor"), ratio, keys)?,
                    shape: IndexShape { num_heads, head_dim: index_head_dim, topk },
                    format: loader.index_format(),
                })
            }
            None => None,
        };
        let rope = Arc::new(self.compressed_rope.tokens.for_entries(ratio as u32));
        Ok(Compression { entries, rope, indexer })
    }

    fn compressor(
        &self,
        loader: &mut Loader<'_>,
        prefix: &str,
        ratio: usize,
        packed: PackedRow,
    ) -> Result<EntryCompressor> {
        let width = packed.width();
        // Windows overlap where entries are chosen: a token then has two halves of channels.
        let channels = if ratio == CSA_RATIO { 2 * width } else { width };
        let CommonConfig { hidden_size: dim, rms_norm_eps: eps, .. } = self.config.common;
        Ok(EntryCompressor {
            value: loader.linear(&format!("{prefix}.wkv"), [channels, dim], false)?,
            gate: loader.linear(&format!("{prefix}.wgate"), [channels, dim], false)?,
            parameters: Compressor {
                ape: loader.tensor(&format!("{prefix}.ape"), &[ratio, channels])?,
                norm: loader.norm(&format!("{prefix}.norm"), width, eps)?.weight,
                eps,
                packed,
            },
        })
    }

    fn moe(&self, loader: &mut Loader<'_>, prefix: &str, layer_idx: usize) -> Result<Moe> {
        let CommonConfig { hidden_size: dim, vocab_size, .. } = self.config.common;
        let moe = &self.config.moe;
        let experts = moe.n_routed_experts;
        let choice = if layer_idx < self.config.num_hash_layers {
            let table = format!("{prefix}.gate.tid2eid");
            let shape = [vocab_size, moe.num_experts_per_tok];
            ExpertChoice::TokenId(loader.id_table(&table, shape, experts)?)
        } else {
            ExpertChoice::Scores(Some(loader.tensor(&format!("{prefix}.gate.bias"), &[experts])?))
        };
        let shared_experts = match moe.n_shared_experts {
            0 => None,
            count => {
                let width = count * moe.moe_intermediate_size;
                Some(loader.mlp(&format!("{prefix}.shared_experts"), dim, width)?)
            }
        };
        Ok(Moe {
            layer_idx,
            gate: loader.router(&format!("{prefix}.gate"), [experts, dim])?,
            choice,
            gate_config: self.gate.clone(),
            experts: loader.experts(prefix, experts, dim, moe.moe_intermediate_size)?,
            shared_experts,
            comm: loader.comm(),
        })
    }
}
