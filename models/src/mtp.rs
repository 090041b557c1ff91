//! [`Mtp`]: multi-token prediction, the draft layers that V3 checkpoints carry (DeepSeek-V3 report, section 2.2).
//!
//! For position `t` the layer mixes the main model's final-normed hidden state `h_t` with the embedding of token
//! `t + 1` and predicts token `t + 2`: `block(eh_proj([enorm(embed(t + 1)) ; hnorm(h_t)]))`, then its own final norm
//! and the main model's head. (The report writes the halves in the other order; the weights follow this one.)

use checkpoint::CommonConfig;
use kernels::{Tensor, ops};

use crate::layers::{Block, Embedding, KvCache, KvLayout, Linear, RmsNorm};
use crate::loader::Loader;
use crate::{Batch, ModelError, Result, StepContext};

/// The MTP layers, and the token table they share with the main model.
#[derive(Debug)]
pub struct Mtp {
    embedding: Embedding,
    layers: Vec<MtpLayer>,
    kv_layout: KvLayout,
}

/// One prediction depth.
#[derive(Debug)]
pub struct MtpLayer {
    /// `enorm` `[D]`, over the embedding.
    pub embedding_norm: RmsNorm,
    /// `hnorm` `[D]`, over the hidden state.
    pub hidden_norm: RmsNorm,
    /// `eh_proj` `[D, 2 D]`: embedding columns first.
    pub projection: Linear,
    /// An ordinary decoder block.
    pub block: Block,
    /// `shared_head.norm` `[D]`.
    pub final_norm: RmsNorm,
}

impl Mtp {
    /// Reads `count` layers, which the checkpoint numbers after the decoder's own. `None` if the config names none,
    /// or if the checkpoint was saved without them.
    pub(crate) fn load(
        common: &CommonConfig,
        count: usize,
        embedding: &Embedding,
        loader: &mut Loader<'_>,
        mut block: impl FnMut(&mut Loader<'_>, usize) -> Result<Block>,
    ) -> Result<Option<Self>> {
        let indices = common.num_hidden_layers..common.num_hidden_layers + count;
        let stored = |i: usize| loader.contains(&format!("model.layers.{i}.eh_proj.weight"));
        if count == 0 || !indices.clone().any(stored) {
            return Ok(None);
        }
        let dim = common.hidden_size;
        let layers = indices.map(|layer_idx| {
            let prefix = format!("model.layers.{layer_idx}");
            for copy in ["embed_tokens", "shared_head.head"] {
                // Copies of the main model's tensors, as its config promises.
                loader.skip_weight(&format!("{prefix}.{copy}"));
            }
            Ok(MtpLayer {
                embedding_norm: loader.block_norm(&prefix, "enorm", common)?,
                hidden_norm: loader.block_norm(&prefix, "hnorm", common)?,
                projection: loader.linear(&format!("{prefix}.eh_proj"), [dim, 2 * dim], false)?,
                block: block(loader, layer_idx)?,
                final_norm: loader.block_norm(&prefix, "shared_head.norm", common)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let kv_layout = KvLayout { layers: layers.iter().map(|l| l.block.attention.kv()).collect() };
        Ok(Some(Self { embedding: embedding.clone(), layers, kv_layout }))
    }

    /// Prediction depths: the layers that may follow one another.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// What each MTP layer caches per token. Their cache is one of its own, over the same block tables as the main
    /// model's.
    pub fn kv_layout(&self) -> &KvLayout {
        &self.kv_layout
    }

    /// Runs layer `depth`: hidden states `[T, D]` that `Model::logits` turns into a guess at token `t + 2`.
    ///
    /// Row `t` of `hidden` `[T, D]` is the final-normed state of position `t`; `batch` holds the ids of the tokens
    /// that *follow*, under the positions and slots of `t`. `kv` is a cache over [`Mtp::kv_layout`].
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        depth: usize,
        batch: &Batch,
        hidden: &Tensor,
        kv: &mut KvCache,
    ) -> Result<Tensor> {
        ctx.begin(batch)?;
        let Some(layer) = self.layers.get(depth) else {
            return Err(ModelError::step("depth", format!("below {}", self.layers.len()), depth));
        };
        let cache = &mut kv.layers_mut(self.layers.len())?[depth];
        let embedded = layer.embedding_norm.forward(&self.embedding.forward(&batch.token_ids)?)?;
        let joined = ops::concat_cols(&embedded, &layer.hidden_norm.forward(hidden)?)?;
        let mut hidden = layer.projection.forward(&joined)?;
        layer.block.forward(ctx, batch, &mut hidden, cache)?;
        layer.final_norm.forward(&hidden)
    }
}
