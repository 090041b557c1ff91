//! Rotary position embedding: the angles of one step, shared by every layer that uses the same frequencies.

use crate::{DType, KernelError, Result, Tensor};

/// Which channels form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Channels `2j` and `2j + 1` (GPT-J style; MLA of V2, V3 and V4).
    Interleaved,
    /// Channels `j` and `j + d/2` (NeoX style; llama, qwen2, deepseek-moe and the V3.2 indexer).
    HalfSplit,
}

/// Cosine and sine for every token of a step: two `[T, rope_dim / 2]` `F32` tensors.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `cos(position * inv_freq) * attention_factor`.
    pub cos: Tensor,
    /// `sin(position * inv_freq) * attention_factor`.
    pub sin: Tensor,
}

impl RopeTable {
    /// The table for `positions` `[T]` (`U32`).
    ///
    /// `inv_freq` has one entry per rotated pair. The angle is the `f32` product, as in the reference
    /// implementation; `attention_factor` is YaRN's amplitude, 1 for all released checkpoints. The table lives where the
    /// positions do.
    pub fn new(positions: &Tensor, inv_freq: &[f32], attention_factor: f32) -> Result<Self> {
        Self::strided(positions, inv_freq, attention_factor, 1)
    }

    /// As [`RopeTable::new`], at positions rounded down to multiples of `stride`: the place of a compressed entry that
    /// stands for `stride` tokens.
    pub fn strided(positions: &Tensor, inv_freq: &[f32], attention_factor: f32, stride: u32) -> Result<Self> {
        let [tokens] = positions.dims("rope_table", "positions", "[T]")?;
        if inv_freq.is_empty() {
            return Err(KernelError::value("rope_table", "inv_freq", "at least one frequency", "none"));
        }
        if stride == 0 {
            return Err(KernelError::value("rope_table", "stride", "at least 1", stride));
        }
        positions.expect_dtype(DType::U32, "U32", "rope_table", "positions")?;
        #[cfg(feature = "cuda-host")]
        if positions.is_cuda() {
            return crate::cuda::rope::table(positions, inv_freq, attention_factor, stride);
        }
        let angles: Vec<f32> = positions
            .u32s("rope_table", "positions")?
            .iter()
            .flat_map(|&p| inv_freq.iter().map(move |f| (p - p % stride) as f32 * f))
            .collect();
        let shape = [tokens, inv_freq.len()];
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> =
                angles.iter().map(|&a| f(f64::from(a)) as f32 * attention_factor).collect();
            Tensor::from_f32(&positions.device(), &shape, &values)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Whether the two halves of the table agree in shape and device.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        if self.sin.shape() != self.cos.shape() {
            let expected = format!("cos's {:?}", self.cos.shape());
            return Err(KernelError::shape(op, "sin", expected, self.sin.shape()));
        }
        self.cos.expect_dtype(DType::F32, "F32", op, "cos")?;
        self.sin.expect_dtype(DType::F32, "F32", op, "sin")?;
        self.sin.expect_device(&self.cos.device(), op, "sin")
    }

    /// Cosines and sines of a table on the CPU.
    pub(crate) fn values(&self, op: &'static str) -> Result<(&[f32], &[f32])> {
        self.check(op)?;
        Ok((self.cos.f32s(op, "cos")?, self.sin.f32s(op, "sin")?))
    }
}
