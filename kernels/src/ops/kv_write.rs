//! Writing this step's keys and values into the paged cache, with norm and rope fused in.

use half::bf16;

use crate::{DType, KernelError, Result, RopeLayout, RopeTable, Tensor, reference};

/// Writes MLA cache rows: `[rms_norm(latent) | rope(k_rope)]`.
///
/// `kv_a` `[T, C + R]` is the output of `kv_a_proj_with_mqa`; only its first `C` columns are normalised (`weight`
/// `[C]`), only its last `R` are rotated (interleaved pairs). `cache` is `[blocks, block_size, C + R]` in `F32` or
/// `BF16`; token `t` goes to row `slot_mapping[t]`.
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
    let mut values = kv_a.f32s(OP, "kv_a")?.to_vec();
    let (cos, sin) = (table.cos.f32s(OP, "cos")?, table.sin.f32s(OP, "sin")?);
    let weight = weight.f32s(OP, "weight")?;
    for (t, row) in values.chunks_exact_mut(width).enumerate() {
        let normed = reference::rms_norm(&row[..latent], weight, latent, eps);
        row[..latent].copy_from_slice(&normed);
        let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
        reference::rope(&mut row[latent..], cos, sin, RopeLayout::Interleaved);
    }
    write_rows(OP, cache, &values, width, slot_mapping)
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
    let (k, v) = (k.f32s(OP, "k")?, v.f32s(OP, "v")?);
    let (cos, sin) = (table.cos.f32s(OP, "cos")?, table.sin.f32s(OP, "sin")?);
    let (width, half) = (heads * dim, dim / 2);
    let mut values = vec![0.0; tokens * 2 * width];
    for (t, row) in values.chunks_exact_mut(2 * width).enumerate() {
        row[..width].copy_from_slice(&k[t * width..][..width]);
        row[width..].copy_from_slice(&v[t * width..][..width]);
        for head in row[..width].chunks_exact_mut(dim) {
            reference::rope(head, &cos[t * half..][..half], &sin[t * half..][..half], layout);
        }
    }
    write_rows(OP, cache, &values, 2 * width, slot_mapping)
}

/// Stores `values` `[T, width]` into the cache rows `slot_mapping`, after checking that all of them exist.
fn write_rows(
    op: &'static str,
    cache: &mut Tensor,
    values: &[f32],
    width: usize,
    slot_mapping: &Tensor,
) -> Result<()> {
    let [blocks, block_size, row_width] = cache.dims(op, "cache", "[blocks, block_size, width]")?;
    if row_width != width {
        return Err(KernelError::shape(op, "cache", format!("[blocks, block_size, {width}]"), cache.shape()));
    }
    let slots = slot_mapping.u32s(op, "slot_mapping")?;
    if slots.len() * width != values.len() {
        let expected = format!("[{}]", values.len() / width.max(1));
        return Err(KernelError::shape(op, "slot_mapping", expected, slot_mapping.shape()));
    }
    if let Some(slot) = slots.iter().find(|&&s| s as usize >= blocks * block_size) {
        let expected = format!("slots below {}", blocks * block_size);
        return Err(KernelError::value(op, "slot_mapping", expected, slot));
    }
    let dtype = cache.dtype();
    let bytes = cache.bytes_mut(op, "cache")?;
    for (row, &slot) in values.chunks_exact(width).zip(slots) {
        let start = slot as usize * width;
        match dtype {
            DType::F32 => bytemuck::cast_slice_mut::<u8, f32>(bytes)[start..][..width].copy_from_slice(row),
            DType::BF16 => {
                let target = &mut bytemuck::cast_slice_mut::<u8, bf16>(bytes)[start..][..width];
                target.iter_mut().zip(row).for_each(|(t, &v)| *t = bf16::from_f32(v));
            }
            found => {
                return Err(KernelError::DType { op, arg: "cache", expected: "F32 or BF16", found });
            }
        }
    }
    Ok(())
}
