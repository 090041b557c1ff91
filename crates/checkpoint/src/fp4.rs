//! FP4 weights as DeepSeek-V4 stores its experts: `{prefix}.weight` `I8` `[n, k / 2]`, two e2m1 codes in a byte, the even
//! column in the low half, and `{prefix}.scale` `F8_E8M0` `[n, k / 32]`, an exponent for every 32 columns of a row.

use kernels::cpu::AlignedBytes;
use kernels::{DType, Device, Tensor, Weight, WeightFormat};
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, Stored};
use crate::load::{Unit, kernel_error};
use crate::slice::{Slice, Window};
use crate::{CheckpointError, Result};

/// Columns that share a byte.
const PACKING: usize = 2;

/// Checks what the headers tell about the FP4 weight `{prefix}.weight`.
pub(crate) fn check(checkpoint: &Checkpoint, weight: &Stored<'_>, prefix: &str) -> Result<()> {
    let &[n, bytes] = weight.info.shape.as_slice() else {
        return Err(weight.error("shape", "[n, k / 2] of FP4 codes", format!("{:?}", weight.info.shape)));
    };
    find_scale(checkpoint, weight, prefix, [n, bytes * PACKING]).map(drop)
}

/// The same slice of the FP4 matrices `{prefix}.weight` of all `prefixes`, `[n, k]` each, in the order of `matrices`.
pub(crate) fn stack(
    checkpoint: &Checkpoint,
    prefixes: &[&str],
    matrices: &[Stored<'_>],
    [n, k]: [usize; 2],
    slice: &Slice,
) -> Result<Weight> {
    let first = &matrices[0];
    for stored in matrices {
        if !k.is_multiple_of(PACKING) {
            return Err(stored.error(
                "width",
                "an even number of columns, because FP4 packs two in a byte",
                k,
            ));
        }
        stored.expect_shape(&[n, k / PACKING])?;
    }
    let window = slice
        .window([n, k])
        .ok_or_else(|| first.error("slice", format!("a part of [{n}, {k}]"), format!("{slice:?}")))?;
    let (Some(codes), Some(groups)) = (window.packed(PACKING), window.packed(WeightFormat::FP4_GROUP)) else {
        return Err(cut_group(first, &window));
    };
    if window.cols.start % PACKING != 0 || window.cols.len() % PACKING != 0 {
        return Err(cut_group(first, &window));
    }
    let scales: Vec<Stored<'_>> = prefixes
        .iter()
        .zip(matrices)
        .map(|(prefix, weight)| find_scale(checkpoint, weight, prefix, [n, k]))
        .collect::<Result<_>>()?;
    let data = bytes_of(checkpoint, matrices, DType::U8, &codes)?;
    let exponents = bytes_of(checkpoint, &scales, DType::F8E8M0, &groups)?;
    Weight::with_format(data, WeightFormat::Fp4(exponents)).map_err(kernel_error(first.name))
}

/// The window of every tensor, stacked.
fn bytes_of(
    checkpoint: &Checkpoint,
    tensors: &[Stored<'_>],
    dtype: DType,
    window: &Window,
) -> Result<Tensor> {
    let mut bytes = AlignedBytes::zeroed(tensors.len() * window.len());
    for (stored, out) in tensors.iter().zip(bytes.chunks_exact_mut(window.len().max(1))) {
        checkpoint
            .read(stored, Unit::Element(dtype), window, out, |bytes, out| out.copy_from_slice(bytes))?;
        checkpoint.mark(stored);
    }
    let shape = [tensors.len(), window.rows.len(), window.cols.len()];
    Tensor::from_bytes(&Device::Cpu, dtype, &shape, bytes).map_err(kernel_error(tensors[0].name))
}

fn find_scale<'a>(
    checkpoint: &'a Checkpoint,
    weight: &Stored<'_>,
    prefix: &str,
    [n, k]: [usize; 2],
) -> Result<Stored<'a>> {
    let name = format!("{prefix}.scale");
    let scale = checkpoint
        .find(&name)
        .ok_or_else(|| weight.error("scale", format!("`{name}` beside it, as FP4 has"), "nothing"))?;
    if scale.info.dtype != Dtype::F8_E8M0 {
        return Err(scale.error(
            "dtype",
            "F8_E8M0, as the exponents of FP4 are",
            format!("{:?}", scale.info.dtype),
        ));
    }
    scale.expect_shape(&[n, k.div_ceil(WeightFormat::FP4_GROUP)])?;
    Ok(scale)
}

/// A rank's part that begins inside a group of columns and goes on into the next has no exponents of its own.
fn cut_group(weight: &Stored<'_>, window: &Window) -> CheckpointError {
    let group = WeightFormat::FP4_GROUP;
    let expected =
        format!("columns that begin at a multiple of {group} or stay inside one (use fewer ranks)");
    weight.error("slice", expected, format!("columns {:?}", window.cols))
}
