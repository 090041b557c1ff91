//! Block scales of FP8 weights: where they are stored, which shape they must have, which values are sound.

use kernels::DType;
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, Stored};
use crate::values::{kernel_dtype, widen};
use crate::{CheckpointError, Result};

/// V3 multiplies by `weight_scale_inv`, despite the name; later releases call the same thing `scale`.
const SUFFIXES: [&str; 2] = ["weight_scale_inv", "scale"];

/// Checks what headers tell about every FP8 weight, so that a missing scale shows before gigabytes are read.
pub(crate) fn check_all(checkpoint: &Checkpoint) -> Result<()> {
    for name in checkpoint.names() {
        let stored = checkpoint.stored(name)?;
        if stored.info.dtype != Dtype::F8_E4M3 {
            continue;
        }
        if let (Some(prefix), &[n, k]) = (name.strip_suffix(".weight"), stored.info.shape.as_slice()) {
            find(checkpoint, &stored, prefix, [n, k])?;
        } else {
            block_size(checkpoint, &stored)?;
        }
    }
    Ok(())
}

/// The block size of the quantisation config, which an FP8 tensor cannot do without.
pub(crate) fn block_size(checkpoint: &Checkpoint, weight: &Stored<'_>) -> Result<[usize; 2]> {
    let quantization = checkpoint.config().common().quantization;
    quantization.map(|fp8| fp8.weight_block_size).ok_or_else(|| {
        let expected = "a dtype other than F8_E4M3, because config.json has no quantization_config";
        weight.error("dtype", expected, "F8_E4M3")
    })
}

/// The scale tensor of the FP8 weight `{prefix}.weight` of shape `[n, k]`, with its dtype and shape checked.
pub(crate) fn find<'a>(
    checkpoint: &'a Checkpoint,
    weight: &Stored<'_>,
    prefix: &str,
    [n, k]: [usize; 2],
) -> Result<(Stored<'a>, DType)> {
    let [block_rows, block_cols] = block_size(checkpoint, weight)?;
    let scale = SUFFIXES
        .iter()
        .find_map(|suffix| checkpoint.find(&format!("{prefix}.{suffix}")))
        .ok_or_else(|| {
            let expected = format!("`{prefix}.weight_scale_inv` or `{prefix}.scale` beside it");
            weight.error("scale", expected, "neither")
        })?;
    let shape = [n.div_ceil(block_rows), k.div_ceil(block_cols)];
    if scale.info.shape != shape {
        let expected = format!("{shape:?} for a weight of [{n}, {k}] in blocks of {block_rows}x{block_cols}");
        return Err(scale.error("shape", expected, format!("{:?}", scale.info.shape)));
    }
    match kernel_dtype(scale.info.dtype) {
        Some(dtype @ (DType::F32 | DType::BF16 | DType::F8E8M0)) => Ok((scale, dtype)),
        _ => Err(scale.error("dtype", "F32, BF16 or F8_E8M0", format!("{:?}", scale.info.dtype))),
    }
}

/// Reads a scale tensor that [`find`] found; `cols` is its row length, for the error.
pub(crate) fn read(scale: &Stored<'_>, dtype: DType, cols: usize, out: &mut [f32]) -> Result<()> {
    widen(dtype, scale.bytes(), out);
    scale.release(0..scale.info.size_bytes);
    match out.iter().position(|value| !(value.is_finite() && *value > 0.0)) {
        None => Ok(()),
        Some(at) => Err(bad_scale(scale, at, cols, out[at])),
    }
}

fn bad_scale(scale: &Stored<'_>, at: usize, cols: usize, value: f32) -> CheckpointError {
    let found = format!("{value} in block [{}, {}]", at / cols, at % cols);
    scale.error("scale", "positive finite numbers", found)
}
