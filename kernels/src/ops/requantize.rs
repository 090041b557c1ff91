//! Weights re-quantised to INT8 when they are loaded, with the error that costs.
//!
//! Why: an A100 multiplies INT8 at twice the rate of bf16 and has no FP8 or FP4 arithmetic, so experts that came in
//! those forms can run on integer tensor cores once they are integers.

use crate::cpu::{self, AlignedBytes, Level};
use crate::{BlockScales, DType, Device, KernelError, Result, Tensor, Weight, WeightFormat};

const OP: &str = "requantize";

/// Which elements of an INT8 weight share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Int8Scales {
    /// The row of one out feature ("per channel"): the scale is applied once, after the whole dot product.
    #[default]
    PerRow,
    /// 128 x 128 elements: finer, and applied every 128 columns.
    PerBlock,
}

impl Int8Scales {
    /// Rows and columns under one scale of an `[N, k]` matrix.
    pub fn block(self, k: usize) -> [usize; 2] {
        match self {
            Self::PerRow => [1, k.max(1)],
            Self::PerBlock => [128, 128],
        }
    }
}

/// How far a re-quantised matrix is from what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuantError {
    /// Largest distance of an element from its original.
    pub max_abs: f32,
    /// Root mean square of the distances, relative to that of the elements; 0 for a zero matrix.
    pub relative_rms: f32,
    /// Largest distance in a row relative to the row's largest magnitude, worst row. An INT8 step is 1 / 127 of that
    /// magnitude, so rounding alone stays below 1 / 254.
    pub max_of_row: f32,
    /// Rows that are not represented exactly.
    pub inexact_rows: usize,
}

impl QuantError {
    /// Whether every element kept its value.
    pub fn is_lossless(&self) -> bool {
        self.inexact_rows == 0
    }
}

/// A stack of INT8 matrices that grows by one expert at a time, so that no more than one original is in memory.
#[derive(Debug)]
pub struct Int8Stack {
    shape: [usize; 3],
    block: [usize; 2],
    data: AlignedBytes,
    scales: AlignedBytes,
    filled: usize,
}

impl Int8Stack {
    /// Room for `shape` `[E, N, K]`.
    pub fn new(shape: [usize; 3], scales: Int8Scales) -> Self {
        let [e, n, k] = shape;
        let block = scales.block(k);
        let count = e * n.div_ceil(block[0]) * k.div_ceil(block[1]);
        let scales = AlignedBytes::zeroed(count * size_of::<f32>());
        Self { shape, block, data: AlignedBytes::zeroed(e * n * k), scales, filled: 0 }
    }

    /// Appends the experts of `weight` `[E', N, K]`, whatever form they are stored in; one error for each.
    ///
    /// Rounds to nearest, ties to even. The scale of a block is its largest magnitude over 127. Blocks of FP4 take the
    /// smallest power of two that keeps them within 127 instead: twice their values are integers up to 12 shifted by
    /// exponents, and as long as the exponents of a block lie within a factor of 8 all of them are kept exactly.
    ///
    /// # Errors
    /// Another `N` or `K`, more experts than there is room for, NaN or infinity.
    pub fn push(&mut self, weight: &Weight) -> Result<Vec<QuantError>> {
        let [e, n, k] = self.shape;
        let [count, rows, cols] = weight.shape();
        if [rows, cols] != [n, k] || count > e - self.filled {
            let expected = format!("[at most {}, {n}, {k}]", e - self.filled);
            return Err(KernelError::shape(OP, "weight", expected, &weight.shape()));
        }
        weight.data().expect_device(&Device::Cpu, OP, "weight")?;
        let rule = match weight.format() {
            WeightFormat::Fp4(_) => cpu::ScaleRule::PowerOfTwo,
            _ => cpu::ScaleRule::Largest,
        };
        let per_expert = self.scales.len() / e.max(1);
        let mut errors = Vec::with_capacity(count);
        for expert in 0..count {
            let slot = self.filled + expert;
            let data = bytemuck::cast_slice_mut(&mut self.data[slot * n * k..][..n * k]);
            let scales = bytemuck::cast_slice_mut(&mut self.scales[slot * per_expert..][..per_expert]);
            let error = cpu::requantize(Level::detect(), (weight, expert), self.block, rule, data, scales);
            if !error.relative_rms.is_finite() {
                return Err(KernelError::value(OP, "weight", "finite numbers", "NaN or infinity"));
            }
            errors.push(error);
        }
        self.filled += count;
        Ok(errors)
    }

    /// The finished weight `[E, N, K]`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if experts are missing.
    pub fn finish(self) -> Result<Weight> {
        let [e, n, k] = self.shape;
        if self.filled != e {
            return Err(KernelError::value(OP, "stack", format!("{e} experts"), self.filled));
        }
        let [block_rows, block_cols] = self.block;
        let shape = [e, n.div_ceil(block_rows), k.div_ceil(block_cols)];
        let scales = Tensor::from_bytes(&Device::Cpu, DType::F32, &shape, self.scales)?;
        let data = Tensor::from_bytes(&Device::Cpu, DType::I8, &self.shape, self.data)?;
        Weight::new(data, Some(BlockScales { scales, block_rows, block_cols }))
    }
}

/// `weight` in INT8, and the error of each of its experts. See [`Int8Stack::push`].
///
/// # Errors
/// NaN or infinity among the elements.
pub fn requantize_int8(weight: &Weight, scales: Int8Scales) -> Result<(Weight, Vec<QuantError>)> {
    let mut stack = Int8Stack::new(weight.shape(), scales);
    let errors = stack.push(weight)?;
    Ok((stack.finish()?, errors))
}
