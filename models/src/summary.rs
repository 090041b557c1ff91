//! [`summary`]: parameter counts and KV layout from the config alone, for `inspect` and for plans made before a byte
//! of weights is read.

use checkpoint::{
    CSA_RATIO, CommonConfig, DeepseekConfig, DeepseekV4Config, IndexerConfig, LlamaConfig, MlaConfig,
    ModelConfig, MoeConfig,
};

use crate::IndexFormat;
use crate::deepseek_v2::is_moe_layer;
use crate::layers::{KvLayout, LayerKv};

/// Parameters of one part of the model, over all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryPart {
    /// What the part is.
    pub name: &'static str,
    /// All its parameters.
    pub parameters: u64,
    /// Those that one token passes through.
    pub active: u64,
}

/// Parameter counts of a model. Quantisation scales are not parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSummary {
    /// Parameters of the decoder, embedding and head included, MTP layers not.
    pub total_parameters: u64,
    /// Parameters that one token passes through: the head counts, the embedding (one row of it) does not.
    pub active_parameters: u64,
    /// Parameters of the MTP layers that the config announces, without the embedding and head they share.
    pub mtp_parameters: u64,
    /// The decoder's parts, in the order a token meets them; parts without parameters are left out.
    pub parts: Vec<SummaryPart>,
}

/// Counts the parameters of the model that `config` describes.
pub fn summary(config: &ModelConfig) -> ModelSummary {
    let common = config.common();
    let (dim, vocab) = (common.hidden_size as u64, common.vocab_size as u64);
    let layers = 0..common.num_hidden_layers;
    let mut counts = Counts::default();
    layers.for_each(|layer_idx| counts.add_layer(config, layer_idx));
    counts.norms += dim;
    if let ModelConfig::DeepseekV4(config) = config {
        counts.connections += connection(config, config.hc_mult, 1);
    }
    // A tied head costs no parameters of its own, but a token passes through it all the same.
    let head = dim * vocab;
    let stored_head = if common.tie_word_embeddings { 0 } else { head };
    let all = |name, parameters| SummaryPart { name, parameters, active: parameters };
    let mut parts = vec![
        SummaryPart { name: "embedding", parameters: dim * vocab, active: 0 },
        all("attention", counts.attention),
        all("indexer", counts.indexer),
        all("dense feed-forward", counts.dense),
        all("router", counts.router),
        all("shared experts", counts.shared_experts),
        SummaryPart {
            name: "routed experts",
            parameters: counts.routed_experts,
            active: counts.chosen_experts,
        },
        all("hyper-connections", counts.connections),
        all("norms", counts.norms),
        SummaryPart { name: "head", parameters: stored_head, active: head },
    ];
    parts.retain(|part| part.parameters + part.active > 0);
    ModelSummary {
        total_parameters: parts.iter().map(|p| p.parameters).sum(),
        active_parameters: parts.iter().map(|p| p.active).sum(),
        mtp_parameters: mtp_parameters(config),
        parts,
    }
}

/// What each decoder layer caches per token; of indexers, exact keys ([`KvLayout::with_index`]).
pub fn kv_layout(config: &ModelConfig) -> KvLayout {
    KvLayout { layers: (0..config.common().num_hidden_layers).map(|i| layer_kv(config, i)).collect() }
}

/// What each MTP layer caches per token; empty for families without them.
pub fn mtp_kv_layout(config: &ModelConfig) -> KvLayout {
    let first = config.common().num_hidden_layers;
    KvLayout { layers: (0..num_mtp_layers(config)).map(|i| layer_kv(config, first + i)).collect() }
}

fn layer_kv(config: &ModelConfig, layer_idx: usize) -> LayerKv {
    match config {
        ModelConfig::DeepseekV4(config) => LayerKv::Window {
            head_dim: config.common.head_dim,
            qk_rope_head_dim: config.qk_rope_head_dim,
            sliding_window: config.sliding_window,
            ratio: ratio(config, layer_idx),
            index_head_dim: v4_indexer(config, layer_idx).map(|indexer| indexer.index_head_dim),
            index: IndexFormat::Exact,
        },
        ModelConfig::Deepseek(DeepseekConfig { mla: Some(mla), indexer: Some(indexer), .. }) => {
            LayerKv::SparseMla {
                kv_lora_rank: mla.kv_lora_rank,
                qk_rope_head_dim: mla.qk_rope_head_dim,
                index_head_dim: indexer.index_head_dim,
                index: IndexFormat::Exact,
            }
        }
        ModelConfig::Deepseek(DeepseekConfig { mla: Some(mla), .. }) => {
            LayerKv::Mla { kv_lora_rank: mla.kv_lora_rank, qk_rope_head_dim: mla.qk_rope_head_dim }
        }
        ModelConfig::Deepseek(DeepseekConfig { common, .. })
        | ModelConfig::Llama(LlamaConfig { common, .. }) => {
            LayerKv::Gqa { num_kv_heads: common.num_key_value_heads, head_dim: common.head_dim }
        }
    }
}

fn num_mtp_layers(config: &ModelConfig) -> usize {
    match config {
        ModelConfig::Deepseek(config) => config.num_nextn_predict_layers,
        ModelConfig::DeepseekV4(config) => config.num_nextn_predict_layers,
        ModelConfig::Llama(_) => 0,
    }
}

fn mtp_parameters(config: &ModelConfig) -> u64 {
    let CommonConfig { hidden_size, num_hidden_layers, .. } = *config.common();
    let dim = hidden_size as u64;
    let mut counts = Counts::default();
    for depth in 0..num_mtp_layers(config) {
        counts.add_layer(config, num_hidden_layers + depth);
        // enorm, hnorm, the final norm; eh_proj, or e_proj and h_proj.
        counts.norms += 3 * dim;
        counts.dense += 2 * dim * dim;
        if let ModelConfig::DeepseekV4(config) = config {
            counts.connections += connection(config, config.hc_mult, 1);
        }
    }
    counts.total()
}

/// Parameters of the blocks so far.
#[derive(Debug, Default)]
struct Counts {
    attention: u64,
    indexer: u64,
    dense: u64,
    router: u64,
    shared_experts: u64,
    routed_experts: u64,
    chosen_experts: u64,
    connections: u64,
    norms: u64,
}

impl Counts {
    fn total(&self) -> u64 {
        self.attention
            + self.indexer
            + self.dense
            + self.router
            + self.shared_experts
            + self.routed_experts
            + self.connections
            + self.norms
    }

    fn add_layer(&mut self, config: &ModelConfig, layer_idx: usize) {
        let common = config.common();
        let dim = common.hidden_size as u64;
        self.norms += 2 * dim;
        let dense = 3 * dim * common.intermediate_size as u64;
        match config {
            ModelConfig::DeepseekV4(config) => self.add_v4_layer(config, layer_idx),
            ModelConfig::Llama(config) => {
                self.attention += gqa(common, [config.qkv_bias, config.o_bias]);
                self.dense += dense;
            }
            ModelConfig::Deepseek(config) => {
                self.attention += match &config.mla {
                    Some(mla) => mla_parameters(common, mla),
                    None => gqa(common, [false, false]),
                };
                if let (Some(mla), Some(indexer)) = (&config.mla, &config.indexer) {
                    self.indexer += indexer_parameters(dim, mla, indexer);
                }
                match &config.moe {
                    Some(moe) if is_moe_layer(moe, layer_idx) => self.add_moe(moe, dim),
                    _ => self.dense += dense,
                }
            }
        }
    }

    fn add_v4_layer(&mut self, config: &DeepseekV4Config, layer_idx: usize) {
        let DeepseekV4Config { q_lora_rank: rank, o_groups, o_lora_rank, .. } = *config;
        let CommonConfig { hidden_size: dim, num_attention_heads: heads, head_dim, .. } = config.common;
        let query = rank * dim + rank + heads * head_dim * rank;
        let output = o_lora_rank * heads * head_dim + dim * o_groups * o_lora_rank;
        self.attention += (query + head_dim * dim + head_dim + heads + output) as u64;
        let ratio = ratio(config, layer_idx);
        if ratio > 0 {
            self.attention += compressor(dim, ratio, head_dim);
        }
        if let Some(indexer) = v4_indexer(config, layer_idx) {
            let IndexerConfig { index_n_heads, index_head_dim, .. } = indexer;
            self.indexer += (index_n_heads * (index_head_dim * rank + dim)) as u64;
            self.indexer += compressor(dim, ratio, index_head_dim);
        }
        let maps = config.hc_mult * (2 + config.hc_mult);
        self.connections += 2 * connection(config, maps, 3);
        // A layer that is routed by token ids has a table in place of the bias.
        self.add_experts(&config.moe, dim as u64, layer_idx >= config.num_hash_layers);
    }

    fn add_moe(&mut self, moe: &MoeConfig, dim: u64) {
        self.add_experts(moe, dim, has_correction_bias(moe));
    }

    fn add_experts(&mut self, moe: &MoeConfig, dim: u64, has_bias: bool) {
        let expert = 3 * dim * moe.moe_intermediate_size as u64;
        let experts = moe.n_routed_experts as u64;
        let bias = if has_bias { experts } else { 0 };
        self.router += dim * experts + bias;
        self.shared_experts += expert * moe.n_shared_experts as u64;
        self.routed_experts += expert * experts;
        self.chosen_experts += expert * moe.num_experts_per_tok as u64;
    }
}

fn has_correction_bias(moe: &MoeConfig) -> bool {
    moe.topk_method == checkpoint::TopkMethod::NoauxTc
}

fn gqa(common: &CommonConfig, [qkv_bias, o_bias]: [bool; 2]) -> u64 {
    let dim = common.hidden_size;
    let q = common.num_attention_heads * common.head_dim;
    let kv = common.num_key_value_heads * common.head_dim;
    let bias = if qkv_bias { q + 2 * kv } else { 0 } + if o_bias { dim } else { 0 };
    (dim * (2 * q + 2 * kv) + bias) as u64
}

fn mla_parameters(common: &CommonConfig, mla: &MlaConfig) -> u64 {
    let (dim, heads) = (common.hidden_size, common.num_attention_heads);
    let MlaConfig { q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim } = *mla;
    let q_dim = heads * (qk_nope_head_dim + qk_rope_head_dim);
    let q = match q_lora_rank {
        None => dim * q_dim,
        Some(rank) => dim * rank + rank + rank * q_dim,
    };
    let kv_a = dim * (kv_lora_rank + qk_rope_head_dim) + kv_lora_rank;
    let kv_b = kv_lora_rank * heads * (qk_nope_head_dim + v_head_dim);
    (q + kv_a + kv_b + heads * v_head_dim * dim) as u64
}

fn indexer_parameters(dim: u64, mla: &MlaConfig, indexer: &IndexerConfig) -> u64 {
    let (heads, head_dim) = (indexer.index_n_heads as u64, indexer.index_head_dim as u64);
    let query = heads * head_dim * mla.q_lora_rank.unwrap_or(0) as u64;
    // The key's norm has a bias.
    query + head_dim * dim + 2 * head_dim + heads * dim
}

/// V4's tokens per entry in layer `layer_idx`.
fn ratio(config: &DeepseekV4Config, layer_idx: usize) -> usize {
    config.compress_ratios[layer_idx]
}

fn v4_indexer(config: &DeepseekV4Config, layer_idx: usize) -> Option<IndexerConfig> {
    config.indexer.filter(|_| ratio(config, layer_idx) == CSA_RATIO)
}

/// Values, gates, position bias and norm of a compressor.
fn compressor(dim: usize, ratio: usize, width: usize) -> u64 {
    let channels = if ratio == CSA_RATIO { 2 * width } else { width };
    (2 * channels * dim + ratio * channels + width) as u64
}

/// A hyper-connection of `maps` maps and `scales` scales.
fn connection(config: &DeepseekV4Config, maps: usize, scales: usize) -> u64 {
    (maps * config.hc_mult * config.common.hidden_size + maps + scales) as u64
}
