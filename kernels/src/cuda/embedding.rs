//! Launches of `cuda/embedding.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// `Shard` of `embedding.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shard {
    first: u32,
    rows: u32,
    vocab_size: u32,
}

/// Rows `ids` `[T]` of a table that begins with the row of token `first`, in `F32`; zeros for tokens it does not have.
pub(crate) fn embedding(table: &Weight, ids: &Tensor, first: usize, vocab_size: usize) -> Result<Tensor> {
    const OP: &str = "embedding";
    let kernel = match table.dtype() {
        DType::F32 => "embedding_f32",
        DType::F16 => "embedding_f16",
        DType::BF16 => "embedding_bf16",
        found => {
            let expected = "F32, F16 or BF16 on a GPU";
            return Err(KernelError::DType { op: OP, arg: "table", expected, found });
        }
    };
    let (tokens, dim) = (ids.len(), table.cols());
    let mut out = Tensor::output(&table.device(), DType::F32, &[tokens, dim])?;
    if !out.is_empty() {
        let device = ids.cuda(OP)?;
        let shard = Shard { first: first as u32, rows: table.rows() as u32, vocab_size: vocab_size as u32 };
        // Rows that are no multiple of four go element by element; their grid is as wide as if each thread had one.
        let columns = if dim % 4 == 0 { 4 * 128 } else { 128 };
        let grid = [tokens as u32, dim.div_ceil(columns) as u32, 1];
        let args = Args::new().fault(device).tensor(table.data())?.tensor(ids)?.output(&mut out)?;
        let launch = Launch { grid, threads: 128, shared_bytes: 0 };
        device.launch("embedding", kernel, launch, args.value(dim as u32).value(shard))?;
    }
    Ok(out)
}
