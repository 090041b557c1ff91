//! Launches of `cuda/elementwise.cu`.

use std::borrow::Cow;

use crate::cuda::{Args, Launch};
use crate::{DType, Result, Tensor};

const STEM: &str = "elementwise";
const THREADS: u32 = 256;

/// One thread per element.
fn flat(elements: usize) -> Launch {
    Launch { grid: [elements.div_ceil(THREADS as usize) as u32, 1, 1], threads: THREADS, shared_bytes: 0 }
}

/// `x += y`, `F32`.
pub(crate) fn add_assign(x: &mut Tensor, y: &Tensor) -> Result<()> {
    let n = x.len();
    if n == 0 {
        return Ok(());
    }
    let device = x.cuda("add_assign")?.clone();
    let args = Args::new().output(x)?.tensor(y)?.value(n as u64);
    device.launch(STEM, "add_assign_f32", flat(n), args)
}

/// `x` in the device's activation dtype; `F32` is cast where that is `BF16`.
pub(crate) fn activations<'a>(x: &'a Tensor) -> Result<Cow<'a, Tensor>> {
    let device = x.cuda("cast")?;
    if x.dtype() == device.activation_dtype() || x.dtype() != DType::F32 {
        return Ok(Cow::Borrowed(x));
    }
    let mut out = Tensor::output(&x.device(), DType::BF16, x.shape())?;
    if !x.is_empty() {
        let args = Args::new().tensor(x)?.output(&mut out)?.value(x.len() as u64);
        device.launch(STEM, "cast_f32_bf16", flat(x.len()), args)?;
    }
    Ok(Cow::Owned(out))
}
