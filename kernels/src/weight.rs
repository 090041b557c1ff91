//! [`Weight`]: a matrix of a linear layer, or a stack of them for the experts, in the form the checkpoint stored.
//!
//! Weights stay packed in memory; the matmul decodes them on the way into registers, so each weight byte is read
//! once per step.

use crate::{DType, Device, KernelError, Result, Tensor};

/// Scales of a block-quantised weight: element `(n, k)` is multiplied by `scale[n / block_rows, k / block_cols]`.
///
/// The last block of a row or column may be partial, so the scale matrix has `ceil(N / block_rows)` by
/// `ceil(K / block_cols)` entries per expert.
#[derive(Debug, Clone)]
pub struct BlockScales {
    /// `[E, ceil(N / block_rows), ceil(K / block_cols)]`, `F32`.
    pub scales: Tensor,
    /// Rows of one block.
    pub block_rows: usize,
    /// Columns of one block.
    pub block_cols: usize,
}

/// `E` matrices `[N, K]` (out features, in features); `E` is 1 for an ordinary linear layer.
#[derive(Debug, Clone)]
pub struct Weight {
    data: Tensor,
    scales: Option<BlockScales>,
}

impl Weight {
    /// A weight from `data` `[N, K]` or `[E, N, K]` in `F32`, `F16`, `BF16` (without scales) or `F8_E4M3` (with).
    ///
    /// # Errors
    /// A rank, dtype or scale shape that does not fit.
    pub fn new(data: Tensor, scales: Option<BlockScales>) -> Result<Self> {
        const OP: &str = "weight";
        let shape = match *data.shape() {
            [n, k] => [1, n, k],
            [e, n, k] => [e, n, k],
            _ => return Err(KernelError::shape(OP, "data", "[N, K] or [E, N, K]", data.shape())),
        };
        let needs_scales = match data.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => false,
            DType::F8E4M3 => true,
            found => {
                let expected = "F32, F16, BF16 or F8_E4M3";
                return Err(KernelError::DType { op: OP, arg: "data", expected, found });
            }
        };
        match &scales {
            Some(s) if needs_scales => {
                let [e, n, k] = shape;
                if s.block_rows == 0 || s.block_cols == 0 {
                    let found = format!("{}x{}", s.block_rows, s.block_cols);
                    return Err(KernelError::value(OP, "block size", "at least 1x1", found));
                }
                let expected = [e, n.div_ceil(s.block_rows), k.div_ceil(s.block_cols)];
                if s.scales.shape() != expected {
                    return Err(KernelError::shape(OP, "scales", format!("{expected:?}"), s.scales.shape()));
                }
                s.scales.expect_dtype(DType::F32, "F32", OP, "scales")?;
            }
            None if !needs_scales => {}
            Some(_) => return Err(KernelError::value(OP, "scales", "none for this dtype", data.dtype())),
            None => return Err(KernelError::value(OP, "scales", "block scales for F8_E4M3", "none")),
        }
        Ok(Self { data: data.reshape(&shape)?, scales })
    }

    /// Number of stacked matrices `E`.
    pub fn num_experts(&self) -> usize {
        self.data.dim(0)
    }

    /// Out features `N`.
    pub fn rows(&self) -> usize {
        self.data.dim(1)
    }

    /// In features `K`.
    pub fn cols(&self) -> usize {
        self.data.dim(2)
    }

    /// Stored element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The packed elements `[E, N, K]`.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// The block scales of a quantised weight.
    pub fn scales(&self) -> Option<&BlockScales> {
        self.scales.as_ref()
    }

    /// Bytes resident, scales included.
    pub fn size_bytes(&self) -> usize {
        self.data.size_bytes() + self.scales.as_ref().map_or(0, |s| s.scales.size_bytes())
    }

    /// Where the weight lives.
    pub fn device(&self) -> Device {
        self.data.device()
    }

    /// The same weight on `device`.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let scales = match &self.scales {
            Some(s) => Some(BlockScales { scales: s.scales.to_device(device)?, ..s.clone() }),
            None => None,
        };
        Ok(Self { data: self.data.to_device(device)?, scales })
    }

    /// All elements `[E * N * K]` decoded to `f32` on the host. For references and tests.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let mut values = self.data.to_vec_f32();
        if let Some(s) = &self.scales {
            let (n, k) = (self.rows(), self.cols());
            let (scales, [_, rows, cols]) = (s.scales.to_vec_f32(), [0, s.scales.dim(1), s.scales.dim(2)]);
            for (index, value) in values.iter_mut().enumerate() {
                let (expert, row, col) = (index / (n * k), index / k % n, index % k);
                *value *= scales[(expert * rows + row / s.block_rows) * cols + col / s.block_cols];
            }
        }
        values
    }
}
