//! Launches of `cuda/mla.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::elementwise::activations;
use crate::cuda::{Args, Launch};
use crate::ops::MlaDims;
use crate::{DType, KernelError, Precision, Result, Tensor, Weight};

/// `HeadProduct` of `mla.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadProduct {
    tokens: u32,
    heads: u32,
    x_width: u32,
    out_width: u32,
    n: u32,
    k: u32,
    head_rows: u32,
    first_row: u32,
    columns: u32,
    tail: u32,
    block_rows: u32,
    block_columns: u32,
    scale_columns: u32,
}

/// `[q_nope W_UK | q_rope]` of `q` `[T, H, nope + rope]` (`F32`) in the device's activation dtype.
pub(crate) fn absorb_query(q: &Tensor, kv_b: &Weight, dims: &MlaDims) -> Result<Tensor> {
    let product = HeadProduct {
        tokens: q.dim(0) as u32,
        x_width: dims.qk_head_dim() as u32,
        out_width: dims.row_width() as u32,
        n: dims.kv_lora_rank as u32,
        k: dims.qk_nope_head_dim as u32,
        tail: dims.qk_rope_head_dim as u32,
        ..of_weight(kv_b, dims)
    };
    let out = output(q, &[q.dim(0), dims.num_heads, dims.row_width()])?;
    multiply("mla_absorb_query", "absorb", q, kv_b, out, product)
}

/// `W_UV o` of `o` `[T, H, C]`, in the device's activation dtype.
pub(crate) fn project_value(o: &Tensor, kv_b: &Weight, dims: &MlaDims) -> Result<Tensor> {
    let product = HeadProduct {
        tokens: o.dim(0) as u32,
        x_width: dims.kv_lora_rank as u32,
        out_width: dims.v_head_dim as u32,
        n: dims.v_head_dim as u32,
        k: dims.kv_lora_rank as u32,
        first_row: dims.qk_nope_head_dim as u32,
        ..of_weight(kv_b, dims)
    };
    let o = activations(o)?;
    let out = output(&o, &[o.dim(0), dims.num_heads * dims.v_head_dim])?;
    multiply("mla_project_value", "project", &o, kv_b, out, product)
}

fn output(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    Tensor::output(&x.device(), x.cuda("mla")?.activation_dtype(), shape)
}

/// What both products have in common.
fn of_weight(kv_b: &Weight, dims: &MlaDims) -> HeadProduct {
    let mut product: HeadProduct = Zeroable::zeroed();
    product.heads = dims.num_heads as u32;
    product.head_rows = (dims.qk_nope_head_dim + dims.v_head_dim) as u32;
    product.columns = dims.kv_lora_rank as u32;
    if let Some(scales) = kv_b.scales() {
        product.block_rows = scales.block_rows as u32;
        product.block_columns = scales.block_cols as u32;
        product.scale_columns = scales.scales.dim(2) as u32;
    }
    product
}

/// The instance of the kernel: the stored form, the operands it takes, and the tile, `[tokens, columns]`.
fn instance(
    op: &'static str,
    kv_b: &Weight,
    precision: Precision,
    tokens: u32,
) -> Result<(String, [u32; 2])> {
    let stored = match kv_b.dtype() {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::F8E4M3 => "fp8",
        found => {
            let expected = "F32, F16, BF16 or F8_E4M3 on a GPU";
            return Err(KernelError::DType { op, arg: "kv_b", expected, found });
        }
    };
    Ok(match (precision, stored) {
        (Precision::Bf16, "bf16" | "fp8") if tokens > 16 => (format!("{stored}_bf16_bf16_m64"), [64, 64]),
        (Precision::Bf16, "bf16" | "fp8") => (format!("{stored}_bf16_bf16_m16"), [16, 32]),
        (Precision::Bf16, _) => (format!("{stored}_f32_bf16_m16"), [16, 32]),
        (Precision::F32, _) => (format!("{stored}_f32_f32_m16"), [16, 32]),
    })
}

fn multiply(
    op: &'static str,
    way: &str,
    x: &Tensor,
    kv_b: &Weight,
    mut out: Tensor,
    product: HeadProduct,
) -> Result<Tensor> {
    let device = x.cuda(op)?;
    let (instance, [tokens, columns]) = instance(op, kv_b, device.precision(), product.tokens)?;
    if !out.is_empty() {
        // One block at least, for the columns that are only copied.
        let grid = [product.n.div_ceil(columns).max(1), product.heads, product.tokens.div_ceil(tokens)];
        let launch = Launch { grid, threads: 2 * columns, shared_bytes: 0 };
        let args = Args::new().tensor(x)?.tensor(kv_b.data())?;
        let args = args.optional(kv_b.scales().map(|s| &s.scales))?.output(&mut out)?.value(product);
        device.launch("mla", &format!("mla_{way}_{instance}"), launch, args)?;
    }
    Ok(out)
}
