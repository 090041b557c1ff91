//! DeepSeek-V3.2 and V3.2-Exp (`model_type: deepseek_v32`): V3, with a lightning indexer beside every attention.
//!
//! Report: DeepSeek-V3.2, section 2.1; upstream: `transformers/models/deepseek_v32`.

use std::sync::Arc;

use checkpoint::{DeepseekConfig, IndexerConfig};

use crate::deepseek_v3;
use crate::layers::{Attention, IndexShape, Indexer, LayerNorm, RopeFrequencies, SparseMla};
use crate::loader::Loader;
use crate::{Decoder, ModelError, Result};

/// Epsilon of `k_norm`: hard-coded upstream, whatever `rms_norm_eps` says.
const KEY_NORM_EPS: f32 = 1e-6;

/// Reads a V3.2 model, with its MTP layers if the checkpoint has them: they have indexers too.
pub(crate) fn load(config: &DeepseekConfig, loader: &mut Loader<'_>) -> Result<Decoder> {
    let blocks = deepseek_v3::blocks(config)?;
    deepseek_v3::with_mtp(config, loader, |loader, layer_idx| {
        blocks.load(loader, layer_idx, |loader, layer_idx, mla| {
            let indexer = indexer(config, loader, layer_idx, blocks.rope())?;
            Ok(Attention::SparseMla(SparseMla { mla, indexer }))
        })
    })
}

/// Reads the indexer of layer `layer_idx`, whole on every rank.
fn indexer(
    config: &DeepseekConfig,
    loader: &mut Loader<'_>,
    layer_idx: usize,
    rope: &Arc<RopeFrequencies>,
) -> Result<Indexer> {
    let Some(IndexerConfig { index_n_heads, index_head_dim, index_topk }) = config.indexer else {
        return Err(ModelError::config("index_topk", "the number of keys that a token attends to", "absent"));
    };
    // The indexer's query comes from the latent of the attention's.
    let Some(q_lora_rank) = config.mla.and_then(|mla| mla.q_lora_rank) else {
        return Err(ModelError::config("q_lora_rank", "the rank of the query latent", "absent"));
    };
    let dim = config.common.hidden_size;
    let at = |name: &str| format!("model.layers.{layer_idx}.self_attn.indexer.{name}");
    Ok(Indexer {
        layer_idx,
        query: loader.linear(&at("wq_b"), [index_n_heads * index_head_dim, q_lora_rank], false)?,
        key: loader.linear(&at("wk"), [index_head_dim, dim], false)?,
        key_norm: LayerNorm {
            weight: loader.tensor(&at("k_norm.weight"), &[index_head_dim])?,
            bias: loader.tensor(&at("k_norm.bias"), &[index_head_dim])?,
            eps: KEY_NORM_EPS,
        },
        weights: loader.linear(&at("weights_proj"), [index_n_heads, dim], false)?,
        shape: IndexShape { num_heads: index_n_heads, head_dim: index_head_dim, topk: index_topk },
        rope: rope.clone(),
        format: loader.index_format(),
    })
}
