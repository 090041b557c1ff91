//! Hyper-connections (V4's residual): `S` streams in place of one, mixed by maps that are computed from them.
//!
//! A sublayer reads a weighted sum of the streams ([`hyper_collapse`]) and its output is added to each while the
//! streams are mixed among themselves ([`hyper_expand`]). The weights are maps of the token's own streams: a matrix over
//! all of them (an ordinary `linear`), whose result [`hyper_maps`] scales, squashes and, for the mixing, makes
//! doubly stochastic by Sinkhorn's iterations (mHC; DeepSeek's V4 `inference/model.py`).

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor};

/// What all maps of a model share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HyperConfig {
    /// Streams `S`, `hc_mult`.
    pub streams: usize,
    /// Normalisations of the mixing matrix, `hc_sinkhorn_iters`.
    pub sinkhorn_iters: usize,
    /// Added to weights and sums, `hc_eps`.
    pub eps: f32,
    /// Added to the mean square of the streams, `rms_norm_eps`.
    pub norm_eps: f32,
}

impl HyperConfig {
    /// Maps of one token around a sublayer: `S` to read, `S` to write, `S * S` to mix.
    pub fn maps(&self) -> usize {
        self.streams * (2 + self.streams)
    }
}

/// The maps of every token, `F32` `[T, M]`: around a sublayer `M = S (2 + S)`, which are `pre | post | mix` with `mix[j, k]`
/// from stream `j` to stream `k`; before the head `M = S`, only `pre`.
///
/// `x` `[T, S, D]` are the streams, `mixed` `[T, M]` is the maps' matrix times the token's `S * D` values, `base` `[M]` and
/// `scale` (three numbers, one for the head) are the checkpoint's; all `F32`. With `m = mixed / rms(x)`: `pre =
/// sigmoid(m scale0 + base) + eps`, `post = 2 sigmoid(m scale1 + base)`, and `mix` is the softmax of each row of `m scale2 +
/// base`, plus `eps`, its columns divided by their sums, then its rows and columns by turns.
pub fn hyper_maps(
    x: &Tensor,
    mixed: &Tensor,
    scale: &Tensor,
    base: &Tensor,
    config: &HyperConfig,
) -> Result<Tensor> {
    const OP: &str = "hyper_maps";
    let [tokens, streams, _] = x.dims(OP, "x", "[T, S, D]")?;
    if streams != config.streams || streams == 0 {
        return Err(KernelError::shape(OP, "x", format!("[T, {}, D]", config.streams), x.shape()));
    }
    let [rows, maps] = mixed.dims(OP, "mixed", "[T, M]")?;
    let scales = if maps == streams { 1 } else { 3 };
    if rows != tokens || (maps != streams && maps != config.maps()) {
        let expected = format!("[{tokens}, {} or {streams}]", config.maps());
        return Err(KernelError::shape(OP, "mixed", expected, mixed.shape()));
    }
    for (arg, tensor, len) in [("scale", scale, scales), ("base", base, maps)] {
        if tensor.shape() != [len] {
            return Err(KernelError::shape(OP, arg, format!("[{len}]"), tensor.shape()));
        }
    }
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::hyper_connection::hyper_maps(x, mixed, [scale, base], config);
    }
    let (x, mixed) = (x.f32s(OP, "x")?, mixed.f32s(OP, "mixed")?);
    let parameters = (scale.f32s(OP, "scale")?, base.f32s(OP, "base")?);
    let mut out = Tensor::output(&scale.device(), DType::F32, &[tokens, maps])?;
    cpu::hyper_maps(Level::detect(), x, mixed, parameters, config, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// `sum_j pre[j] x[j]`: the streams `x` `[T, S, D]` as one row `[T, D]`, with the first `S` of `maps` `[T, M]`.
pub fn hyper_collapse(x: &Tensor, maps: &Tensor) -> Result<Tensor> {
    const OP: &str = "hyper_collapse";
    let [tokens, streams, dim] = x.dims(OP, "x", "[T, S, D]")?;
    let [rows, width] = maps.dims(OP, "maps", "[T, M]")?;
    if rows != tokens || width < streams {
        let expected = format!("[{tokens}, at least {streams}]");
        return Err(KernelError::shape(OP, "maps", expected, maps.shape()));
    }
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::hyper_connection::hyper_collapse(x, maps);
    }
    let (values, weights) = (x.f32s(OP, "x")?, maps.f32s(OP, "maps")?);
    let mut out = Tensor::output(&x.device(), DType::F32, &[tokens, dim])?;
    let sizes = [streams, dim, width];
    cpu::hyper_collapse(Level::detect(), values, weights, sizes, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// `x[k] = post[k] y + sum_j mix[j, k] x[j]`: the streams `x` `[T, S, D]` after a sublayer that said `y` `[T, D]`, in place.
pub fn hyper_expand(x: &mut Tensor, y: &Tensor, maps: &Tensor) -> Result<()> {
    const OP: &str = "hyper_expand";
    let [tokens, streams, dim] = x.dims(OP, "x", "[T, S, D]")?;
    if y.shape() != [tokens, dim] {
        return Err(KernelError::shape(OP, "y", format!("[{tokens}, {dim}]"), y.shape()));
    }
    let width = streams * (2 + streams);
    if maps.shape() != [tokens, width] {
        return Err(KernelError::shape(OP, "maps", format!("[{tokens}, {width}]"), maps.shape()));
    }
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::hyper_connection::hyper_expand(x, y, maps);
    }
    let (y, maps) = (y.f32s(OP, "y")?, maps.f32s(OP, "maps")?);
    cpu::hyper_expand(Level::detect(), x.f32s_mut(OP, "x")?, y, maps, [streams, dim]);
    Ok(())
}

/// Every row of `x` `[T, D]` as `streams` equal streams `[T, S, D]`: where the residual begins.
pub fn hyper_spread(x: &Tensor, streams: usize) -> Result<Tensor> {
    const OP: &str = "hyper_spread";
    let [tokens, dim] = x.dims(OP, "x", "[T, D]")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::hyper_connection::hyper_spread(x, streams);
    }
    let values = x.f32s(OP, "x")?;
    let mut out = Tensor::output(&x.device(), DType::F32, &[tokens, streams, dim])?;
    let target = out.f32s_mut(OP, "out")?;
    for (row, to) in values.chunks_exact(dim.max(1)).zip(target.chunks_exact_mut((streams * dim).max(1))) {
        to.chunks_exact_mut(dim).for_each(|stream| stream.copy_from_slice(row));
    }
    Ok(out)
}
