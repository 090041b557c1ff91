//! [`Model`]: what an engine may ask of a model, and [`load`], which builds the right family.

use std::sync::Arc;

use checkpoint::{Checkpoint, DeepseekGeneration, LoadProgress, ModelConfig};
use comm::Communicator;
use kernels::{Device, Tensor};

use crate::layers::{KvCache, KvLayout};
use crate::loader::Loader;
use crate::{
    Batch, Int8Report, ModelError, ModelOptions, ModelSummary, Mtp, Result, StepContext, deepseek,
    deepseek_v2, deepseek_v3, deepseek_v4, deepseek_v32, llama,
};

/// A decoder-only language model over a paged KV cache.
///
/// A forward changes nothing but the cache rows of its own tokens (and the context), so that one model serves any
/// number of sequences, and a token's result does not depend on what else is in the batch.
pub trait Model: Send + Sync {
    /// The config it was built from.
    fn config(&self) -> &ModelConfig;

    /// What each decoder layer caches per token on this rank.
    fn kv_layout(&self) -> &KvLayout;

    /// Runs the batch's tokens, writing their keys into `kv`: hidden states `[T, W]`, which [`Model::logits`],
    /// [`Model::final_normed`] and [`Mtp::forward`] take, whole or row by row. `W` is `D`, or all streams of a residual
    /// that has several (V4).
    ///
    /// # Errors
    /// Ids beyond the vocabulary, slots beyond the cache, a cache of another layout. After an error the cache rows
    /// of the batch's own tokens are unspecified; all others are untouched.
    ///
    /// All ranks of a tensor-parallel model call it together, with the same batch, and get the same bits.
    fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, kv: &mut KvCache) -> Result<Tensor>;

    /// Rows `[R, W]` of hidden states, through the last norm: `[R, D]`.
    ///
    /// # Errors
    /// Rows of another width.
    fn final_normed(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Logits `[R, V]` of rows `[R, W]` of hidden states (gather those that are sampled first); all ranks together.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// The multi-token-prediction layers, if the checkpoint has them.
    fn mtp(&self) -> Option<&Mtp>;

    /// Bytes of all weights resident on this rank, MTP and scales included.
    fn weight_bytes(&self) -> usize;

    /// Tensors of the checkpoint that the family does not use, sorted. Not empty means that the checkpoint says
    /// something that the outputs do not reflect: tell the user.
    fn unknown_tensors(&self) -> &[String];

    /// The stacks of routed experts that were re-quantised to INT8 when they were loaded, with the error of each.
    fn int8_experts(&self) -> &[Int8Report] {
        &[]
    }

    /// Parameter counts by part.
    fn summary(&self) -> &ModelSummary;

    /// Parameters of the decoder, MTP not counted.
    fn num_parameters(&self) -> u64 {
        self.summary().total_parameters
    }

    /// Parameters that one token passes through, MTP not counted.
    fn num_active_parameters(&self) -> u64 {
        self.summary().active_parameters
    }
}

/// Refuses more ranks than the model has parts for, before anything is read.
///
/// # Errors
/// [`ModelError::Ranks`] names what there is too little of.
pub fn check_ranks(config: &ModelConfig, ranks: usize) -> Result<()> {
    let heads = config.common().num_attention_heads;
    if ranks <= heads {
        return Ok(());
    }
    Err(ModelError::Ranks { what: "num_attention_heads", count: heads, ranks })
}

/// Reads the part of `checkpoint`'s model that rank `comm.rank()` of `comm.size()` keeps onto `device`, telling
/// `progress` as tensors arrive. With [`comm::Solo`] that is all of it. Loading is no collective: ranks may load one
/// after the other.
///
/// # Errors
/// A config that no family here computes, more ranks than there are heads, or a tensor that is missing or misshapen.
pub fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    comm: Arc<dyn Communicator>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    load_with(checkpoint, device, comm, ModelOptions::default(), progress)
}

/// As [`load`], in the forms that `options` ask for; [`Model::int8_experts`] tells what became of routed experts.
///
/// # Errors
/// As [`load`], and as [`crate::IndexFormat::check`].
pub fn load_with(
    checkpoint: &Checkpoint,
    device: &Device,
    comm: Arc<dyn Communicator>,
    options: ModelOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    options.index.check(checkpoint.config())?;
    let mut loader = Loader::new(checkpoint, device, comm, options, progress);
    check_ranks(checkpoint.config(), loader.shard().size())?;
    let decoder = match checkpoint.config() {
        ModelConfig::Llama(config) => llama::load(config, &mut loader)?,
        ModelConfig::DeepseekV4(config) => deepseek_v4::load(config, &mut loader)?,
        ModelConfig::Deepseek(config) => match config.generation {
            DeepseekGeneration::V1 => deepseek::load(config, &mut loader)?,
            DeepseekGeneration::V2 => deepseek_v2::load(config, &mut loader)?,
            DeepseekGeneration::V3 => deepseek_v3::load(config, &mut loader)?,
            DeepseekGeneration::V32 => deepseek_v32::load(config, &mut loader)?,
        },
    };
    Ok(Box::new(decoder.finish(loader)))
}
