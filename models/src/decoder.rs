//! [`Decoder`]: the stack that all families share, from token ids to logits. A family supplies the blocks.

use checkpoint::ModelConfig;
use kernels::{Tensor, ops};

use crate::layers::{
    Block, Embedding, Head, HyperConnection, KvCache, KvLayout, LayerCache, LayerKv, RmsNorm, StreamBlock,
};
use crate::loader::Loader;
use crate::mtp::Depths;
use crate::{Batch, Int8Report, Model, ModelSummary, Mtp, Result, StepContext};

/// The blocks, by the residual that they share.
#[derive(Debug)]
pub(crate) enum Stack {
    /// One stream, to which every sublayer adds.
    Residual(Vec<Block>),
    /// Several streams, which every sublayer mixes, and which become one before the head.
    Streams { blocks: Vec<StreamBlock>, head: Box<HyperConnection> },
}

/// Embedding, blocks, final norm, head.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    summary: ModelSummary,
    kv_layout: KvLayout,
    embedding: Embedding,
    stack: Stack,
    final_norm: RmsNorm,
    head: Head,
    mtp: Option<Mtp>,
    weight_bytes: usize,
    unknown_tensors: Vec<String>,
    int8_experts: Vec<Int8Report>,
}

impl Decoder {
    /// Reads what all families name alike, and the blocks through `block`, which is given each layer's index.
    pub(crate) fn load(
        config: ModelConfig,
        loader: &mut Loader<'_>,
        mut block: impl FnMut(&mut Loader<'_>, usize) -> Result<Block>,
    ) -> Result<Self> {
        let common = config.common();
        let (vocab, dim) = (common.vocab_size, common.hidden_size);
        let embedding = loader.embedding("model.embed_tokens", vocab, dim)?;
        let blocks = (0..common.num_hidden_layers).map(|i| block(loader, i)).collect::<Result<Vec<_>>>()?;
        let final_norm = loader.norm("model.norm", dim, common.rms_norm_eps)?;
        let head = if common.tie_word_embeddings {
            // Some checkpoints store the tied head once more.
            loader.skip_weight("lm_head");
            loader.tied_head(&embedding)?
        } else {
            loader.head("lm_head", vocab, dim)?
        };
        Ok(Self::assemble(config, embedding, Stack::Residual(blocks), final_norm, head))
    }

    /// A decoder of parts that a family has read.
    pub(crate) fn assemble(
        config: ModelConfig,
        embedding: Embedding,
        stack: Stack,
        final_norm: RmsNorm,
        head: Head,
    ) -> Self {
        Self {
            summary: crate::summary(&config),
            kv_layout: KvLayout { layers: stack.kv() },
            config,
            embedding,
            stack,
            final_norm,
            head,
            mtp: None,
            weight_bytes: 0,
            unknown_tensors: Vec::new(),
            int8_experts: Vec::new(),
        }
    }

    /// The token table, which MTP shares.
    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// The vocabulary projection, which MTP shares.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn with_mtp(self, depths: Option<Depths>) -> Self {
        let mtp = depths.map(|depths| Mtp::new(&self, depths));
        Self { mtp, ..self }
    }

    /// Takes over what the loader counted once everything is read.
    pub(crate) fn finish(self, loader: Loader<'_>) -> Self {
        let mtp_parameters = if self.mtp.is_some() { self.summary.mtp_parameters } else { 0 };
        let expected = self.summary.total_parameters + mtp_parameters;
        debug_assert_eq!(loader.parameters(), expected, "the summary counts what the family reads");
        Self {
            weight_bytes: loader.bytes(),
            unknown_tensors: loader.unknown_tensors(),
            int8_experts: loader.into_int8_reports(),
            ..self
        }
    }
}

impl Stack {
    fn kv(&self) -> Vec<LayerKv> {
        match self {
            Self::Residual(blocks) => blocks.iter().map(|block| block.attention.kv()).collect(),
            Self::Streams { blocks, .. } => blocks.iter().map(|block| block.attention.kv()).collect(),
        }
    }

    /// The residual stream `[T, D]` through all blocks, or its streams `[T, S * D]`; `caches` has one for each.
    fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        mut hidden: Tensor,
        caches: &mut [LayerCache],
    ) -> Result<Tensor> {
        match self {
            Self::Residual(blocks) => {
                for (i, (block, cache)) in blocks.iter().zip(caches).enumerate() {
                    block.forward(ctx, batch, &mut hidden, cache)?;
                    ctx.probe_hidden(|| format!("layer{i}"), &hidden);
                }
                Ok(hidden)
            }
            Self::Streams { blocks, head } => {
                let mut streams = ops::hyper_spread(&hidden, head.config.streams)?;
                let [tokens, width] = [hidden.dim(0), head.config.streams * hidden.dim(1)];
                for (i, (block, cache)) in blocks.iter().zip(caches).enumerate() {
                    block.forward(ctx, batch, &mut streams, cache)?;
                    if ctx.is_probed() {
                        let flat = streams.clone().reshape(&[tokens, width])?;
                        ctx.probe_hidden(|| format!("layer{i}"), &flat);
                    }
                }
                Ok(streams.reshape(&[tokens, width])?)
            }
        }
    }
}

impl Model for Decoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_layout(&self) -> &KvLayout {
        &self.kv_layout
    }

    fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, kv: &mut KvCache) -> Result<Tensor> {
        ctx.begin(batch)?;
        let caches = kv.layers_mut(self.kv_layout.layers.len())?;
        let hidden = self.embedding.forward(&batch.token_ids)?;
        ctx.probe_hidden(|| "embed".into(), &hidden);
        let hidden = self.stack.forward(ctx, batch, hidden, caches)?;
        let hidden = match &self.stack {
            Stack::Residual(_) => self.final_norm.forward(&hidden)?,
            Stack::Streams { .. } => hidden,
        };
        if ctx.is_probed() {
            let normed = self.final_normed(&hidden)?;
            ctx.probe_hidden(|| "final_norm".into(), &normed);
        }
        Ok(hidden)
    }

    fn final_normed(&self, hidden: &Tensor) -> Result<Tensor> {
        match &self.stack {
            Stack::Residual(_) => Ok(hidden.clone()),
            Stack::Streams { head, .. } => self.final_norm.forward(&head.read_flat(hidden)?),
        }
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.final_normed(hidden)?)
    }

    fn mtp(&self) -> Option<&Mtp> {
        self.mtp.as_ref()
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn unknown_tensors(&self) -> &[String] {
        &self.unknown_tensors
    }

    fn int8_experts(&self) -> &[Int8Report] {
        &self.int8_experts
    }

    fn summary(&self) -> &ModelSummary {
        &self.summary
    }
}
