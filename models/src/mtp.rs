//! [`Mtp`]: multi-token prediction, the draft layers that V3 and V4 checkpoints carry.
//!
//! For position `t` the first layer mixes what the main model knows of it with the embedding of token `t + 1`, and predicts
//! token `t + 2` with the main model's head; each further one, or the same one again, predicts one token more.

use checkpoint::CommonConfig;
use kernels::Tensor;

use crate::layers::{
    Block, Embedding, Head, KvCache, KvLayout, LayerKv, MtpLayer, StreamBlock, StreamMtpLayer,
};
use crate::loader::Loader;
use crate::{Batch, Decoder, ModelError, Result, StepContext};

/// The MTP layers, and the token table and head they share with the main model.
#[derive(Debug)]
pub struct Mtp {
    embedding: Embedding,
    head: Head,
    depths: Depths,
    kv_layout: KvLayout,
}

/// The layers, by the residual of the main model.
#[derive(Debug)]
pub(crate) enum Depths {
    /// One stream.
    Residual(Vec<MtpLayer>),
    /// Several streams.
    Streams(Vec<StreamMtpLayer>),
}

impl Depths {
    /// Reads V3's layers, `count` of them, which the checkpoint numbers after the decoder's own. `None` if the config names
    /// none, or if the checkpoint was saved without them.
    pub(crate) fn load(
        common: &CommonConfig,
        count: usize,
        loader: &mut Loader<'_>,
        mut block: impl FnMut(&mut Loader<'_>, usize) -> Result<Block>,
    ) -> Result<Option<Self>> {
        let indices = common.num_hidden_layers..common.num_hidden_layers + count;
        let stored = |i: usize| loader.contains(&format!("model.layers.{i}.eh_proj.weight"));
        if !indices.clone().any(stored) {
            return Ok(None);
        }
        let dim = common.hidden_size;
        let layers = indices.map(|layer_idx| {
            let prefix = format!("model.layers.{layer_idx}");
            Ok(MtpLayer {
                embedding_norm: loader.block_norm(&prefix, "enorm", common)?,
                hidden_norm: loader.block_norm(&prefix, "hnorm", common)?,
                projection: loader.linear(&format!("{prefix}.eh_proj"), [dim, 2 * dim], false)?,
                block: block(loader, layer_idx)?,
                final_norm: loader.block_norm(&prefix, "shared_head.norm", common)?,
            })
        });
        Ok(Some(Self::Residual(layers.collect::<Result<_>>()?)))
    }

    fn len(&self) -> usize {
        match self {
            Self::Residual(layers) => layers.len(),
            Self::Streams(layers) => layers.len(),
        }
    }

    fn kv(&self) -> Vec<LayerKv> {
        let stream = |block: &StreamBlock| block.attention.kv();
        match self {
            Self::Residual(layers) => layers.iter().map(|layer| layer.block.attention.kv()).collect(),
            Self::Streams(layers) => layers.iter().map(|layer| stream(&layer.block)).collect(),
        }
    }
}

impl Mtp {
    /// The layers `depths` of `decoder`.
    pub(crate) fn new(decoder: &Decoder, depths: Depths) -> Self {
        let kv_layout = KvLayout { layers: depths.kv() };
        Self { embedding: decoder.embedding().clone(), head: decoder.head().clone(), depths, kv_layout }
    }

    /// Prediction depths: the layers that may follow one another.
    pub fn num_layers(&self) -> usize {
        self.depths.len()
    }

    /// What each MTP layer caches. Their cache is one of its own, over the same block tables and state slots as the main
    /// model's.
    pub fn kv_layout(&self) -> &KvLayout {
        &self.kv_layout
    }

    /// Runs layer `depth`: hidden states `[T, W]`, of which [`Mtp::logits`] makes guesses at token `t + 2`, and which may
    /// take the place of `hidden` for the token after that.
    ///
    /// Row `t` of `hidden` `[T, W]` is what the main model's forward returned for position `t`; `batch` holds the ids of
    /// the tokens that *follow*, under the positions and slots of `t`. `kv` is a cache over [`Mtp::kv_layout`].
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        depth: usize,
        batch: &Batch,
        hidden: &Tensor,
        kv: &mut KvCache,
    ) -> Result<Tensor> {
        ctx.begin(batch)?;
        let count = self.num_layers();
        let none = || ModelError::step("depth", format!("below {count}"), depth);
        let cache = kv.layers_mut(count)?.get_mut(depth).ok_or_else(none)?;
        let rows = [&self.embedding.forward(&batch.token_ids)?, hidden];
        match &self.depths {
            Depths::Residual(layers) => layers[depth].forward(ctx, batch, rows, cache),
            Depths::Streams(layers) => layers[depth].forward(ctx, batch, rows, cache),
        }
    }

    /// Logits `[R, V]` of rows `[R, W]` that layer `depth` returned; all ranks together.
    pub fn logits(&self, depth: usize, hidden: &Tensor) -> Result<Tensor> {
        match &self.depths {
            Depths::Residual(_) => self.head.forward(hidden),
            Depths::Streams(layers) => match layers.get(depth) {
                Some(layer) => self.head.forward(&layer.collapse(hidden)?),
                None => Err(ModelError::step("depth", format!("below {}", layers.len()), depth)),
            },
        }
    }
}
