//! What the collectives do to host bytes: sums in rank order, rows and columns put together.

use std::ops::Range;

use half::bf16;
use kernels::cpu::AlignedBytes;
use kernels::{DType, Device, Result, Tensor};

/// Elements summed at a time: a stack buffer of `f32` between the ranks' values and the rounded result.
const CHUNK: usize = 1024;

/// The elements `range` of all `ranks`' tensors, which have one shape and can be summed, in rank order: a `[len]` tensor.
pub(crate) fn sum(ranks: &[&Tensor], range: Range<usize>) -> Result<Tensor> {
    let dtype = ranks[0].dtype();
    let mut out = AlignedBytes::zeroed(range.len() * dtype.size());
    match dtype {
        DType::BF16 => sum_of::<bf16>(ranks, range.clone(), &mut out, bf16::to_f32, bf16::from_f32)?,
        _ => sum_of::<f32>(ranks, range.clone(), &mut out, |v| v, |v| v)?,
    }
    Tensor::from_bytes(&Device::Cpu, dtype, &[range.len()], out)
}

fn sum_of<T: bytemuck::Pod>(
    ranks: &[&Tensor],
    range: Range<usize>,
    out: &mut [u8],
    widen: impl Fn(T) -> f32,
    round: impl Fn(f32) -> T,
) -> Result<()> {
    for (i, out) in bytemuck::cast_slice_mut::<u8, T>(out).chunks_mut(CHUNK).enumerate() {
        let mut sums = [0f32; CHUNK];
        let begin = range.start + i * CHUNK;
        for (rank, x) in ranks.iter().enumerate() {
            let bytes = x.host_bytes()?;
            let values = &bytemuck::cast_slice::<u8, T>(&bytes)[begin..][..out.len()];
            let sums = sums.iter_mut().zip(values);
            match rank {
                0 => sums.for_each(|(sum, &v)| *sum = widen(v)),
                _ => sums.for_each(|(sum, &v)| *sum += widen(v)),
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = round(sum));
    }
    Ok(())
}

/// Tensors of one dtype and `[R, their columns]`, side by side.
pub(crate) fn concat_cols(parts: &[&Tensor]) -> Result<Tensor> {
    let (dtype, rows) = (parts[0].dtype(), parts[0].dim(0));
    let cols: usize = parts.iter().map(|p| p.dim(1)).sum();
    let mut out = AlignedBytes::zeroed(rows * cols * dtype.size());
    let mut begin = 0;
    for part in parts {
        let (width, bytes) = (part.dim(1) * dtype.size(), part.host_bytes()?);
        for row in 0..rows {
            out[row * cols * dtype.size() + begin..][..width].copy_from_slice(&bytes[row * width..][..width]);
        }
        begin += width;
    }
    Tensor::from_bytes(&Device::Cpu, dtype, &[rows, cols], out)
}

/// The given rows of tensors of one dtype and `[their rows, C]`, one below the other.
pub(crate) fn concat_rows(parts: &[(&Tensor, Range<usize>)]) -> Result<Tensor> {
    let (dtype, cols) = (parts[0].0.dtype(), parts[0].0.dim(1));
    let rows = parts.iter().map(|(_, rows)| rows.len()).sum();
    let width = cols * dtype.size();
    let mut out = AlignedBytes::zeroed(rows * width);
    let mut begin = 0;
    for (part, rows) in parts {
        let bytes = rows.len() * width;
        out[begin..][..bytes].copy_from_slice(&part.host_bytes()?[rows.start * width..][..bytes]);
        begin += bytes;
    }
    Tensor::from_bytes(&Device::Cpu, dtype, &[rows, cols], out)
}
