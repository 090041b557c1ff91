//! [`Weight`]: a matrix of a linear layer, or a stack of them for the experts, in the form the checkpoint stored.
//!
//! Weights stay packed in memory; the matmul decodes them on the way into registers, so each weight byte is read
//! once per step. [`WeightFormat`] says how an element is stored, and is the only place that does.

use crate::dtype::e2m1_to_f32;
use crate::unblock::unblocked;
use crate::{DType, Device, GgmlType, KernelError, Result, Tensor, reference};

const OP: &str = "weight";

/// Scales of a block-quantised weight: element `(n, k)` is multiplied by `scale[n / block_rows, k / block_cols]`.
///
/// The last block of a row or column may be partial, so the scale matrix has `ceil(N / block_rows)` by
/// `ceil(K / block_cols)` entries per expert. One scale per row ("per channel") is a block of 1 x K.
#[derive(Debug, Clone)]
pub struct BlockScales {
    /// `[E, ceil(N / block_rows), ceil(K / block_cols)]`, `F32`.
    pub scales: Tensor,
    /// Rows of one block.
    pub block_rows: usize,
    /// Columns of one block.
    pub block_cols: usize,
}

/// Scales and zero points of a group-quantised weight: code `q` of element `(n, k)` is worth
/// `(q - zero[n, k / group]) * scale[n, k / group]`. The last group of a row may be partial.
#[derive(Debug, Clone)]
pub struct GroupScales {
    /// `[E, N, ceil(K / group)]`, `BF16` or `F32`.
    pub scales: Tensor,
    /// `[E, N, ceil(K / group)]`, `U8`; 8 everywhere for symmetric weights.
    pub zeros: Tensor,
    /// Columns of one group: 32, 64 or 128.
    pub group: usize,
}

/// How the elements of a [`Weight`] are stored.
///
/// The 4-bit forms hold column `2j` in the low half of byte `j` and column `2j + 1` in the high half, so `K` is even.
#[derive(Debug, Clone)]
pub enum WeightFormat {
    /// `F32`, `F16` or `BF16` `[E, N, K]`.
    Float,
    /// `F8_E4M3` `[E, N, K]` with one scale per block.
    Fp8(BlockScales),
    /// e2m1 codes `U8` `[E, N, K / 2]`, and for each 32 columns of a row an exponent `F8_E8M0`
    /// `[E, N, ceil(K / 32)]` (OCP MXFP4).
    Fp4(Tensor),
    /// `I8` `[E, N, K]` with one scale per block.
    Int8(BlockScales),
    /// Unsigned codes `U8` `[E, N, K / 2]` with one scale and zero point per group.
    Int4(GroupScales),
    /// Blocks of ggml, `U8` `[E, N, bytes of a row]`; a row is whole blocks. Only on the CPU: [`Weight::to_device`]
    /// decodes them for a GPU.
    Ggml(GgmlType),
}

impl WeightFormat {
    /// Columns under one exponent of [`WeightFormat::Fp4`].
    pub const FP4_GROUP: usize = 32;

    /// Columns in a row of `stored` elements of the data tensor.
    pub const fn columns(&self, stored: usize) -> usize {
        match self {
            Self::Float | Self::Fp8(_) | Self::Int8(_) => stored,
            Self::Fp4(_) | Self::Int4(_) => 2 * stored,
            Self::Ggml(kind) => stored / kind.block_bytes() * kind.block_len(),
        }
    }

    /// The same format over other tensors, each made by `map` from one of these: scales, then zero points.
    pub fn try_map<E>(
        &self,
        mut map: impl FnMut(&Tensor) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        let mut blocks = |b: &BlockScales| Ok(BlockScales { scales: map(&b.scales)?, ..*b });
        Ok(match self {
            Self::Float => Self::Float,
            Self::Ggml(kind) => Self::Ggml(*kind),
            Self::Fp8(b) => Self::Fp8(blocks(b)?),
            Self::Int8(b) => Self::Int8(blocks(b)?),
            Self::Fp4(exponents) => Self::Fp4(map(exponents)?),
            Self::Int4(g) => {
                Self::Int4(GroupScales { scales: map(&g.scales)?, zeros: map(&g.zeros)?, group: g.group })
            }
        })
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Float | Self::Ggml(_) => 0,
            Self::Fp8(b) | Self::Int8(b) => b.scales.size_bytes(),
            Self::Fp4(exponents) => exponents.size_bytes(),
            Self::Int4(g) => g.scales.size_bytes() + g.zeros.size_bytes(),
        }
    }

    /// Checks the dtype of `data` and everything about the scales of an `[e, n, k]` weight.
    fn check(&self, data: &Tensor, [e, n, k]: [usize; 3]) -> Result<()> {
        match self {
            Self::Float => expect(data, "data", &[DType::F32, DType::F16, DType::BF16], "F32, F16 or BF16"),
            Self::Fp8(blocks) => {
                expect(data, "data", &[DType::F8E4M3], "F8_E4M3")?;
                blocks.check([e, n, k])
            }
            Self::Int8(blocks) => {
                expect(data, "data", &[DType::I8], "I8")?;
                blocks.check([e, n, k])
            }
            Self::Fp4(exponents) => {
                expect(data, "data", &[DType::U8], "U8")?;
                expect(exponents, "scales", &[DType::F8E8M0], "F8_E8M0")?;
                expect_shape(exponents, "scales", [e, n, k.div_ceil(Self::FP4_GROUP)])
            }
            Self::Int4(groups) => {
                expect(data, "data", &[DType::U8], "U8")?;
                groups.check([e, n, k])
            }
            Self::Ggml(kind) => {
                expect(data, "data", &[DType::U8], "U8")?;
                if kind.row_bytes(k) == data.shape().last().copied() {
                    return Ok(());
                }
                let expected = format!("rows of whole blocks of {} bytes", kind.block_bytes());
                Err(KernelError::shape(OP, "data", expected, data.shape()))
            }
        }
    }
}

impl BlockScales {
    fn check(&self, [e, n, k]: [usize; 3]) -> Result<()> {
        if self.block_rows == 0 || self.block_cols == 0 {
            let found = format!("{}x{}", self.block_rows, self.block_cols);
            return Err(KernelError::value(OP, "block size", "at least 1x1", found));
        }
        expect_shape(&self.scales, "scales", [e, n.div_ceil(self.block_rows), k.div_ceil(self.block_cols)])?;
        expect(&self.scales, "scales", &[DType::F32], "F32")
    }
}

impl GroupScales {
    fn check(&self, [e, n, k]: [usize; 3]) -> Result<()> {
        if ![32, 64, 128].contains(&self.group) {
            return Err(KernelError::value(OP, "group", "32, 64 or 128", self.group));
        }
        expect(&self.scales, "scales", &[DType::F32, DType::BF16], "F32 or BF16")?;
        expect(&self.zeros, "zeros", &[DType::U8], "U8")?;
        expect_shape(&self.scales, "scales", [e, n, k.div_ceil(self.group)])?;
        expect_shape(&self.zeros, "zeros", [e, n, k.div_ceil(self.group)])
    }
}

fn expect(tensor: &Tensor, arg: &'static str, among: &[DType], expected: &'static str) -> Result<()> {
    if among.contains(&tensor.dtype()) {
        return Ok(());
    }
    Err(KernelError::DType { op: OP, arg, expected, found: tensor.dtype() })
}

fn expect_shape(tensor: &Tensor, arg: &'static str, shape: [usize; 3]) -> Result<()> {
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(KernelError::shape(OP, arg, format!("{shape:?}"), tensor.shape()))
}

/// `E` matrices `[N, K]` (out features, in features); `E` is 1 for an ordinary linear layer.
#[derive(Debug, Clone)]
pub struct Weight {
    data: Tensor,
    format: WeightFormat,
}

impl Weight {
    /// A weight from `data` `[N, K]` or `[E, N, K]` in `F32`, `F16`, `BF16` (without scales), `F8_E4M3` or `I8` (with).
    ///
    /// # Errors
    /// A rank, dtype or scale shape that does not fit.
    pub fn new(data: Tensor, scales: Option<BlockScales>) -> Result<Self> {
        let format = match (data.dtype(), scales) {
            (DType::F8E4M3, Some(scales)) => WeightFormat::Fp8(scales),
            (DType::I8, Some(scales)) => WeightFormat::Int8(scales),
            (DType::F8E4M3 | DType::I8, None) => {
                return Err(KernelError::value(OP, "scales", format!("scales for {}", data.dtype()), "none"));
            }
            (DType::F32 | DType::F16 | DType::BF16, None) => WeightFormat::Float,
            (DType::F32 | DType::F16 | DType::BF16, Some(_)) => {
                return Err(KernelError::value(OP, "scales", "none for this dtype", data.dtype()));
            }
            (found, _) => {
                let expected = "F32, F16, BF16, F8_E4M3 or I8";
                return Err(KernelError::DType { op: OP, arg: "data", expected, found });
            }
        };
        Self::with_format(data, format)
    }

    /// A weight from `data` `[N, stored K]` or `[E, N, stored K]` in `format`.
    ///
    /// # Errors
    /// A rank, dtype or scale shape that does not fit.
    pub fn with_format(data: Tensor, format: WeightFormat) -> Result<Self> {
        let [e, n, stored] = match *data.shape() {
            [n, k] => [1, n, k],
            [e, n, k] => [e, n, k],
            _ => return Err(KernelError::shape(OP, "data", "[N, K] or [E, N, K]", data.shape())),
        };
        format.check(&data, [e, n, format.columns(stored)])?;
        Ok(Self { data: data.reshape(&[e, n, stored])?, format })
    }

    /// `[E, N, K]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.num_experts(), self.rows(), self.cols()]
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
        self.format.columns(self.data.dim(2))
    }

    /// Number of elements `E * N * K`.
    pub fn len(&self) -> usize {
        self.num_experts() * self.rows() * self.cols()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Dtype of the stored elements; of the 4-bit forms and of ggml's that is `U8`.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The stored elements `[E, N, stored K]`.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// How the elements are stored.
    pub fn format(&self) -> &WeightFormat {
        &self.format
    }

    /// The block scales of an FP8 or INT8 weight.
    pub fn scales(&self) -> Option<&BlockScales> {
        match &self.format {
            WeightFormat::Fp8(scales) | WeightFormat::Int8(scales) => Some(scales),
            _ => None,
        }
    }

    /// Bytes resident, scales included.
    pub fn size_bytes(&self) -> usize {
        self.data.size_bytes() + self.format.size_bytes()
    }

    /// Where the weight lives.
    pub fn device(&self) -> Device {
        self.data.device()
    }

    /// The same weight on `device`. Blocks of ggml become FP4 or floats of the dtype that a GPU multiplies in.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if let (WeightFormat::Ggml(kind), false) = (&self.format, matches!(device, Device::Cpu)) {
            return unblocked(*kind, &self.data, device.activation_dtype())?.to_device(device);
        }
        let format = self.format.try_map(|tensor| tensor.to_device(device))?;
        Ok(Self { data: self.data.to_device(device)?, format })
    }

    /// All elements `[E * N * K]` decoded to `f32` on the host. For references and tests.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let [_, n, k] = self.shape();
        match &self.format {
            WeightFormat::Float => self.data.to_vec_f32(),
            WeightFormat::Ggml(kind) => reference::decode_ggml(*kind, self.data.bytes()),
            WeightFormat::Fp8(b) | WeightFormat::Int8(b) => {
                let (scales, rows, cols) = (b.scales.to_vec_f32(), b.scales.dim(1), b.scales.dim(2));
                let mut values = self.data.to_vec_f32();
                for (index, value) in values.iter_mut().enumerate() {
                    let (expert, row, col) = (index / (n * k), index / k % n, index % k);
                    *value *= scales[(expert * rows + row / b.block_rows) * cols + col / b.block_cols];
                }
                values
            }
            WeightFormat::Fp4(exponents) => {
                let exponents = exponents.to_vec_f32();
                self.decode_nibbles(WeightFormat::FP4_GROUP, |code, group| {
                    e2m1_to_f32(code) * exponents[group]
                })
            }
            WeightFormat::Int4(g) => {
                let (scales, zeros) = (g.scales.to_vec_f32(), g.zeros.to_vec_f32());
                self.decode_nibbles(g.group, |code, group| (f32::from(code) - zeros[group]) * scales[group])
            }
        }
    }

    /// `decode(code, group)` of every 4-bit element; groups of `width` columns are counted through all rows.
    fn decode_nibbles(&self, width: usize, decode: impl Fn(u8, usize) -> f32) -> Vec<f32> {
        let (k, codes) = (self.cols(), self.data.to_vec_f32());
        let element = |index: usize| {
            // A byte is exact in f32. Low half first; K is even, so a row starts with a low half.
            let byte = codes[index / 2] as u8;
            let code = if index.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
            decode(code, index / k * k.div_ceil(width) + index % k / width)
        };
        (0..self.len()).map(element).collect()
    }
}
