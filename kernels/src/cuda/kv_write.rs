//! Launches of `cuda/kv_write.cu`: one block per token.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, RopeLayout, RopeTable, Tensor};

const STEM: &str = "kv_write";
/// `kMaxPackedKey`: channels of a packed index key.
const MAX_PACKED_KEY: usize = 1024;

/// `MlaSizes` of `cuda/kv_write.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MlaSizes {
    latent: u32,
    half_rope: u32,
    rows: u32,
    row_bytes: u32,
    eps: f32,
}

/// `GqaSizes` of `cuda/kv_write.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GqaSizes {
    heads: u32,
    head_dim: u32,
    half_rope: u32,
    half_split: u32,
    rows: u32,
}

/// `IndexSizes` of `cuda/kv_write.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IndexSizes {
    dim: u32,
    half_rope: u32,
    rows: u32,
    row_bytes: u32,
    eps: f32,
}

fn launch(tokens: usize) -> Launch {
    Launch { grid: [tokens as u32, 1, 1], threads: 256, shared_bytes: 0 }
}

fn f32s(op: &'static str, tensors: &[(&'static str, &Tensor)]) -> Result<()> {
    tensors.iter().try_for_each(|(arg, tensor)| tensor.expect_dtype(DType::F32, "F32", op, arg))
}

/// `[rms_norm(latent) | rope(k_rope)]` of every row of `kv_a` `[T, C + R]`.
pub(crate) fn mla(
    cache: &mut Tensor,
    kv_a: &Tensor,
    (weight, eps): (&Tensor, f32),
    table: &RopeTable,
    slots: &Tensor,
) -> Result<()> {
    const OP: &str = "mla_kv_write";
    f32s(OP, &[("kv_a", kv_a), ("weight", weight), ("table", &table.cos), ("table", &table.sin)])?;
    let name = match cache.dtype() {
        DType::F32 => "mla_kv_write_f32",
        DType::BF16 => "mla_kv_write_bf16",
        DType::U8 => "mla_kv_write_fp8",
        found => return Err(KernelError::DType { op: OP, arg: "cache", expected: "F32, BF16 or U8", found }),
    };
    let sizes = MlaSizes {
        latent: weight.len() as u32,
        half_rope: table.cos.dim(1) as u32,
        rows: (cache.dim(0) * cache.dim(1)) as u32,
        row_bytes: (cache.dim(2) * cache.dtype().size()) as u32,
        eps,
    };
    let device = cache.cuda(OP)?.clone();
    let args =
        Args::new().output(cache)?.tensor(kv_a)?.tensor(weight)?.tensor(&table.cos)?.tensor(&table.sin)?;
    let args = args.tensor(slots)?.fault(&device).value(sizes);
    if kv_a.dim(0) == 0 { Ok(()) } else { device.launch(STEM, name, launch(kv_a.dim(0)), args) }
}

/// `[rope(k) | v]` of every token; `k` and `v` are `[T, H_kv, D]`.
pub(crate) fn gqa(
    cache: &mut Tensor,
    [k, v]: [&Tensor; 2],
    table: &RopeTable,
    layout: RopeLayout,
    slots: &Tensor,
) -> Result<()> {
    const OP: &str = "gqa_kv_write";
    f32s(OP, &[("k", k), ("v", v), ("table", &table.cos), ("table", &table.sin)])?;
    let name = match cache.dtype() {
        DType::F32 => "gqa_kv_write_f32",
        DType::BF16 => "gqa_kv_write_bf16",
        found => return Err(KernelError::DType { op: OP, arg: "cache", expected: "F32 or BF16", found }),
    };
    let sizes = GqaSizes {
        heads: k.dim(1) as u32,
        head_dim: k.dim(2) as u32,
        half_rope: table.cos.dim(1) as u32,
        half_split: u32::from(layout == RopeLayout::HalfSplit),
        rows: (cache.dim(0) * cache.dim(1)) as u32,
    };
    let device = cache.cuda(OP)?.clone();
    let args = Args::new().output(cache)?.tensor(k)?.tensor(v)?.tensor(&table.cos)?.tensor(&table.sin)?;
    let args = args.tensor(slots)?.fault(&device).value(sizes);
    if k.dim(0) == 0 { Ok(()) } else { device.launch(STEM, name, launch(k.dim(0)), args) }
}

/// `layer_norm(k)` of every row of `k` `[T, D]`, its first columns rotated.
pub(crate) fn index_key(
    cache: &mut Tensor,
    k: &Tensor,
    (weight, bias, eps): (&Tensor, &Tensor, f32),
    table: &RopeTable,
    slots: &Tensor,
) -> Result<()> {
    const OP: &str = "index_key_write";
    let inputs = [("k", k), ("weight", weight), ("bias", bias), ("table", &table.cos), ("table", &table.sin)];
    f32s(OP, &inputs)?;
    let name = match cache.dtype() {
        DType::F32 => "index_key_write_f32",
        DType::BF16 => "index_key_write_bf16",
        DType::U8 => "index_key_write_fp8",
        found => return Err(KernelError::DType { op: OP, arg: "cache", expected: "F32, BF16 or U8", found }),
    };
    let sizes = IndexSizes {
        dim: k.dim(1) as u32,
        half_rope: table.cos.dim(1) as u32,
        rows: (cache.dim(0) * cache.dim(1)) as u32,
        row_bytes: (cache.dim(2) * cache.dtype().size()) as u32,
        eps,
    };
    if cache.dtype() == DType::U8 && k.dim(1) > MAX_PACKED_KEY {
        let expected = format!("packed keys of at most {MAX_PACKED_KEY} channels on a GPU");
        return Err(KernelError::value(OP, "k", expected, k.dim(1)));
    }
    let device = cache.cuda(OP)?.clone();
    let args = Args::new().output(cache)?.tensor(k)?.tensor(weight)?.tensor(bias)?;
    let args = args.tensor(&table.cos)?.tensor(&table.sin)?.tensor(slots)?.fault(&device).value(sizes);
    if k.dim(0) == 0 { Ok(()) } else { device.launch(STEM, name, launch(k.dim(0)), args) }
}
