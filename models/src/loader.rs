//! [`Loader`]: layers out of a checkpoint, with a record of everything that was read.
//!
//! The record is what makes "no silent ignoring" possible: whatever the checkpoint holds beyond it is reported.

use std::collections::HashSet;

use checkpoint::{Checkpoint, CommonConfig, LoadProgress};
use kernels::ops::Experts;
use kernels::{Device, Tensor, Weight};

use crate::layers::{Linear, Mlp, RmsNorm};
use crate::{ModelError, Result};

/// Reads tensors onto one device and remembers their names and sizes.
pub(crate) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    progress: &'a mut dyn FnMut(LoadProgress),
    read: HashSet<String>,
    done: LoadProgress,
    parameters: u64,
    bytes: usize,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        device: &'a Device,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Self {
        let sizes = checkpoint.names().filter_map(|name| checkpoint.info(name));
        let done = LoadProgress {
            tensors_total: checkpoint.names().count(),
            bytes_total: sizes.map(|info| info.size_bytes as u64).sum(),
            ..LoadProgress::default()
        };
        Self { checkpoint, device, progress, read: HashSet::new(), done, parameters: 0, bytes: 0 }
    }

    /// Whether the checkpoint has `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// `name` as `F32` of `shape`.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor_f32(name, shape)?;
        self.record(with_scales(name), &tensor.device(), tensor.len(), tensor.size_bytes())?;
        Ok(tensor)
    }

    /// `{prefix}.weight` `[n, k]` in its stored form.
    pub(crate) fn weight(&mut self, prefix: &str, shape: [usize; 2]) -> Result<Weight> {
        let weight = self.checkpoint.weight(prefix, shape)?;
        self.record_weight(&[prefix.to_owned()], &weight)?;
        Ok(weight)
    }

    /// `{prefix}.weight` `[n, k]`, and `{prefix}.bias` `[n]` if `bias`.
    pub(crate) fn linear(&mut self, prefix: &str, [n, k]: [usize; 2], bias: bool) -> Result<Linear> {
        let weight = self.weight(prefix, [n, k])?;
        let bias = if bias { Some(self.tensor(&format!("{prefix}.bias"), &[n])?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// The router matrix `{prefix}.weight` `[E, D]`, widened to `F32`.
    pub(crate) fn router(&mut self, prefix: &str, shape: [usize; 2]) -> Result<Weight> {
        Ok(Weight::new(self.tensor(&format!("{prefix}.weight"), &shape)?, None)?)
    }

    /// `{prefix}.weight` `[dim]` as a norm.
    pub(crate) fn norm(&mut self, prefix: &str, dim: usize, eps: f32) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: self.tensor(&format!("{prefix}.weight"), &[dim])?, eps })
    }

    /// A norm of the residual stream inside the layer at `prefix`.
    pub(crate) fn block_norm(&mut self, prefix: &str, name: &str, common: &CommonConfig) -> Result<RmsNorm> {
        self.norm(&format!("{prefix}.{name}"), common.hidden_size, common.rms_norm_eps)
    }

    /// The gated MLP at `prefix`, of width `inter`.
    pub(crate) fn mlp(&mut self, prefix: &str, dim: usize, inter: usize) -> Result<Mlp> {
        Ok(Mlp {
            gate: self.weight(&format!("{prefix}.gate_proj"), [inter, dim])?,
            up: self.weight(&format!("{prefix}.up_proj"), [inter, dim])?,
            down: self.weight(&format!("{prefix}.down_proj"), [dim, inter])?,
        })
    }

    /// The routed experts `{prefix}.experts.<e>`, stacked.
    pub(crate) fn experts(
        &mut self,
        prefix: &str,
        count: usize,
        dim: usize,
        inter: usize,
    ) -> Result<Experts> {
        let mut stack = |name: &str, shape: [usize; 2]| {
            let prefixes: Vec<String> = (0..count).map(|e| format!("{prefix}.experts.{e}.{name}")).collect();
            let weight = self.checkpoint.stacked_weight(&prefixes, shape)?;
            self.record_weight(&prefixes, &weight)?;
            Ok::<_, ModelError>(weight)
        };
        Ok(Experts {
            gate: stack("gate_proj", [inter, dim])?,
            up: stack("up_proj", [inter, dim])?,
            down: stack("down_proj", [dim, inter])?,
        })
    }

    /// A weight that a family knows and has no use for: a copy of one that it shares.
    pub(crate) fn skip_weight(&mut self, prefix: &str) {
        self.read.extend(with_scales(&format!("{prefix}.weight")));
    }

    /// Parameters read so far, scales not counted.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of the weights read so far, scales included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tensors of the checkpoint that nobody read, sorted. Rotary buffers, which the config determines, do not count.
    pub(crate) fn unknown_tensors(&self) -> Vec<String> {
        let names = self.checkpoint.names().filter(|name| !name.ends_with("rotary_emb.inv_freq"));
        let mut unknown: Vec<String> =
            names.filter(|name| !self.read.contains(*name)).map(str::to_owned).collect();
        unknown.sort();
        unknown
    }

    fn record_weight(&mut self, prefixes: &[String], weight: &Weight) -> Result<()> {
        let names = prefixes.iter().flat_map(|prefix| with_scales(&format!("{prefix}.weight"))).collect();
        self.record(names, &weight.device(), weight.len(), weight.size_bytes())
    }

    fn record(&mut self, names: Vec<String>, found: &Device, parameters: usize, bytes: usize) -> Result<()> {
        if found != self.device {
            let (expected, found) = (self.device.clone(), found.clone());
            return Err(ModelError::Device { what: names.join(", "), expected, found });
        }
        self.parameters += parameters as u64;
        self.bytes += bytes;
        for info in names.iter().filter_map(|name| self.checkpoint.info(name)) {
            self.done.tensors_done += 1;
            self.done.bytes_done += info.size_bytes as u64;
        }
        self.read.extend(names);
        (self.progress)(self.done);
        Ok(())
    }
}

/// A tensor and the scales it has if it is quantised, under either of their names.
fn with_scales(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    vec![name.to_owned(), format!("{stem}.weight_scale_inv"), format!("{stem}.scale")]
}
