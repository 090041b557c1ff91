//! Compressed cache entries (V4's CSA and HCA): every `m` tokens become one row.
//!
//! A token brings a value and a gate per channel. Entry `w` is the sum of the values of its window's tokens `w m .. w m +
//! m`, weighed channel by channel with the softmax of their gates; then norm, and rope at the window's first position.
//! Overlapping windows (CSA) also take the tokens of the window before: a token then has two halves of channels, the
//! first for the window after its own, the second for its own, and the softmax runs over both windows' tokens.

use crate::cpu::{self, CacheMut, Compress, Level};
use crate::ops::PagedBatch;
use crate::ops::hadamard::check_dim;
use crate::ops::kv_write::cache_mut;
use crate::{DType, KernelError, PackedRow, Result, RopeTable, Tensor};

/// The parameters of one compressor; all `F32`.
#[derive(Debug, Clone)]
pub struct Compressor {
    /// `ape` `[m, C]`: added to the gate, by place in the window. `C` is `D`, of overlapping windows `2 D`.
    pub ape: Tensor,
    /// `norm` `[D]`.
    pub norm: Tensor,
    /// Added to the mean square.
    pub eps: f32,
    /// What an entry becomes in a cache of bytes: [`crate::SharedKvRow`], or a packed index key, which is first multiplied by the
    /// Walsh-Hadamard matrix.
    pub packed: PackedRow,
}

impl Compressor {
    /// Tokens of an entry, `m`.
    pub fn ratio(&self) -> usize {
        self.ape.dim(0)
    }

    /// Whether an entry also takes the window before its own.
    pub fn overlaps(&self) -> bool {
        self.ape.dim(1) == 2 * self.norm.len()
    }

    /// Rows of the state ring: the windows that an entry takes.
    pub fn ring_rows(&self) -> usize {
        self.ratio() * if self.overlaps() { 2 } else { 1 }
    }
}

/// Writes the entries that this step's tokens complete into `cache` `[blocks, block_size / m, D]` (`F32` or `BF16`), or
/// `[blocks, block_size / m, bytes]` in `U8` of the compressor's packed rows.
///
/// `projected` `[T, 2 C]` are the tokens' `[values | gates]`, `F32`; `state` `[slots, R, 2 C]` is the ring of those of
/// earlier tokens ([`crate::ops::ring_write`] adds this step's, afterwards). `table` has the angles of each token's
/// window ([`RopeTable::strided`]), for the last columns in interleaved pairs.
pub fn compress(
    cache: &mut Tensor,
    projected: &Tensor,
    state: &Tensor,
    compressor: &Compressor,
    table: &RopeTable,
    batch: &PagedBatch,
) -> Result<()> {
    const OP: &str = "compress";
    let [ratio, channels] = compressor.ape.dims(OP, "ape", "[m, C]")?;
    let [dim] = compressor.norm.dims(OP, "norm", "[D]")?;
    if channels != dim && channels != 2 * dim {
        let expected = format!("[m, {dim} or {}]", 2 * dim);
        return Err(KernelError::shape(OP, "ape", expected, compressor.ape.shape()));
    }
    let tokens = batch.num_tokens();
    if projected.shape() != [tokens, 2 * channels] {
        let expected = format!("[{tokens}, {}]", 2 * channels);
        return Err(KernelError::shape(OP, "projected", expected, projected.shape()));
    }
    let [slots, ring, state_width] = state.dims(OP, "state", "[slots, R, 2 C]")?;
    if ring < compressor.ring_rows() || state_width != 2 * channels {
        let expected = format!("[slots, at least {}, {}]", compressor.ring_rows(), 2 * channels);
        return Err(KernelError::shape(OP, "state", expected, state.shape()));
    }
    let [angles, half] = table.cos.dims(OP, "table", "[T, R / 2]")?;
    if angles != tokens || 2 * half > dim {
        let expected = format!("[{tokens}, at most {}]", dim / 2);
        return Err(KernelError::shape(OP, "table", expected, table.cos.shape()));
    }
    let [blocks, rows, width] = cache.dims(OP, "cache", "[blocks, block_size / m, D]")?;
    let is_packed = cache.dtype() == DType::U8;
    if is_packed {
        check_packed(OP, compressor.packed, [dim, 2 * half])?;
    }
    let expected = if is_packed { compressor.packed.bytes() } else { dim };
    if ratio == 0 || rows * ratio != batch.block_size || width != expected {
        let expected = format!("[blocks, {} / {ratio}, {expected}]", batch.block_size);
        return Err(KernelError::shape(OP, "cache", expected, cache.shape()));
    }
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        return crate::cuda::compressor::compress(cache, projected, state, compressor, table, batch);
    }
    let args = Compress {
        projected: projected.f32s(OP, "projected")?,
        state: state.f32s(OP, "state")?,
        ring_rows: ring,
        ape: compressor.ape.f32s(OP, "ape")?,
        norm: (compressor.norm.f32s(OP, "norm")?, compressor.eps),
        angles: table.values(OP)?,
        ratio,
        overlaps: compressor.overlaps(),
        rows_per_block: rows,
        sequences: batch.stateful(OP, slots, blocks)?,
    };
    let mut rows = match is_packed {
        true => CacheMut::Packed(cache.bytes_mut(OP, "cache")?, compressor.packed),
        false => cache_mut(OP, cache)?,
    };
    cpu::compress(Level::detect(), &args, &mut rows);
    Ok(())
}

/// Whether entries of `dim` channels, of which `rope` are rotated, can become such rows.
fn check_packed(op: &'static str, packed: PackedRow, [dim, rope]: [usize; 2]) -> Result<()> {
    if packed.is_rotated() {
        check_dim(op, "packed", packed.width())?;
    }
    let (fits, expected) = match packed {
        PackedRow::SharedKv(row) => {
            (row.qk_rope_head_dim == rope, format!("entries of {dim} channels, {rope} rotated"))
        }
        // Two codes share a byte.
        PackedRow::Fp4Key(_) => (dim > 1, format!("keys of {dim} channels, at least 2")),
        PackedRow::IndexKey(_) => (true, format!("keys of {dim} channels")),
        PackedRow::Latent(_) => (false, "entries or index keys".to_owned()),
    };
    if fits && packed.width() == dim {
        return Ok(());
    }
    Err(KernelError::value(op, "packed", expected, format!("{packed:?}")))
}
