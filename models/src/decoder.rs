//! [`Decoder`]: the stack that all families share, from token ids to logits. A family supplies the blocks.

use checkpoint::ModelConfig;
use kernels::Tensor;

use crate::layers::{Block, Embedding, Head, KvCache, KvLayout, RmsNorm};
use crate::loader::Loader;
use crate::{Batch, Int8Report, Model, ModelSummary, Mtp, Result, StepContext};

/// Embedding, blocks, final norm, head.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    summary: ModelSummary,
    kv_layout: KvLayout,
    embedding: Embedding,
    blocks: Vec<Block>,
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
        Ok(Self {
            summary: crate::summary(&config),
            kv_layout: KvLayout { layers: blocks.iter().map(|b| b.attention.kv()).collect() },
            config,
            embedding,
            blocks,
            final_norm,
            head,
            mtp: None,
            weight_bytes: 0,
            unknown_tensors: Vec::new(),
            int8_experts: Vec::new(),
        })
    }

    /// The token table, which MTP shares.
    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    pub(crate) fn with_mtp(self, mtp: Option<Mtp>) -> Self {
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

impl Model for Decoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_layout(&self) -> &KvLayout {
        &self.kv_layout
    }

    fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, kv: &mut KvCache) -> Result<Tensor> {
        ctx.begin(batch)?;
        let caches = kv.layers_mut(self.blocks.len())?;
        let mut hidden = self.embedding.forward(&batch.token_ids)?;
        ctx.probe_hidden(|| "embed".into(), &hidden);
        for (i, (block, cache)) in self.blocks.iter().zip(caches).enumerate() {
            block.forward(ctx, batch, &mut hidden, cache)?;
            ctx.probe_hidden(|| format!("layer{i}"), &hidden);
        }
        let hidden = self.final_norm.forward(&hidden)?;
        ctx.probe_hidden(|| "final_norm".into(), &hidden);
        Ok(hidden)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
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
