//! [`CsaHca`]: attention over a sliding window and over compressed entries of everything before (V4).
//!
//! One vector per token is key and value of all heads. A layer of kind CSA compresses few tokens into an entry, from
//! overlapping windows, and an indexer chooses which entries a token sees; a layer of kind HCA compresses many, and a token
//! sees all; some layers have no entries at all. Rope turns the last channels of a head, so the values carry it, and the
//! output is turned back at the query's position. Upstream: DeepSeek's V4 `inference/model.py`,
//! `transformers/models/deepseek_v4`. The release rounds rows to
//! FP8, as a cache of packed rows does ([`kernels::SharedKvRow`]), and index queries
//! and entries to FP4, which [`IndexFormat`] chooses; else the maths is exact.
//!
//! Entries are paged. The window's rows, and what a compressor has projected for an entry that is not complete, are
//! state of the sequence: rings of the last rows, each in the sequence's slot ([`ops::ring_write`]). A ring holds the last
//! positions whatever the steps were, so that chunks do not show, and a copy of the slot together with the full blocks
//! is all that a prefix needs to go on from their end.

use std::sync::Arc;

use kernels::ops::{self, CompressedEntries, Compressor, RecentRows};
use kernels::{RopeLayout, RopeTable, Tensor, Weight};

use crate::layers::{IndexShape, LayerCache, LayerKv, Linear, RmsNorm, RopeFrequencies, RowLinear};
use crate::{Batch, IndexFormat, ModelError, Result, StepContext};

/// The sizes of the attention; heads are those of this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsaHcaShape {
    /// Query heads `H`.
    pub num_heads: usize,
    /// Width of a head and of a row, `D`.
    pub head_dim: usize,
    /// The last channels of a head, which are rotated.
    pub rope_dim: usize,
    /// Tokens that are seen uncompressed, the query's own included.
    pub sliding_window: usize,
}

/// Window and compressed attention of one layer.
#[derive(Debug)]
pub struct CsaHca {
    /// `wq_a` `[q_lora_rank, dim]`.
    pub q_a: Linear,
    /// `q_norm` `[q_lora_rank]`.
    pub q_norm: RmsNorm,
    /// `wq_b` `[H * D, q_lora_rank]`.
    pub q_b: Linear,
    /// `wkv` `[D, dim]`: key and value of all heads.
    pub kv: Linear,
    /// `kv_norm` `[D]`.
    pub kv_norm: RmsNorm,
    /// `attn_sink` `[H]`, `F32`.
    pub sinks: Tensor,
    /// `wo_a` of each group `[o_lora_rank, heads of the group * D]`; of a rank with a part of a group, those heads.
    pub o_a: Vec<Weight>,
    /// `wo_b` `[dim, groups * o_lora_rank]`.
    pub o_b: RowLinear,
    /// Head sizes.
    pub shape: CsaHcaShape,
    /// Frequencies of queries and rows; pairs are interleaved.
    pub rope: Arc<RopeFrequencies>,
    /// Their inverse, for the output.
    pub inverse_rope: Arc<RopeFrequencies>,
    /// The entries, for layers that have them.
    pub compression: Option<Compression>,
}

/// How a layer makes its entries and chooses among them.
#[derive(Debug)]
pub struct Compression {
    /// Makes the entries.
    pub entries: EntryCompressor,
    /// Frequencies at the entries' positions.
    pub rope: Arc<RopeFrequencies>,
    /// Chooses entries; without it a token sees all.
    pub indexer: Option<EntryIndexer>,
}

/// Projections and parameters of one compressor.
#[derive(Debug)]
pub struct EntryCompressor {
    /// `wkv` `[C, dim]`.
    pub value: Linear,
    /// `wgate` `[C, dim]`.
    pub gate: Linear,
    /// Position bias and norm.
    pub parameters: Compressor,
}

/// The lightning indexer over compressed keys.
#[derive(Debug)]
pub struct EntryIndexer {
    /// Index of the layer, for the probe.
    pub layer_idx: usize,
    /// `wq_b` `[H_I * D_I, q_lora_rank]`.
    pub query: Linear,
    /// `weights_proj` `[H_I, dim]`.
    pub weights: Linear,
    /// Makes the index keys.
    pub keys: EntryCompressor,
    /// Head sizes.
    pub shape: IndexShape,
    /// What is compared; [`EntryIndexer::keys`] are packed accordingly.
    pub format: IndexFormat,
}

impl CsaHca {
    /// `x` `[T, dim]`, normed, to `[T, dim]`; writes entries and state into `cache`.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        x: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let CsaHcaShape { num_heads, head_dim, rope_dim, sliding_window } = self.shape;
        let (tokens, nope) = (x.dim(0), head_dim - rope_dim);
        let (paged, states) = cache.parts_mut();
        let Some((window, states)) = states.split_first_mut() else {
            return Err(ModelError::step("kv", "a cache with state slots", "none"));
        };
        let table = ctx.rope_table(&self.rope, batch)?;
        let latent = self.q_norm.forward(&self.q_a.forward(x)?)?;
        let mut q = self.q_b.forward(&latent)?.reshape(&[tokens, num_heads, head_dim])?;
        ops::head_norm_assign(&mut q, self.q_norm.eps)?;
        ops::rope_assign(&mut q, nope, &table, RopeLayout::Interleaved)?;
        let RmsNorm { weight, eps } = &self.kv_norm;
        let rows = ops::shared_kv(&self.kv.forward(x)?, weight, *eps, &table, window.dtype())?;
        let indices = match &self.compression {
            Some(compression) => compression.forward(ctx, batch, [x, &latent], &table, paged, states)?,
            None => None,
        };
        let entries = paged.first().map(|cache| CompressedEntries { cache, indices: indices.as_ref() });
        let scale = (head_dim as f64).powf(-0.5) as f32;
        let recent =
            RecentRows { fresh: &rows, ring: window, window: sliding_window, qk_rope_head_dim: rope_dim };
        let mut attended = ops::window_attention(&q, recent, entries, &self.sinks, &batch.paged, scale)?;
        ops::ring_write(window, &rows, &batch.paged)?;
        let back = ctx.rope_table(&self.inverse_rope, batch)?;
        ops::rope_assign(&mut attended, nope, &back, RopeLayout::Interleaved)?;
        let joined = attended.reshape(&[tokens, num_heads * head_dim])?;
        self.o_b.forward(&ops::grouped_linear(&joined, &self.o_a)?)
    }

    /// What the layer caches.
    pub fn kv(&self) -> LayerKv {
        let compression = self.compression.as_ref();
        LayerKv::Window {
            head_dim: self.shape.head_dim,
            qk_rope_head_dim: self.shape.rope_dim,
            sliding_window: self.shape.sliding_window,
            ratio: compression.map_or(0, |c| c.entries.parameters.ratio()),
            index_head_dim: compression
                .and_then(|c| c.indexer.as_ref())
                .map(|indexer| indexer.shape.head_dim),
            index: compression
                .and_then(|c| c.indexer.as_ref())
                .map_or(IndexFormat::Exact, |indexer| indexer.format),
        }
    }
}

impl Compression {
    /// Writes the entries that the step completes, and selects what each token sees of them, from `x` `[T, dim]` and the
    /// query's latent: `[T, topk]`, or `None` for all. `table` has the tokens' angles.
    fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [x, latent]: [&Tensor; 2],
        table: &RopeTable,
        paged: &mut [Tensor],
        states: &mut [Tensor],
    ) -> Result<Option<Tensor>> {
        let places = ctx.rope_table(&self.rope, batch)?;
        match (&self.indexer, paged, states) {
            (None, [entries], [state]) => {
                self.entries.forward(batch, x, &places, entries, state)?;
                Ok(None)
            }
            (Some(indexer), [entries, keys], [state, index_state]) => {
                self.entries.forward(batch, x, &places, entries, state)?;
                indexer.keys.forward(batch, x, &places, keys, index_state)?;
                indexer.select(ctx, batch, [x, latent], table, keys)
            }
            (_, paged, states) => {
                let found = format!("{} kinds of entries, {} of state", paged.len(), states.len());
                Err(ModelError::step("layer cache", "those of this layer", found))
            }
        }
    }
}

impl EntryCompressor {
    /// Writes the entries that the step completes, and then its projections for those that later steps will.
    fn forward(
        &self,
        batch: &Batch,
        x: &Tensor,
        places: &RopeTable,
        entries: &mut Tensor,
        state: &mut Tensor,
    ) -> Result<()> {
        let projected = ops::concat_cols(&self.value.forward(x)?, &self.gate.forward(x)?)?;
        ops::compress(entries, &projected, state, &self.parameters, places, &batch.paged)?;
        Ok(ops::ring_write(state, &projected, &batch.paged)?)
    }
}

impl EntryIndexer {
    /// The entries `[T, topk]` that each token sees, or `None` where none of the step can have more than `topk`. That follows
    /// from shapes alone, so that a recorded step always decides alike.
    fn select(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [x, latent]: [&Tensor; 2],
        table: &RopeTable,
        keys: &Tensor,
    ) -> Result<Option<Tensor>> {
        let IndexShape { num_heads, head_dim, topk } = self.shape;
        let most = batch.paged.max_keys() / self.keys.parameters.ratio();
        if most <= topk && !ctx.is_probed() {
            return Ok(None);
        }
        let mut q = self.query.forward(latent)?.reshape(&[x.dim(0), num_heads, head_dim])?;
        let nope = head_dim - 2 * table.cos.dim(1);
        ops::rope_assign(&mut q, nope, table, RopeLayout::Interleaved)?;
        let mut weights = self.weights.forward(x)?;
        self.format.round(&mut q, &mut weights)?;
        let scale = ((num_heads * head_dim) as f64).powf(-0.5) as f32;
        let selected = ops::index_topk(&q, &weights, keys, &batch.paged, topk, scale)?;
        ctx.probe_selection(self.layer_idx, batch, Some(&selected));
        Ok(Some(selected))
    }
}
