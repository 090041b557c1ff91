//! Block scales of FP8 weights: where they are stored, which shape they must have, which values are sound.

use kernels::DType;
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, Stored};
use crate::slice::Window;
use crate::values::{kernel_dtype, widen};
use crate::{Result, fp4};

/// V3 multiplies by `weight_scale_inv`, despite the name; later releases call the same thing `scale`.
const SUFFIXES: [&str; 2] = ["weight_scale_inv", "scale"];

/// Checks what headers tell about every FP8 and FP4 weight, so that a missing scale shows before gigabytes are read.
pub(crate) fn check_all(checkpoint: &Checkpoint) -> Result<()> {
    for name in checkpoint.names() {
        let stored = checkpoint.stored(name)?;
        if let (Dtype::I8, Some(prefix)) = (stored.info.dtype, name.strip_suffix(".weight")) {
            fp4::check(checkpoint, &stored, prefix)?;
        }
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

/// Reads the part `window` of a scale tensor that [`find`] found.
pub(crate) fn read(
    checkpoint: &Checkpoint,
    scale: &Stored<'_>,
    dtype: DType,
    window: &Window,
) -> Result<Vec<f32>> {
    let (mut values, size) = (vec![0.0; window.len()], dtype.size());
    let mut rest = values.as_mut_slice();
    for run in window.runs(0..window.len()) {
        let (out, after) = std::mem::take(&mut rest).split_at_mut(run.len());
        widen(dtype, &scale.bytes()[run.start * size..run.end * size], out);
        scale.release(run.start * size..run.end * size);
        rest = after;
    }
    checkpoint.count_read(window.len() * size);
    match values.iter().position(|value| !(value.is_finite() && *value > 0.0)) {
        None => Ok(values),
        Some(at) => {
            let cols = window.cols.len();
            let (row, col) = (window.rows.start + at / cols, window.cols.start + at % cols);
            let found = format!("{} in block [{row}, {col}]", values[at]);
            Err(scale.error("scale", "positive finite numbers", found))
        }
    }
}
