//! [`HyperConnection`]: the maps of a site where a sublayer, or the head, reads a residual of several streams (mHC; V4).

use kernels::ops::{self, HyperConfig};
use kernels::{Tensor, Weight};

use crate::Result;

/// Maps of the streams around one sublayer, or before the head.
#[derive(Debug)]
pub struct HyperConnection {
    /// `hc_*_fn` `[M, S * D]`, `F32`: `M` is `S (2 + S)` around a sublayer, `S` before the head.
    pub matrix: Weight,
    /// `hc_*_scale`, `F32`: three numbers, one before the head.
    pub scale: Tensor,
    /// `hc_*_base` `[M]`, `F32`.
    pub base: Tensor,
    /// What all maps of the model share.
    pub config: HyperConfig,
}

impl HyperConnection {
    /// The maps `[T, M]` of the streams `[T, S, D]`, as [`ops::hyper_maps`] lays them out.
    pub fn maps(&self, streams: &Tensor) -> Result<Tensor> {
        let flat = streams.clone().reshape(&[streams.dim(0), streams.dim(1) * streams.dim(2)])?;
        let mixed = ops::linear(&flat, &self.matrix, None)?;
        Ok(ops::hyper_maps(streams, &mixed, &self.scale, &self.base, &self.config)?)
    }

    /// What the head reads, `[R, D]`, of streams that lie side by side, `[R, S * D]`.
    pub fn read_flat(&self, streams: &Tensor) -> Result<Tensor> {
        let (rows, count) = (streams.dim(0), self.config.streams);
        Ok(self.read(&streams.clone().reshape(&[rows, count, streams.dim(1) / count])?)?.0)
    }

    /// What a sublayer reads, `[T, D]`, and the maps with which its output goes back.
    pub fn read(&self, streams: &Tensor) -> Result<(Tensor, Tensor)> {
        let maps = self.maps(streams)?;
        Ok((ops::hyper_collapse(streams, &maps)?, maps))
    }
}
