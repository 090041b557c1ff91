//! The KV cache: what each layer keeps per token ([`KvLayout`]) and the paged tensors that hold it ([`KvCache`]).
//!
//! Which block belongs to which sequence is the scheduler's business; here a block is only a row range, the same in
//! every layer.

use kernels::{DType, Device, Tensor};

use crate::{ModelError, Result};

/// What one layer caches for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKv {
    /// `[normed latent | rotated shared key]`, one row for all heads.
    Mla {
        /// Width of the latent, `C`.
        kv_lora_rank: usize,
        /// Width of the shared rope key.
        qk_rope_head_dim: usize,
    },
    /// `[rotated keys | values]` of all key heads.
    Gqa {
        /// Key heads `H_kv`.
        num_kv_heads: usize,
        /// Channels of a head.
        head_dim: usize,
    },
}

impl LayerKv {
    /// Elements of one cache row.
    pub fn row_width(&self) -> usize {
        match *self {
            Self::Mla { kv_lora_rank, qk_rope_head_dim } => kv_lora_rank + qk_rope_head_dim,
            Self::Gqa { num_kv_heads, head_dim } => 2 * num_kv_heads * head_dim,
        }
    }
}

/// What every layer caches, in layer order. The MTP layers have a layout of their own ([`crate::Mtp::kv_layout`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// One entry per decoder layer.
    pub layers: Vec<LayerKv>,
}

impl KvLayout {
    /// Bytes that one token costs over all layers, with elements of `dtype`.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        self.layers.iter().map(LayerKv::row_width).sum::<usize>() * dtype.size()
    }
}

/// One tensor `[num_blocks, block_size, row_width]` per layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Tensor>,
    num_blocks: usize,
    block_size: usize,
    dtype: DType,
}

impl KvCache {
    /// A zeroed cache of `num_blocks * block_size` rows per layer, with elements of `dtype` (`F32` or `BF16`).
    ///
    /// # Errors
    /// [`ModelError::Step`] for any other dtype or an empty block.
    pub fn new(
        device: &Device,
        layout: &KvLayout,
        num_blocks: usize,
        block_size: usize,
        dtype: DType,
    ) -> Result<Self> {
        Self::build(layout, [num_blocks, block_size], dtype, |shape| Ok(Tensor::zeros(device, dtype, shape)?))
    }

    /// As [`KvCache::new`], with every element NaN: whoever reads a row that was never written gets NaN logits.
    /// For `verify` and for tests.
    pub fn poisoned(
        device: &Device,
        layout: &KvLayout,
        num_blocks: usize,
        block_size: usize,
        dtype: DType,
    ) -> Result<Self> {
        Self::build(layout, [num_blocks, block_size], dtype, |shape| {
            // All bits set is a NaN in F32 and in BF16.
            Ok(Tensor::filled(device, dtype, shape, 0xFF)?)
        })
    }

    fn build(
        layout: &KvLayout,
        [num_blocks, block_size]: [usize; 2],
        dtype: DType,
        tensor: impl Fn(&[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::BF16) {
            return Err(ModelError::step("kv dtype", "F32 or BF16", dtype));
        }
        if block_size == 0 {
            return Err(ModelError::step("kv block_size", "at least 1", block_size));
        }
        let layers = layout.layers.iter().map(|kv| tensor(&[num_blocks, block_size, kv.row_width()]));
        Ok(Self { layers: layers.collect::<Result<_>>()?, num_blocks, block_size, dtype })
    }

    /// The tensors, for the decoder stack to hand one to each of `count` layers.
    pub(crate) fn layers_mut(&mut self, count: usize) -> Result<&mut [Tensor]> {
        if self.layers.len() != count {
            return Err(ModelError::step("kv", format!("{count} layers"), self.layers.len()));
        }
        Ok(&mut self.layers)
    }

    /// The tensors alone, for running layers by hand.
    pub fn into_layers(self) -> Vec<Tensor> {
        self.layers
    }

    /// The tensors in layer order.
    pub fn layers(&self) -> &[Tensor] {
        &self.layers
    }

    /// Physical blocks of every layer.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Rows per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes resident over all layers.
    pub fn size_bytes(&self) -> usize {
        self.layers.iter().map(Tensor::size_bytes).sum()
    }
}
