//! The KV cache: what each layer keeps per token ([`KvLayout`]) and the paged tensors that hold it ([`KvCache`]).
//!
//! Which block belongs to which sequence is the scheduler's business; here a block is only a row range, the same in
//! every tensor of every layer. A layer may have several tensors ([`LayerCache`]), and a row may stand for several
//! tokens ([`CachePart::tokens_per_row`]): a block then has fewer rows of that kind and holds the same tokens.

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
    /// The latent row of [`LayerKv::Mla`], and the key of the lightning indexer (V3.2), one for all its heads.
    SparseMla {
        /// Width of the latent, `C`.
        kv_lora_rank: usize,
        /// Width of the shared rope key.
        qk_rope_head_dim: usize,
        /// Width of the index key.
        index_head_dim: usize,
    },
    /// `[rotated keys | values]` of all key heads.
    Gqa {
        /// Key heads `H_kv`.
        num_kv_heads: usize,
        /// Channels of a head.
        head_dim: usize,
    },
}

/// One kind of row that a layer caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePart {
    /// What the row is stored as; packed rows are bytes.
    pub dtype: DType,
    /// Elements of a row.
    pub width: usize,
    /// Tokens that share a row: 1, or a divisor of the block size.
    pub tokens_per_row: usize,
}

impl CachePart {
    /// A row per token.
    fn per_token(dtype: DType, width: usize) -> Self {
        Self { dtype, width, tokens_per_row: 1 }
    }

    /// Bytes that one token costs, rounded up.
    fn bytes_per_token(&self) -> usize {
        (self.dtype.size() * self.width).div_ceil(self.tokens_per_row)
    }
}

impl LayerKv {
    /// The rows that the layer keeps when its elements are of `dtype`. Latent rows in `F8_E4M3` are packed bytes
    /// ([`Fp8Row`]); the index keys beside them are then `BF16`, because they decide which rows are read at all.
    ///
    /// # Errors
    /// [`ModelError::Step`] for a dtype that the layer's cache cannot have.
    pub fn parts(&self, dtype: DType) -> Result<Vec<CachePart>> {
        let latent = |kv_lora_rank, qk_rope_head_dim| match dtype {
            DType::F8E4M3 => {
                CachePart::per_token(DType::U8, Fp8Row { kv_lora_rank, qk_rope_head_dim }.bytes())
            }
            _ => CachePart::per_token(dtype, kv_lora_rank + qk_rope_head_dim),
        };
        match (*self, dtype) {
            (Self::Gqa { num_kv_heads, head_dim }, DType::F32 | DType::BF16) => {
                Ok(vec![CachePart::per_token(dtype, 2 * num_kv_heads * head_dim)])
            }
            (Self::Mla { kv_lora_rank, qk_rope_head_dim }, DType::F32 | DType::BF16 | DType::F8E4M3) => {
                Ok(vec![latent(kv_lora_rank, qk_rope_head_dim)])
            }
            (
                Self::SparseMla { kv_lora_rank, qk_rope_head_dim, index_head_dim },
                DType::F32 | DType::BF16 | DType::F8E4M3,
            ) => {
                let index_dtype = if dtype == DType::F8E4M3 { DType::BF16 } else { dtype };
                let index_keys = CachePart::per_token(index_dtype, index_head_dim);
                Ok(vec![latent(kv_lora_rank, qk_rope_head_dim), index_keys])
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
        let layer = |kv: &LayerKv| Ok(kv.parts(dtype)?.iter().map(CachePart::bytes_per_token).sum::<usize>());
        self.layers.iter().map(layer).sum()
    }
}

/// One layer's part of the cache: a tensor `[num_blocks, block_size / tokens_per_row, width]` for each of its
/// [`LayerKv::parts`].
#[derive(Debug)]
pub struct LayerCache {
    tensors: Vec<Tensor>,
}

impl LayerCache {
    /// The tensors, in the order of the layer's parts.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All `N` tensors at once, for the attention to write its rows.
    ///
    /// # Errors
    /// [`ModelError::Step`] if the layer has another number of them: a cache of another layout.
    pub fn tensors_mut<const N: usize>(&mut self) -> Result<[&mut Tensor; N]> {
        let found = self.tensors.len();
        match <&mut [Tensor; N]>::try_from(&mut self.tensors[..]) {
            Ok(tensors) => Ok(tensors.each_mut()),
            Err(_) => Err(ModelError::step("layer cache", format!("{N} kinds of rows"), found)),
        }
    }
}

/// The cache of all layers.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    num_blocks: usize,
    block_size: usize,
    dtype: DType,
}

impl KvCache {
    /// A zeroed cache for `num_blocks * block_size` tokens, with elements of `dtype`: `F32`, `BF16`, or `F8_E4M3` where
    /// all layers cache latent rows.
    ///
    /// # Errors
    /// [`ModelError::Step`] for any other dtype, an empty block, or one that holds no whole number of rows.
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
        let part = |part: CachePart| {
            if !block_size.is_multiple_of(part.tokens_per_row) {
                let expected = format!("a multiple of {}", part.tokens_per_row);
                return Err(ModelError::step("kv block_size", expected, block_size));
            }
            tensor(part.dtype, &[num_blocks, block_size / part.tokens_per_row, part.width])
        };
        let layer = |kv: &LayerKv| {
            let tensors = kv.parts(dtype)?.into_iter().map(part).collect::<Result<_>>()?;
            Ok(LayerCache { tensors })
        };
        let layers = layout.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, num_blocks, block_size, dtype })
    }

    /// The layers' parts, for the decoder stack to hand one to each of `count` layers.
    pub(crate) fn layers_mut(&mut self, count: usize) -> Result<&mut [LayerCache]> {
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
        let mut tensors = self.layers.iter_mut().flat_map(|layer| &mut layer.tensors);
        Ok(tensors.try_for_each(|tensor| ops::copy_blocks(tensor, pairs))?)
    }

    /// The layers' parts alone, for running layers by hand.
    pub fn into_layers(self) -> Vec<LayerCache> {
        self.layers
    }

    /// The layers' parts in layer order.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// Physical blocks of every layer.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes resident over all layers.
    pub fn size_bytes(&self) -> usize {
        self.layers.iter().flat_map(LayerCache::tensors).map(Tensor::size_bytes).sum()
    }
}
