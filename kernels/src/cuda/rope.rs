//! Launches of `cuda/rope.cu`.

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, RopeLayout, RopeTable, Tensor};

const STEM: &str = "rope";
/// Frequencies travel with the launch, in a struct of this size.
const MAX_FREQUENCIES: usize = 128;

/// The table of `positions` `[T]`, rounded down to multiples of `stride`, computed where they are.
pub(crate) fn table(
    positions: &Tensor,
    inv_freq: &[f32],
    attention_factor: f32,
    stride: u32,
) -> Result<RopeTable> {
    const OP: &str = "rope_table";
    let mut frequencies = [0.0_f32; MAX_FREQUENCIES];
    let Some(used) = frequencies.get_mut(..inv_freq.len()) else {
        let expected = format!("at most {MAX_FREQUENCIES} frequencies on a GPU");
        return Err(KernelError::value(OP, "inv_freq", expected, inv_freq.len()));
    };
    used.copy_from_slice(inv_freq);
    let (tokens, half) = (positions.len(), inv_freq.len());
    let output = || Tensor::output(&positions.device(), DType::F32, &[tokens, half]);
    let (mut cos, mut sin) = (output()?, output()?);
    if tokens > 0 {
        let launch =
            Launch { grid: [(tokens * half).div_ceil(128) as u32, 1, 1], threads: 128, shared_bytes: 0 };
        let args = Args::new().tensor(positions)?.output(&mut cos)?.output(&mut sin)?;
        let args = args.value(tokens as u32).value(half as u32).value(stride);
        let args = args.value(attention_factor).value(frequencies);
        positions.cuda(OP)?.launch(STEM, "rope_table", launch, args)?;
    }
    Ok(RopeTable { cos, sin })
}

/// Rotates `x` `[T, H, D]` (`F32`) in place.
pub(crate) fn rope_assign(
    x: &mut Tensor,
    offset: usize,
    table: &RopeTable,
    layout: RopeLayout,
) -> Result<()> {
    const OP: &str = "rope_assign";
    let [tokens, heads, dim] = x.dims(OP, "x", "[T, H, D]")?;
    let half = table.cos.dim(1);
    x.device_buffer_mut(OP, "x")?;
    if tokens * heads * half == 0 {
        return Ok(());
    }
    let device = x.cuda(OP)?.clone();
    let launch = Launch {
        grid: [tokens as u32, (heads * half).div_ceil(256) as u32, 1],
        threads: 256,
        shared_bytes: 0,
    };
    let args = Args::new().output(x)?.tensor(&table.cos)?.tensor(&table.sin)?;
    let args = args.value(heads as u32).value(dim as u32).value(offset as u32).value(half as u32);
    device.launch(STEM, "rope_assign", launch, args.value(u32::from(layout == RopeLayout::Interleaved)))
}
