//! Launches of `cuda/hyper_connection.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, Launch};
use crate::ops::HyperConfig;
use crate::{DType, KernelError, Result, Tensor};

const STEM: &str = "hyper_connection";
const THREADS: u32 = 256;
/// `kMaxStreams`.
const MAX_STREAMS: usize = 8;

/// `MapSizes` of `cuda/hyper_connection.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MapSizes {
    streams: u32,
    width: u32,
    maps: u32,
    iterations: u32,
    eps: f32,
    norm_eps: f32,
}

/// Columns of a token's rows by thread and `grid.y`.
fn columns(tokens: usize, dim: usize) -> Launch {
    let grid = [tokens as u32, (dim as u32).div_ceil(THREADS), 1];
    Launch { grid, threads: THREADS, shared_bytes: 0 }
}

fn f32s(op: &'static str, tensors: &[(&'static str, &Tensor)]) -> Result<()> {
    tensors.iter().try_for_each(|(arg, tensor)| tensor.expect_dtype(DType::F32, "F32", op, arg))
}

fn few(op: &'static str, streams: usize) -> Result<()> {
    if streams <= MAX_STREAMS {
        return Ok(());
    }
    Err(KernelError::value(op, "streams", format!("at most {MAX_STREAMS} on a GPU"), streams))
}

/// See [`crate::ops::hyper_maps`], which has checked the shapes.
pub(crate) fn hyper_maps(
    x: &Tensor,
    mixed: &Tensor,
    [scale, base]: [&Tensor; 2],
    config: &HyperConfig,
) -> Result<Tensor> {
    const OP: &str = "hyper_maps";
    few(OP, config.streams)?;
    f32s(OP, &[("x", x), ("mixed", mixed), ("scale", scale), ("base", base)])?;
    let mut out = Tensor::output(&x.device(), DType::F32, mixed.shape())?;
    if !out.is_empty() {
        let sizes = MapSizes {
            streams: config.streams as u32,
            width: (x.dim(1) * x.dim(2)) as u32,
            maps: mixed.dim(1) as u32,
            iterations: config.sinkhorn_iters as u32,
            eps: config.eps,
            norm_eps: config.norm_eps,
        };
        let args = Args::new().tensor(x)?.tensor(mixed)?.tensor(scale)?.tensor(base)?.output(&mut out)?;
        let launch = Launch { grid: [x.dim(0) as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
        x.cuda(OP)?.launch(STEM, "hyper_maps", launch, args.value(sizes))?;
    }
    Ok(out)
}

/// See [`crate::ops::hyper_collapse`].
pub(crate) fn hyper_collapse(x: &Tensor, maps: &Tensor) -> Result<Tensor> {
    const OP: &str = "hyper_collapse";
    f32s(OP, &[("x", x), ("maps", maps)])?;
    let [tokens, streams, dim] = x.dims(OP, "x", "[T, S, D]")?;
    let mut out = Tensor::output(&x.device(), DType::F32, &[tokens, dim])?;
    if !out.is_empty() {
        let args = Args::new().tensor(x)?.tensor(maps)?.output(&mut out)?.value(streams as u32);
        let args = args.value(dim as u32).value(maps.dim(1) as u32);
        x.cuda(OP)?.launch(STEM, "hyper_collapse", columns(tokens, dim), args)?;
    }
    Ok(out)
}

/// See [`crate::ops::hyper_expand`].
pub(crate) fn hyper_expand(x: &mut Tensor, y: &Tensor, maps: &Tensor) -> Result<()> {
    const OP: &str = "hyper_expand";
    f32s(OP, &[("x", x), ("y", y), ("maps", maps)])?;
    let [tokens, streams, dim] = x.dims(OP, "x", "[T, S, D]")?;
    few(OP, streams)?;
    x.device_buffer_mut(OP, "x")?;
    if x.is_empty() {
        return Ok(());
    }
    let device = x.cuda(OP)?.clone();
    let args = Args::new().output(x)?.tensor(y)?.tensor(maps)?.value(streams as u32).value(dim as u32);
    device.launch(STEM, "hyper_expand", columns(tokens, dim), args)
}

/// See [`crate::ops::hyper_spread`].
pub(crate) fn hyper_spread(x: &Tensor, streams: usize) -> Result<Tensor> {
    const OP: &str = "hyper_spread";
    f32s(OP, &[("x", x)])?;
    let [tokens, dim] = x.dims(OP, "x", "[T, D]")?;
    let mut out = Tensor::output(&x.device(), DType::F32, &[tokens, streams, dim])?;
    if !out.is_empty() {
        let args = Args::new().tensor(x)?.output(&mut out)?.value(streams as u32).value(dim as u32);
        x.cuda(OP)?.launch(STEM, "hyper_spread", columns(tokens, dim), args)?;
    }
    Ok(out)
}
