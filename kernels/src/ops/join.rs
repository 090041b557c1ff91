//! Column blocks put side by side: what the ranks' parts of a matrix are after they have arrived.

use crate::cpu::AlignedBytes;
use crate::{KernelError, Result, Tensor};

/// `blocks` `[R, W]` holds matrices `[R, widths[i]]` one after the other in memory, `W` the sum of `widths`; they become
/// the columns of one matrix `[R, W]`. Every dtype.
pub fn join_cols(blocks: &Tensor, widths: &[usize]) -> Result<Tensor> {
    const OP: &str = "join_cols";
    let [rows, cols] = blocks.dims(OP, "blocks", "[R, W]")?;
    if widths.iter().sum::<usize>() != cols {
        return Err(KernelError::value(
            OP,
            "widths",
            format!("widths that add up to {cols}"),
            format!("{widths:?}"),
        ));
    }
    // One row, or one block, is joined already.
    if rows <= 1 || widths.contains(&cols) {
        return Ok(blocks.clone());
    }
    #[cfg(feature = "cuda-host")]
    if blocks.is_cuda() {
        return crate::cuda::join::join_cols(blocks, widths);
    }
    let (size, bytes) = (blocks.dtype().size(), blocks.bytes());
    let mut out = AlignedBytes::zeroed(bytes.len());
    let (mut source, mut begin) = (0, 0);
    for width in widths.iter().map(|width| width * size) {
        for row in out.chunks_exact_mut(cols * size) {
            row[begin..][..width].copy_from_slice(&bytes[source..][..width]);
            source += width;
        }
        begin += width;
    }
    Tensor::from_bytes(&blocks.device(), blocks.dtype(), &[rows, cols], out)
}
