//! [`ExpertFormat`]: whether routed experts stay as stored or become INT8 when they are loaded, and [`Int8Report`], the
//! error that costs.
//!
//! Experts are nearly all the bytes of a mixture-of-experts model. In INT8 they run on integer tensor cores, which an
//! A100 has, where it has none for FP8 and FP4.

use std::collections::BTreeMap;

use checkpoint::{Checkpoint, LoadProgress, Slice};
use kernels::ops::{Int8Scales, Int8Stack, QuantError, requantize_int8};
use kernels::{DType, Device, Weight, WeightFormat};

use crate::Result;

/// What becomes of the routed experts when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpertFormat {
    /// They stay as the checkpoint stored them.
    #[default]
    AsStored,
    /// INT8 with one scale per row, whatever they were.
    Int8,
    /// INT8 for the layers whose experts are stored in FP8 or FP4 and lose little by it
    /// ([`ExpertFormat::AUTO_RELATIVE_RMS`]); the others stay.
    Auto,
}

impl ExpertFormat {
    /// The largest `relative_rms` of an expert matrix that [`ExpertFormat::Auto`] accepts.
    ///
    /// Rounding to e4m3 moves a weight by 2.6 % (root mean square), so a checkpoint in FP8 is that far from what was
    /// trained. Half of it, added in squares, makes the whole error larger by an eighth at most. Rows without outliers
    /// stay below: rounding to 1 / 127 of the largest of 7168 normal values costs 0.9 %, and the matrices of this
    /// repository's fixtures and demo model measure 0.5 to 0.7 %.
    pub const AUTO_RELATIVE_RMS: f32 = 0.0125;

    /// What is right for `device` unless somebody wishes otherwise: INT8 is fast where there are tensor cores, and only a
    /// device that rounds its activations anyway may round weights unasked.
    pub fn default_for(device: &Device) -> Self {
        if device.activation_dtype() == DType::BF16 { Self::Auto } else { Self::AsStored }
    }

    /// Whether experts stored as `weight` may be re-quantised.
    fn considers(self, weight: &Weight) -> bool {
        match self {
            Self::AsStored => false,
            Self::Int8 => true,
            Self::Auto => matches!(weight.format(), WeightFormat::Fp8(_) | WeightFormat::Fp4(_)),
        }
    }

    /// Whether a matrix with `error` may be used.
    fn accepts(self, error: &QuantError) -> bool {
        self != Self::Auto || error.relative_rms <= Self::AUTO_RELATIVE_RMS
    }

    /// `stack` in INT8, or `None` if it stays as stored. One expert at a time is read and re-quantised, so that no more
    /// than one is in memory in both forms.
    ///
    /// A rank re-quantises its slices: columns that are split have a scale per rank, which is no coarser than one for
    /// the whole row.
    pub(crate) fn read_int8(
        self,
        checkpoint: &Checkpoint,
        stack: &ExpertStack,
    ) -> Result<Option<(Weight, Int8Report)>> {
        let mut errors = Vec::new();
        let mut int8 = None;
        for prefix in &stack.prefixes {
            if self == Self::AsStored {
                return Ok(None);
            }
            let prefix = std::slice::from_ref(prefix);
            let weight = checkpoint.stacked_weight_slice(prefix, stack.shape, &stack.slice)?;
            let shape = [stack.prefixes.len(), weight.rows(), weight.cols()];
            let int8 = int8.get_or_insert_with(|| Int8Stack::new(shape, Int8Scales::PerRow));
            if !self.considers(&weight) {
                return Ok(None);
            }
            for error in int8.push(&weight)? {
                if !self.accepts(&error) {
                    return Ok(None);
                }
                errors.push(error);
            }
        }
        let Some(int8) = int8 else { return Ok(None) };
        Ok(Some((int8.finish()?, Int8Report { name: stack.name.clone(), errors })))
    }
}

/// The matrices of one projection of all experts of a layer, and the part of each that a rank keeps.
pub(crate) struct ExpertStack {
    /// `{prefix}.experts.*.{projection}`.
    pub(crate) name: String,
    /// The prefix of each expert's matrix.
    pub(crate) prefixes: Vec<String>,
    /// Of a whole matrix.
    pub(crate) shape: [usize; 2],
    /// What is read of each.
    pub(crate) slice: Slice,
}

/// The error of re-quantising one stack of expert matrices to INT8.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Report {
    /// `{prefix}.experts.*.{projection}`.
    pub name: String,
    /// One for each expert.
    pub errors: Vec<QuantError>,
}

impl Int8Report {
    /// The largest of each figure over the experts, and all inexact rows.
    pub fn worst(&self) -> QuantError {
        self.errors.iter().fold(QuantError::default(), |worst, error| QuantError {
            max_abs: worst.max_abs.max(error.max_abs),
            relative_rms: worst.relative_rms.max(error.relative_rms),
            max_of_row: worst.max_of_row.max(error.max_of_row),
            inexact_rows: worst.inexact_rows + error.inexact_rows,
        })
    }

    /// Mean `relative_rms` over the experts.
    pub fn mean_relative_rms(&self) -> f32 {
        let sum: f64 = self.errors.iter().map(|e| f64::from(e.relative_rms)).sum();
        (sum / self.errors.len().max(1) as f64) as f32
    }

    /// Experts whose every element kept its value.
    pub fn lossless(&self) -> usize {
        self.errors.iter().filter(|e| e.is_lossless()).count()
    }
}

/// What INT8 with `scales` would cost each stack of routed experts of `checkpoint`, in the order of the layers. Reads
/// every expert once, one at a time.
///
/// # Errors
/// An expert that cannot be read.
pub fn int8_report(
    checkpoint: &Checkpoint,
    scales: Int8Scales,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<Int8Report>> {
    let mut stacks = BTreeMap::<_, Vec<(usize, &str)>>::new();
    for name in checkpoint.names() {
        if let Some((layer, expert, key)) = expert_matrix(name) {
            stacks.entry((layer, key)).or_default().push((expert, name));
        }
    }
    let sizes = stacks.values().flatten().filter_map(|(_, name)| checkpoint.info(name));
    let mut done = LoadProgress {
        tensors_total: stacks.values().map(Vec::len).sum(),
        bytes_total: sizes.map(|info| info.size_bytes as u64).sum(),
        ..LoadProgress::default()
    };
    let mut reports = Vec::new();
    for ((_, name), mut experts) in stacks {
        experts.sort_unstable();
        let mut errors = Vec::new();
        for (_, tensor) in experts {
            let Some(info) = checkpoint.info(tensor) else { continue };
            let Some([n, k]) = info.matrix() else { continue };
            let weight = checkpoint.weight(tensor.trim_end_matches(".weight"), [n, k])?;
            errors.extend(requantize_int8(&weight, scales)?.1);
            done.tensors_done += 1;
            done.bytes_done += info.size_bytes as u64;
            progress(done);
        }
        reports.push(Int8Report { name, errors });
    }
    Ok(reports)
}

/// Of `model.layers.3.mlp.experts.17.up_proj.weight`: layer 3, expert 17, `model.layers.3.mlp.experts.*.up_proj`.
pub(crate) fn expert_matrix(name: &str) -> Option<(usize, usize, String)> {
    let (prefix, rest) = name.strip_suffix(".weight")?.split_once(".experts.")?;
    let (expert, projection) = rest.split_once('.')?;
    let layer = prefix.split('.').find_map(|part| part.parse().ok())?;
    Some((layer, expert.parse().ok()?, format!("{prefix}.experts.*.{projection}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_expert_matrices() {
        let name = "model.layers.13.mlp.experts.7.up_proj.weight";
        let key = "model.layers.13.mlp.experts.*.up_proj".to_owned();
        assert_eq!(expert_matrix(name), Some((13, 7, key)));
        for other in [
            "model.layers.13.mlp.experts.7.up_proj.weight_scale_inv",
            "model.layers.13.mlp.shared_experts.up_proj.weight",
            "model.layers.13.mlp.gate.weight",
            "model.layers.13.mlp.experts.x.up_proj.weight",
        ] {
            assert_eq!(expert_matrix(other), None, "{other}");
        }
    }

    #[test]
    fn auto_takes_quantised_experts_that_lose_little() {
        let error = |relative_rms| QuantError { relative_rms, ..QuantError::default() };
        let limit = ExpertFormat::AUTO_RELATIVE_RMS;
        assert!(
            ExpertFormat::Auto.accepts(&error(limit)) && !ExpertFormat::Auto.accepts(&error(limit * 1.01))
        );
        assert!(ExpertFormat::Int8.accepts(&error(1.0)));
    }

    #[test]
    fn a_report_keeps_the_worst() {
        let error =
            |relative_rms, inexact_rows| QuantError { relative_rms, inexact_rows, ..QuantError::default() };
        let report =
            Int8Report { name: String::new(), errors: vec![error(0.25, 2), error(0.0, 0), error(0.5, 1)] };
        assert_eq!((report.worst().relative_rms, report.worst().inexact_rows), (0.5, 3));
        assert_eq!((report.mean_relative_rms(), report.lossless()), (0.25, 1));
    }
}
