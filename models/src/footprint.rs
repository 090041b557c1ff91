//! [`Footprint`]: the memory that one rank's part of a model takes, from the config and the headers alone: a plan is
//! made, and a model that does not fit is refused, before a byte of weights is read.

use checkpoint::{Checkpoint, CommonConfig, IndexerConfig, ModelConfig, MoeConfig, TensorInfo};
use kernels::{DType, GgmlType, ops};

use crate::expert_format::expert_matrix;
use crate::layers::{KvLayout, LayerKv};
use crate::{ExpertFormat, IndexFormat, ModelOptions, Result};

/// What the largest rank keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Weights, scales included, as they are kept. Norms and routers are widened to `F32`.
    pub weight_bytes: u64,
    /// KV cache per token over all layers.
    pub kv_bytes_per_token: u64,
    /// What a sequence keeps besides its tokens; 0 for most families.
    pub kv_bytes_per_sequence: u64,
    /// Activations of a step, at most.
    pub step_bytes: u64,
}

impl Footprint {
    /// The footprint of the largest of `ranks` ranks, for steps of at most `step_tokens` tokens and a cache of
    /// `kv_dtype` whose sequences can go back `rollback` tokens, in the forms of `options`: where that of routed experts
    /// depends on what they lose, the larger one.
    ///
    /// # Errors
    /// [`crate::ModelError::Step`] for a dtype that the cache cannot have.
    pub fn new(
        checkpoint: &Checkpoint,
        ranks: usize,
        kv_dtype: DType,
        rollback: usize,
        step_tokens: usize,
        options: ModelOptions,
    ) -> Result<Self> {
        let config = checkpoint.config();
        Ok(Self {
            weight_bytes: weight_bytes(checkpoint, ranks as u64, options),
            kv_bytes_per_token: kv_bytes_per_token(config, ranks, kv_dtype, options.index)? as u64,
            // Windows and compressors have no heads to split.
            kv_bytes_per_sequence: crate::kv_layout(config).bytes_per_sequence(kv_dtype, rollback) as u64,
            step_bytes: step_bytes(config, ranks as u64, step_tokens as u64, options.mtp),
        })
    }
}

/// How a tensor is dealt to the ranks ([`crate::Shard`] has the table).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Every rank keeps all of it, widened to `F32`.
    Widened,
    /// Every rank keeps all of it.
    Whole,
    /// Key heads: split, but never below one head.
    KeyHeads,
    /// Every rank keeps a part.
    Split,
}

fn share(name: &str) -> Share {
    let is = |part: &str| name.contains(part);
    let is_one_of = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    // V4 keeps the maps of its streams, its routers and position biases in single precision.
    if is("norm")
        || is("hc_")
        || name.ends_with(".ape")
        || is(".ffn.gate.")
        || is(".mlp.gate.")
        || is("e_score_correction_bias")
        || name.ends_with(".bias")
    {
        Share::Widened
    } else if is_one_of(&["q_a_proj", "kv_a_proj_with_mqa", "eh_proj", ".indexer."])
        || is_one_of(&[".attn.wq_a.", ".attn.wkv.", ".compressor.", ".e_proj.", ".h_proj."])
    {
        Share::Whole
    } else if is("k_proj") || is("v_proj") {
        Share::KeyHeads
    } else {
        Share::Split
    }
}

fn weight_bytes(checkpoint: &Checkpoint, ranks: u64, options: ModelOptions) -> u64 {
    let key_heads = match checkpoint.config() {
        ModelConfig::Llama(config) => config.common.num_key_value_heads as u64,
        ModelConfig::Deepseek(config) => config.common.num_attention_heads as u64,
        ModelConfig::DeepseekV4(_) => 1,
    };
    let kept = |name: &str| {
        let Some(info) = checkpoint.info(name) else { return 0 };
        let bytes = if expert_matrix(name).is_some() {
            expert_bytes(info, options.experts)
        } else {
            resident_bytes(info)
        };
        match share(name) {
            Share::Widened => info.shape.iter().product::<usize>() as u64 * 4,
            Share::Whole => bytes,
            Share::KeyHeads => bytes.div_ceil(ranks.min(key_heads.max(1))),
            Share::Split => bytes.div_ceil(ranks),
        }
    };
    checkpoint.names().filter(|name| options.wants(checkpoint.config(), name)).map(kept).sum()
}

/// A tensor as a GPU keeps it, which is the only device that is planned for: ggml's blocks are bf16 there, but for MXFP4.
fn resident_bytes(info: &TensorInfo) -> u64 {
    match info.blocks {
        None | Some(GgmlType::Mxfp4) => info.size_bytes as u64,
        Some(_) => 2 * info.shape.iter().product::<usize>() as u64,
    }
}

/// A matrix of a routed expert in the form that it is kept in. The scales it came with are counted in any case: they are
/// few.
fn expert_bytes(info: &TensorInfo, experts: ExpertFormat) -> u64 {
    let stored = resident_bytes(info);
    let elements: usize = info.matrix().map_or(0, |[n, k]| n * k);
    // A scale per row.
    let int8 = (elements + 4 * info.shape.first().unwrap_or(&0)) as u64;
    match experts {
        ExpertFormat::AsStored => stored,
        ExpertFormat::Int8 => int8,
        // FP8 has as many bytes as elements, FP4 half of it.
        ExpertFormat::Auto if stored <= elements as u64 => stored.max(int8),
        ExpertFormat::Auto => stored,
    }
}

fn kv_bytes_per_token(config: &ModelConfig, ranks: usize, dtype: DType, index: IndexFormat) -> Result<usize> {
    let of_rank = |layer: &LayerKv| match *layer {
        LayerKv::Gqa { num_kv_heads, head_dim } => {
            LayerKv::Gqa { num_kv_heads: num_kv_heads.div_ceil(ranks), head_dim }
        }
        // Neither the latent, nor the index key, nor V4's row has heads to split.
        whole @ (LayerKv::Mla { .. } | LayerKv::SparseMla { .. } | LayerKv::Window { .. }) => whole,
    };
    let layers = crate::kv_layout(config).layers.iter().map(of_rank).collect();
    KvLayout { layers }.with_index(index).bytes_per_token(dtype)
}

/// Activations that are alive at once, all counted as `F32`, plus a quarter for what the allocator cannot fill.
fn step_bytes(config: &ModelConfig, ranks: u64, tokens: u64, mtp: bool) -> u64 {
    let common = config.common();
    let (dim, vocab) = (common.hidden_size as u64, common.vocab_size as u64);
    let heads = (common.num_attention_heads as u64).div_ceil(ranks);
    let part = |width: usize| (width as u64).div_ceil(ranks);
    let (attention, experts) = match config {
        ModelConfig::Llama(config) => {
            let kv_heads = (config.common.num_key_value_heads as u64).div_ceil(ranks);
            ((2 * heads + 2 * kv_heads) * config.common.head_dim as u64, 0)
        }
        ModelConfig::Deepseek(config) => {
            let attention = config.mla.as_ref().map_or(4 * dim, |mla| {
                let latent = (mla.kv_lora_rank + mla.qk_rope_head_dim) as u64;
                let query = (mla.qk_nope_head_dim + mla.qk_rope_head_dim) as u64;
                let low_rank = 2 * mla.q_lora_rank.unwrap_or(0) as u64 + latent;
                low_rank + heads * (query + 2 * latent + mla.v_head_dim as u64)
            });
            let indexer = config.indexer.as_ref().map_or(0, indexer_width);
            (attention + indexer, config.moe.as_ref().map_or(0, |moe| moe_width(moe, dim, ranks)))
        }
        ModelConfig::DeepseekV4(config) => {
            let row = config.common.head_dim as u64;
            let output = (config.o_groups * config.o_lora_rank) as u64;
            let indexer = config.indexer.as_ref().map_or(0, indexer_width);
            // Query and output of each head, the row, both compressors' projections, and the streams before and after.
            let attention = 2 * config.q_lora_rank as u64 + heads * 2 * row + 9 * row + output + indexer;
            let streams = (config.hc_mult as u64 + 1) * dim;
            (attention + streams, moe_width(&config.moe, dim, ranks) + streams)
        }
    };
    let feed_forward = experts.max(part(common.intermediate_size) + dim);
    // Residual, normed input and the sublayer's output, beside the larger sublayer; logits of one token each of a few
    // sequences, or of a whole verification step.
    // An MTP layer that guesses starts from the states of all tokens, and the embeddings of those that follow.
    let guessing = if mtp { (streams(config) + 1) * dim } else { 0 };
    let per_token = 3 * dim + attention.max(feed_forward) + guessing;
    let scores = if has_indexer(config) { ops::INDEX_SCORE_BYTES as u64 } else { 0 };
    (tokens * per_token * 4 + tokens.min(64) * vocab * 4 + scores) / 4 * 5
}

/// Bytes of a row of the largest recorded step: its logits where they are computed, kept and sampled, and for an MTP layer
/// that guesses what the layer starts from.
pub fn recorded_row_bytes(config: &ModelConfig, mtp: bool) -> u64 {
    let CommonConfig { hidden_size, vocab_size, .. } = *config.common();
    let hidden = if mtp { streams(config) * hidden_size as u64 } else { 0 };
    4 * (3 * vocab_size as u64 + hidden)
}

/// Streams of the residual.
fn streams(config: &ModelConfig) -> u64 {
    match config {
        ModelConfig::DeepseekV4(config) => config.hc_mult as u64,
        ModelConfig::Deepseek(_) | ModelConfig::Llama(_) => 1,
    }
}

/// Query heads, weights and selection of an indexer.
fn indexer_width(indexer: &IndexerConfig) -> u64 {
    let IndexerConfig { index_n_heads, index_head_dim, index_topk } = *indexer;
    ((index_n_heads + 1) * (index_head_dim + 1) + index_topk) as u64
}

/// Router, chosen and shared experts of one token.
fn moe_width(moe: &MoeConfig, dim: u64, ranks: u64) -> u64 {
    let part = |width: usize| (width as u64).div_ceil(ranks);
    let chosen = moe.num_experts_per_tok as u64;
    let shared = part(moe.n_shared_experts * moe.moe_intermediate_size);
    2 * moe.n_routed_experts as u64 + chosen * (2 * dim + part(moe.moe_intermediate_size) + 8) + shared + dim
}

fn has_indexer(config: &ModelConfig) -> bool {
    match config {
        ModelConfig::Deepseek(config) => config.indexer.is_some(),
        ModelConfig::DeepseekV4(config) => config.indexer.is_some(),
        ModelConfig::Llama(_) => false,
    }
}
