//! The KV cache: what each layer keeps per token ([`KvLayout`]) and the paged tensors that hold it ([`KvCache`]).
//!
//! Which block belongs to which sequence is the scheduler's business; here a block is only a row range, the same in
//! every tensor of every layer. A layer may have several tensors ([`LayerCache`]), and a row may stand for several
//! tokens ([`CachePart::tokens_per_row`]): a block then has fewer rows of that kind and holds the same tokens.

use kernels::{DType, Device, Fp8Row, SharedKvRow, Tensor, ops};

use crate::{IndexFormat, ModelError, Result};

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
        /// Form of the index key.
        index: IndexFormat,
    },
    /// The last rows of a window, and with a ratio compressed entries of all tokens (V4). The window and the compression
    /// under way are state of the sequence, not of its blocks.
    Window {
        /// Width of a row, key and value of all heads.
        head_dim: usize,
        /// The last channels of it, which rope turns.
        qk_rope_head_dim: usize,
        /// Tokens that a query sees uncompressed.
        sliding_window: usize,
        /// Tokens of a compressed entry; 0 for a layer without.
        ratio: usize,
        /// Width of an index entry, for layers that choose among their entries; their windows overlap.
        index_head_dim: Option<usize>,
        /// Form of the index entry.
        index: IndexFormat,
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

/// One kind of row of which a sequence keeps its last few, in a slot of its own ([`ops::ring_write`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatePart {
    /// Stored element type.
    pub dtype: DType,
    /// Rows that are kept.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
}

impl CachePart {
    /// A row per token.
    fn per_token(dtype: DType, width: usize) -> Self {
        Self { dtype, width, tokens_per_row: 1 }
    }

    /// Bytes of `tokens` tokens, a multiple of those of a row.
    fn bytes(&self, tokens: usize) -> usize {
        tokens / self.tokens_per_row * self.dtype.size() * self.width
    }
}

impl LayerKv {
    /// The rows that the layer keeps when its elements are of `dtype`. Latent rows and V4's entries in `F8_E4M3` are packed
    /// bytes ([`Fp8Row`], [`SharedKvRow`]); exact index keys beside them are then `BF16`, because they decide which rows are
    /// read at all. Index keys in FP8 or FP4 are packed bytes beside rows of any dtype.
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
                Self::SparseMla { kv_lora_rank, qk_rope_head_dim, index_head_dim, index },
                DType::F32 | DType::BF16 | DType::F8E4M3,
            ) => {
                let (key_dtype, width) = index.stored(index_head_dim, dtype);
                let index_keys = CachePart::per_token(key_dtype, width);
                Ok(vec![latent(kv_lora_rank, qk_rope_head_dim), index_keys])
            }
            (Self::Window { ratio: 0, .. }, DType::F32 | DType::BF16 | DType::F8E4M3) => Ok(Vec::new()),
            (
                Self::Window { head_dim, qk_rope_head_dim, ratio, index_head_dim, index, .. },
                DType::F32 | DType::BF16 | DType::F8E4M3,
            ) => {
                let entries = shared_kv(dtype, SharedKvRow { head_dim, qk_rope_head_dim });
                let parts = [Some(entries), index_head_dim.map(|width| index.stored(width, dtype))];
                let part = |(dtype, width)| CachePart { dtype, width, tokens_per_row: ratio };
                Ok(parts.into_iter().flatten().map(part).collect())
            }
            _ => Err(ModelError::step(
                "kv dtype",
                "F32, BF16, or F8_E4M3 for rows that all heads share",
                dtype,
            )),
        }
    }

    /// What the layer keeps per sequence: the window's rows, as the entries are with a cache of `dtype`, then what the compressor of the
    /// entries and that of the index entries have projected, values and gates in `F32`. Each has `rollback` rows more than
    /// the layer looks back, so that a sequence may drop as many of its last tokens and go on from there.
    pub fn state(&self, dtype: DType, rollback: usize) -> Vec<StatePart> {
        let Self::Window { head_dim, qk_rope_head_dim, sliding_window, ratio, index_head_dim, .. } = *self
        else {
            return Vec::new();
        };
        let (dtype, width) = shared_kv(dtype, SharedKvRow { head_dim, qk_rope_head_dim });
        let mut parts = vec![StatePart { dtype, rows: sliding_window + rollback, width }];
        // Overlapping windows are two of them, and a token has two halves of channels.
        let windows = if index_head_dim.is_some() { 2 } else { 1 };
        let widths = [Some(head_dim), index_head_dim].into_iter().flatten().filter(|_| ratio > 0);
        parts.extend(widths.map(|width| StatePart {
            dtype: DType::F32,
            rows: windows * ratio + rollback,
            width: 2 * windows * width,
        }));
        parts
    }
}

/// Element type and elements of a row that is key and value at once, in a cache of `dtype`.
fn shared_kv(dtype: DType, row: SharedKvRow) -> (DType, usize) {
    match dtype {
        DType::F8E4M3 => (DType::U8, row.bytes()),
        _ => (dtype, row.head_dim),
    }
}

/// What every layer caches, in layer order. The MTP layers have a layout of their own ([`crate::Mtp::kv_layout`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// One entry per decoder layer.
    pub layers: Vec<LayerKv>,
}

impl KvLayout {
    /// The layout with index keys in the form `format`.
    pub fn with_index(mut self, format: IndexFormat) -> Self {
        for layer in &mut self.layers {
            match layer {
                LayerKv::SparseMla { index, .. } | LayerKv::Window { index, index_head_dim: Some(_), .. } => {
                    *index = format;
                }
                LayerKv::Window { .. } | LayerKv::Mla { .. } | LayerKv::Gqa { .. } => {}
            }
        }
        self
    }

    /// Bytes that one token costs over all layers, with elements of `dtype`, rounded up.
    ///
    /// # Errors
    /// [`ModelError::Step`] for a dtype that a layer's cache cannot have.
    pub fn bytes_per_token(&self, dtype: DType) -> Result<usize> {
        Ok(self.block_bytes(dtype)?.div_ceil(self.block_tokens()))
    }

    /// Bytes of the smallest block, of [`KvLayout::block_tokens`] tokens.
    ///
    /// # Errors
    /// As [`KvLayout::bytes_per_token`].
    pub fn block_bytes(&self, dtype: DType) -> Result<usize> {
        let tokens = self.block_tokens();
        let layer = |kv: &LayerKv| Ok(kv.parts(dtype)?.iter().map(|part| part.bytes(tokens)).sum::<usize>());
        self.layers.iter().map(layer).sum()
    }

    /// Bytes that one sequence costs besides its tokens: the state of all layers, which can go back `rollback` tokens.
    pub fn bytes_per_sequence(&self, dtype: DType, rollback: usize) -> usize {
        let bytes = |part: StatePart| part.dtype.size() * part.rows * part.width;
        self.layers.iter().flat_map(|kv| kv.state(dtype, rollback)).map(bytes).sum()
    }

    /// Whether layers keep state per sequence, so that sequences need slots.
    pub fn has_state(&self) -> bool {
        self.layers.iter().any(|kv| !kv.state(DType::F32, 0).is_empty())
    }

    /// The smallest block that holds whole rows of every kind; the size of a block is a multiple of it.
    pub fn block_tokens(&self) -> usize {
        let ratio = |kv: &LayerKv| match *kv {
            LayerKv::Window { ratio, .. } => ratio.max(1),
            LayerKv::Mla { .. } | LayerKv::SparseMla { .. } | LayerKv::Gqa { .. } => 1,
        };
        self.layers.iter().map(ratio).fold(1, lcm)
    }
}

/// The least common multiple.
fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// One layer's part of the cache: a tensor `[num_blocks, block_size / tokens_per_row, width]` for each of its
/// [`LayerKv::parts`].
#[derive(Debug)]
pub struct LayerCache {
    tensors: Vec<Tensor>,
    states: Vec<Tensor>,
}

impl LayerCache {
    /// The tensors, in the order of the layer's parts.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The rings `[slots, rows, width]` of the layer's [`LayerKv::state`].
    pub fn states(&self) -> &[Tensor] {
        &self.states
    }

    /// Tensors and rings at once, for the attention to write to.
    pub fn parts_mut(&mut self) -> (&mut [Tensor], &mut [Tensor]) {
        (&mut self.tensors, &mut self.states)
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
    device: Device,
    layout: KvLayout,
    /// What unwritten bytes hold.
    fill: u8,
    layers: Vec<LayerCache>,
    num_blocks: usize,
    block_size: usize,
    dtype: DType,
}

impl KvCache {
    /// A zeroed cache for `num_blocks * block_size` tokens, with elements of `dtype`: `F32`, `BF16`, or `F8_E4M3` where
    /// the heads of every layer share their rows (MLA, V4).
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
        Self::build(device, layout, [num_blocks, block_size], dtype, 0)
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
        // All bits set is a NaN in each of the formats.
        Self::build(device, layout, [num_blocks, block_size], dtype, 0xFF)
    }

    fn build(
        device: &Device,
        layout: &KvLayout,
        [num_blocks, block_size]: [usize; 2],
        dtype: DType,
        fill: u8,
    ) -> Result<Self> {
        if block_size == 0 {
            return Err(ModelError::step("kv block_size", "at least 1", block_size));
        }
        let part = |part: CachePart| {
            if !block_size.is_multiple_of(part.tokens_per_row) {
                let expected = format!("a multiple of {}", part.tokens_per_row);
                return Err(ModelError::step("kv block_size", expected, block_size));
            }
            let shape = [num_blocks, block_size / part.tokens_per_row, part.width];
            Ok(Tensor::filled(device, part.dtype, &shape, fill)?)
        };
        let layer = |kv: &LayerKv| {
            let tensors = kv.parts(dtype)?.into_iter().map(part).collect::<Result<_>>()?;
            Ok(LayerCache { tensors, states: Vec::new() })
        };
        let layers = layout.layers.iter().map(layer).collect::<Result<_>>()?;
        let (device, layout) = (device.clone(), layout.clone());
        Ok(Self { device, layout, fill, layers, num_blocks, block_size, dtype })
    }

    /// The cache with `slots` slots for the state of as many sequences, each of which can go back `rollback` tokens; without
    /// effect where layers keep none.
    ///
    /// # Errors
    /// If memory is spent.
    pub fn with_state_slots(mut self, slots: usize, rollback: usize) -> Result<Self> {
        for (layer, kv) in self.layers.iter_mut().zip(&self.layout.layers) {
            let ring = |part: StatePart| {
                Tensor::filled(&self.device, part.dtype, &[slots, part.rows, part.width], self.fill)
            };
            layer.states = kv
                .state(self.dtype, rollback)
                .into_iter()
                .map(ring)
                .collect::<std::result::Result<_, _>>()?;
        }
        Ok(self)
    }

    /// Copies the state of slot `source` to slot `target` in every layer, for every pair `(source, target)`: what a
    /// snapshot and its restoration take.
    ///
    /// # Errors
    /// As [`ops::copy_blocks`].
    pub fn copy_states(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        let mut rings = self.layers.iter_mut().flat_map(|layer| &mut layer.states);
        Ok(rings.try_for_each(|ring| ops::copy_blocks(ring, pairs))?)
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
        let tensors = self.layers.iter().flat_map(|layer| layer.tensors.iter().chain(&layer.states));
        tensors.map(Tensor::size_bytes).sum()
    }
}
