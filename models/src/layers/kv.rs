//! The KV cache: what each layer keeps per token ([`KvLayout`]) and the paged tensors that hold it ([`KvCache`]).
//!
//! Which block belongs to which sequence is the scheduler's business; here a block is only a row range, the same in
//! every layer.

use kernels::{DType, Device, Fp8Row, Tensor, ops};

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

    /// What a row of the cache is made of when its elements are of `dtype`: the tensor's dtype, and how many. Latent
    /// rows in `F8_E4M3` are packed bytes ([`Fp8Row`]).
    ///
    /// # Errors
    /// [`ModelError::Step`] for a dtype that the layer's cache cannot have.
    pub fn row(&self, dtype: DType) -> Result<(DType, usize)> {
        match (*self, dtype) {
            (_, DType::F32 | DType::BF16) => Ok((dtype, self.row_width())),
            (Self::Mla { kv_lora_rank, qk_rope_head_dim }, DType::F8E4M3) => {
                Ok((DType::U8, Fp8Row { kv_lora_rank, qk_rope_head_dim }.bytes()))
            }
            _ => Err(ModelError::step("kv dtype", "F32, BF16, or F8_E4M3 for latent rows", dtype)),
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
    ///
    /// # Errors
    /// [`ModelError::Step`] for a dtype that a layer's cache cannot have.
    pub fn bytes_per_token(&self, dtype: DType) -> Result<usize> {
        self.layers.iter().map(|kv| kv.row(dtype).map(|(stored, width)| stored.size() * width)).sum()
    }
}

/// One tensor `[num_blocks, block_size, row]` per layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Tensor>,
    num_blocks: usize,
    block_size: usize,
    dtype: DType,
}

impl KvCache {
    /// A zeroed cache of `num_blocks * block_size` rows per layer, with elements of `dtype`: `F32`, `BF16`, or
    /// `F8_E4M3` where all layers cache latent rows.
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
        Self::build(layout, [num_blocks, block_size], dtype, |stored, shape| {
            Ok(Tensor::zeros(device, stored, shape)?)
        })
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
        Self::build(layout, [num_blocks, block_size], dtype, |stored, shape| {
            // All bits set is a NaN in each of the formats.
            Ok(Tensor::filled(device, stored, shape, 0xFF)?)
        })
    }

    fn build(
        layout: &KvLayout,
        [num_blocks, block_size]: [usize; 2],
        dtype: DType,
        tensor: impl Fn(DType, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        if block_size == 0 {
            return Err(ModelError::step("kv block_size", "at least 1", block_size));
        }
        let layers = layout.layers.iter().map(|kv| {
            let (stored, width) = kv.row(dtype)?;
            tensor(stored, &[num_blocks, block_size, width])
        });
        Ok(Self { layers: layers.collect::<Result<_>>()?, num_blocks, block_size, dtype })
    }

    /// The tensors, for the decoder stack to hand one to each of `count` layers.
    pub(crate) fn layers_mut(&mut self, count: usize) -> Result<&mut [Tensor]> {
        if self.layers.len() != count {
            return Err(ModelError::step("kv", format!("{count} layers"), self.layers.len()));
        }
        Ok(&mut self.layers)
    }

    /// Copies block `source` to block `target` in every layer, for every pair `(source, target)`.
    ///
    /// # Errors
    /// As [`ops::copy_blocks`].
    pub fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        Ok(self.layers.iter_mut().try_for_each(|layer| ops::copy_blocks(layer, pairs))?)
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
