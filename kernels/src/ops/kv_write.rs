//! Writing this step's keys and values into the paged cache, with norm and rope fused in.

use super::hadamard::check_dim;
use crate::cpu::{self, CacheMut, Level};
use crate::{DType, Fp8Row, IndexKeyRow, KernelError, PackedRow, Result, RopeLayout, RopeTable, Tensor};

/// Writes MLA cache rows: `[rms_norm(latent) | rope(k_rope)]`.
///
/// `kv_a` `[T, C + R]` is the output of `kv_a_proj_with_mqa`; only its first `C` columns are normalised (`weight`
/// `[C]`), only its last `R` are rotated (interleaved pairs). `cache` is `[blocks, block_size, C + R]` in `F32` or
/// `BF16`, or `[blocks, block_size, bytes]` in `U8` of packed [`Fp8Row`]s; token `t` goes to row `slot_mapping[t]`.
pub fn mla_kv_write(
    cache: &mut Tensor,
    kv_a: &Tensor,
    weight: &Tensor,
    eps: f32,
    table: &RopeTable,
    slot_mapping: &Tensor,
) -> Result<()> {
    const OP: &str = "mla_kv_write";
    let [tokens, width] = kv_a.dims(OP, "kv_a", "[T, C + R]")?;
    let [latent] = weight.dims(OP, "weight", "[C]")?;
    let [rows, half] = table.cos.dims(OP, "table", "[T, R / 2]")?;
    if rows != tokens || latent + 2 * half != width {
        let expected = format!("[{rows}, {latent} + {}]", 2 * half);
        return Err(KernelError::shape(OP, "kv_a", expected, kv_a.shape()));
    }
    let packed = Fp8Row { kv_lora_rank: latent, qk_rope_head_dim: 2 * half };
    let row_width = if cache.dtype() == DType::U8 { packed.bytes() } else { width };
    check_slots(OP, cache, tokens, row_width, slot_mapping)?;
    let inputs = [("kv_a", kv_a), ("weight", weight), ("table", &table.cos), ("table", &table.sin)];
    inputs.iter().try_for_each(|(arg, tensor)| tensor.expect_device(&cache.device(), OP, arg))?;
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        return crate::cuda::kv_write::mla(cache, kv_a, (weight, eps), table, slot_mapping);
    }
    let (kv_a, weight) = (kv_a.f32s(OP, "kv_a")?, weight.f32s(OP, "weight")?);
    let (angles, slots) = (table.values(OP)?, slot_mapping.u32s(OP, "slot_mapping")?);
    let mut cache = match cache.dtype() {
        DType::U8 => CacheMut::Packed(cache.bytes_mut(OP, "cache")?, PackedRow::Latent(packed)),
        _ => cache_mut(OP, cache)?,
    };
    cpu::mla_kv_write(Level::detect(), &mut cache, kv_a, (weight, eps), angles, slots);
    Ok(())
}

/// Writes GQA cache rows: `[rope(k) | v]`, heads in order.
///
/// `k` and `v` are `[T, H_kv, D]`; `cache` is `[blocks, block_size, 2 * H_kv * D]` in `F32` or `BF16`.
pub fn gqa_kv_write(
    cache: &mut Tensor,
    k: &Tensor,
    v: &Tensor,
    table: &RopeTable,
    layout: RopeLayout,
    slot_mapping: &Tensor,
) -> Result<()> {
    const OP: &str = "gqa_kv_write";
    let [tokens, heads, dim] = k.dims(OP, "k", "[T, H_kv, D]")?;
    if v.shape() != k.shape() {
        return Err(KernelError::shape(OP, "v", format!("k's {:?}", k.shape()), v.shape()));
    }
    if table.cos.shape() != [tokens, dim / 2] {
        return Err(KernelError::shape(OP, "table", format!("[{tokens}, {}]", dim / 2), table.cos.shape()));
    }
    check_slots(OP, cache, tokens, 2 * heads * dim, slot_mapping)?;
    let inputs = [("k", k), ("v", v), ("table", &table.cos), ("table", &table.sin)];
    inputs.iter().try_for_each(|(arg, tensor)| tensor.expect_device(&cache.device(), OP, arg))?;
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        return crate::cuda::kv_write::gqa(cache, [k, v], table, layout, slot_mapping);
    }
    let (k, v) = (k.f32s(OP, "k")?, v.f32s(OP, "v")?);
    let (angles, slots) = (table.values(OP)?, slot_mapping.u32s(OP, "slot_mapping")?);
    let mut cache = cache_mut(OP, cache)?;
    cpu::gqa_kv_write(Level::detect(), &mut cache, (k, v, dim), angles, layout, slots);
    Ok(())
}

/// Writes the index keys of sparse attention: `layer_norm(k)`, then rope.
///
/// `k` `[T, D]` is normalised whole (`weight` and `bias` `[D]`); its first `R` columns are rotated, halves paired, where
/// `table` has `R / 2` angles. `cache` is `[blocks, block_size, D]` in `F32` or `BF16`; token `t` goes to row
/// `slot_mapping[t]`. Into a cache `[blocks, block_size, bytes]` in `U8` of packed [`IndexKeyRow`]s the key goes as
/// [`crate::ops::hadamard_fp8_assign`] makes queries: by the Walsh-Hadamard matrix, then rounded to FP8.
pub fn index_key_write(
    cache: &mut Tensor,
    k: &Tensor,
    (weight, bias, eps): (&Tensor, &Tensor, f32),
    table: &RopeTable,
    slot_mapping: &Tensor,
) -> Result<()> {
    const OP: &str = "index_key_write";
    let [tokens, dim] = k.dims(OP, "k", "[T, D]")?;
    for (arg, tensor) in [("weight", weight), ("bias", bias)] {
        if tensor.shape() != [dim] {
            return Err(KernelError::shape(OP, arg, format!("[{dim}]"), tensor.shape()));
        }
    }
    let [rows, half] = table.cos.dims(OP, "table", "[T, R / 2]")?;
    if rows != tokens || 2 * half > dim {
        let expected = format!("[{tokens}, at most {}]", dim / 2);
        return Err(KernelError::shape(OP, "table", expected, table.cos.shape()));
    }
    let packed = IndexKeyRow { index_head_dim: dim };
    let row_width = match cache.dtype() {
        DType::U8 => {
            check_dim(OP, "k", dim)?;
            packed.bytes()
        }
        _ => dim,
    };
    check_slots(OP, cache, tokens, row_width, slot_mapping)?;
    let inputs = [("k", k), ("weight", weight), ("bias", bias), ("table", &table.cos), ("table", &table.sin)];
    inputs.iter().try_for_each(|(arg, tensor)| tensor.expect_device(&cache.device(), OP, arg))?;
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        return crate::cuda::kv_write::index_key(cache, k, (weight, bias, eps), table, slot_mapping);
    }
    let (k, weight, bias) = (k.f32s(OP, "k")?, weight.f32s(OP, "weight")?, bias.f32s(OP, "bias")?);
    let (angles, slots) = (table.values(OP)?, slot_mapping.u32s(OP, "slot_mapping")?);
    let mut cache = match cache.dtype() {
        DType::U8 => CacheMut::Packed(cache.bytes_mut(OP, "cache")?, PackedRow::IndexKey(packed)),
        _ => cache_mut(OP, cache)?,
    };
    cpu::index_key_write(Level::detect(), &mut cache, k, (weight, bias, eps), angles, slots);
    Ok(())
}

/// One slot per token, all within the cache, whose rows have `width` values. Slots that only a GPU knows are checked by
/// its kernel.
fn check_slots(
    op: &'static str,
    cache: &Tensor,
    tokens: usize,
    width: usize,
    slot_mapping: &Tensor,
) -> Result<()> {
    let [blocks, block_size, row_width] = cache.dims(op, "cache", "[blocks, block_size, width]")?;
    if row_width != width {
        return Err(KernelError::shape(op, "cache", format!("[blocks, block_size, {width}]"), cache.shape()));
    }
    slot_mapping.expect_device(&cache.device(), op, "slot_mapping")?;
    slot_mapping.expect_dtype(DType::U32, "U32", op, "slot_mapping")?;
    if slot_mapping.len() != tokens {
        return Err(KernelError::shape(op, "slot_mapping", format!("[{tokens}]"), slot_mapping.shape()));
    }
    let slots = slot_mapping.host_u32s();
    if let Some(slot) = slots.unwrap_or_default().iter().find(|&&s| s as usize >= blocks * block_size) {
        let expected = format!("slots below {}", blocks * block_size);
        return Err(KernelError::value(op, "slot_mapping", expected, slot));
    }
    Ok(())
}

/// The typed rows of `cache`, for writing.
pub(super) fn cache_mut<'a>(op: &'static str, cache: &'a mut Tensor) -> Result<CacheMut<'a>> {
    let dtype = cache.dtype();
    match dtype {
        DType::F32 => Ok(CacheMut::F32(cache.f32s_mut(op, "cache")?)),
        DType::BF16 => Ok(CacheMut::Bf16(bytemuck::cast_slice_mut(cache.bytes_mut(op, "cache")?))),
        found => Err(KernelError::DType { op, arg: "cache", expected: "F32 or BF16", found }),
    }
}
