//! From stored bytes to kernel tensors: one copy of the wanted part into aligned memory, in parallel for large tensors,
//! with the mapped pages released behind it.

use std::ops::Range;

use kernels::cpu::{AlignedBytes, decode_ggml};
use kernels::{BlockScales, DType, Device, GgmlType, KernelError, Tensor, Weight, WeightFormat};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, Layout, Stored};
use crate::slice::{Slice, Window};
use crate::values::{first_non_finite, kernel_dtype, widen};
use crate::{CheckpointError, Result, fp4, scale};

/// Elements that one thread copies at a time: large enough to hide the scheduling, small enough that the mapped pages
/// in flight stay a few megabytes per core.
const CHUNK: usize = 1 << 20;

impl Checkpoint {
    /// A float tensor of exactly `shape`, widened to `F32`: norms, biases, gate weights. An FP8 matrix is multiplied
    /// by its block scales, one in blocks of ggml is decoded.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a missing tensor, another shape, a dtype that is no float, NaN or infinity.
    pub fn tensor_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.stored(name)?;
        stored.expect_shape(shape)?;
        let is_packed = stored.info.dtype == Dtype::F8_E4M3 || stored.info.blocks.is_some();
        if let (true, Some(prefix), &[n, k]) = (is_packed, name.strip_suffix(".weight"), shape) {
            let values = self.weight(prefix, [n, k])?.to_vec_f32();
            return Tensor::from_f32(&Device::Cpu, shape, &values).map_err(kernel_error(name));
        }
        let len = shape.iter().product();
        self.widened(&stored, &Window::flat(0..len).ordered(stored.row_order()), shape)
    }

    /// Elements `range` of the float vector `name` of `len` elements, widened to `F32`: a rank's part of a bias.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor_f32`], and for a range beyond the vector.
    pub fn vector_f32(&self, name: &str, len: usize, range: Range<usize>) -> Result<Tensor> {
        let stored = self.stored(name)?;
        stored.expect_shape(&[len])?;
        if range.start > range.end || range.end > len {
            return Err(stored.error("slice", format!("a range within 0..{len}"), format!("{range:?}")));
        }
        let shape = [range.len()];
        self.widened(&stored, &Window::flat(range).ordered(stored.row_order()), &shape)
    }

    /// The table of ids `name` `[v, k]` (`I64` or `I32`) as `U32`: which experts a token's id stands for.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a missing tensor, another shape or dtype, and for an entry that is not in
    /// `0..below`.
    pub fn id_table(&self, name: &str, shape: [usize; 2], below: usize) -> Result<Tensor> {
        let stored = self.stored(name)?;
        stored.expect_shape(&shape)?;
        let (bytes, dtype) = (stored.bytes(), stored.info.dtype);
        let ids: Vec<i64> = match dtype {
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            found => return Err(stored.error("dtype", "I64 or I32", format!("{found:?}"))),
        };
        let table: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        let bad = ids.iter().position(|&id| !usize::try_from(id).is_ok_and(|id| id < below));
        if let Some(at) = bad {
            let found = format!("{} in row {}", ids[at], at / shape[1]);
            return Err(stored.error("values", format!("ids from 0 to {}", below.saturating_sub(1)), found));
        }
        self.count_read(bytes.len());
        self.mark(&stored);
        Tensor::from_u32(&Device::Cpu, &shape, &table).map_err(kernel_error(name))
    }

    /// The matrix `{prefix}.weight` of shape `[n, k]` (out features, in features) in its stored dtype, with the block
    /// scales of `{prefix}.weight_scale_inv` or `{prefix}.scale` if that is `F8_E4M3`. Stored as `I8` it is FP4: `[n, k /
    /// 2]` bytes of two codes each, with the exponents of `{prefix}.scale`.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a missing tensor, another shape or dtype, NaN or infinity, and for scales that
    /// are missing, misshapen or not positive.
    pub fn weight(&self, prefix: &str, shape: [usize; 2]) -> Result<Weight> {
        self.stack(&[prefix], shape, &Slice::All)
    }

    /// A part of the matrix that [`Checkpoint::weight`] reads whole; nothing else is read. `shape` is that of the
    /// whole matrix. Where a slice begins inside a block of scales its blocks become smaller, so that they begin with
    /// it; no value changes.
    ///
    /// # Errors
    /// As [`Checkpoint::weight`], and for a slice beyond the matrix.
    pub fn weight_slice(&self, prefix: &str, shape: [usize; 2], slice: &Slice) -> Result<Weight> {
        self.stack(&[prefix], shape, slice)
    }

    /// The matrices `{prefix}.weight` of all `prefixes`, in order, as one weight `[E, n, k]`. They must have one dtype.
    ///
    /// # Errors
    /// As [`Checkpoint::weight`], and for experts of different dtypes or an empty list.
    pub fn stacked_weight(&self, prefixes: &[String], shape: [usize; 2]) -> Result<Weight> {
        self.stacked_weight_slice(prefixes, shape, &Slice::All)
    }

    /// As [`Checkpoint::stacked_weight`], the same slice of every matrix.
    ///
    /// # Errors
    /// As [`Checkpoint::stacked_weight`] and [`Checkpoint::weight_slice`].
    pub fn stacked_weight_slice(
        &self,
        prefixes: &[String],
        shape: [usize; 2],
        slice: &Slice,
    ) -> Result<Weight> {
        let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
        self.stack(&prefixes, shape, slice)
    }

    fn stack(&self, prefixes: &[&str], [n, k]: [usize; 2], slice: &Slice) -> Result<Weight> {
        let matrices: Vec<_> =
            prefixes.iter().map(|prefix| self.stored(&format!("{prefix}.weight"))).collect::<Result<_>>()?;
        let Some(first) = matrices.first() else {
            return Err(CheckpointError::tensor("the caller", "stack", "experts", "at least one", "none"));
        };
        for stored in &matrices {
            if (stored.info.dtype, stored.info.blocks) != (first.info.dtype, first.info.blocks) {
                let expected = format!("{}, as `{}` has", first.info.storage(), first.name);
                return Err(stored.error("dtype", expected, stored.info.storage()));
            }
        }
        if first.info.dtype == Dtype::I8 {
            return fp4::stack(self, prefixes, &matrices, [n, k], slice);
        }
        matrices.iter().try_for_each(|stored| stored.expect_shape(&[n, k]))?;
        let window = slice
            .window([n, k])
            .ok_or_else(|| first.error("slice", format!("a part of [{n}, {k}]"), format!("{slice:?}")))?;
        let window = window.ordered(first.row_order());
        match (first.layout(), first.info.blocks) {
            (Layout::SplitKvB(halves), _) => return halves.read(self, first, &window),
            (Layout::Rows(_), Some(kind)) => return self.stack_blocks(kind, &matrices, &window),
            (Layout::Rows(_), None) => {}
        }
        let dtype = weight_dtype(first)?;
        let scales = match dtype {
            DType::F8E4M3 => Some(self.stack_scales(prefixes, &matrices, [n, k], &window)?),
            _ => None,
        };
        let size = window.len() * dtype.size();
        let mut bytes = AlignedBytes::zeroed(matrices.len() * size);
        for (index, stored) in matrices.iter().enumerate() {
            let out = &mut bytes[index * size..][..size];
            self.read(stored, Unit::Element(dtype), &window, out, |bytes, out| out.copy_from_slice(bytes))?;
            self.mark(stored);
        }
        let shape = [matrices.len(), window.rows.len(), window.cols.len()];
        Tensor::from_bytes(&Device::Cpu, dtype, &shape, bytes)
            .and_then(|data| Weight::new(data, scales))
            .map_err(kernel_error(first.name))
    }

    /// Matrices of blocks. They stay packed where the window is made of whole blocks; one that cuts blocks is decoded to
    /// `F32`, since no block can be cut.
    fn stack_blocks(&self, kind: GgmlType, matrices: &[Stored<'_>], window: &Window) -> Result<Weight> {
        let blocks = window.in_blocks(kind.block_len());
        let [rows, row_bytes] = [blocks.rows.len(), blocks.cols.len() * kind.block_bytes()];
        let mut bytes = AlignedBytes::zeroed(matrices.len() * rows * row_bytes);
        for (index, stored) in matrices.iter().enumerate() {
            let out = &mut bytes[index * rows * row_bytes..][..rows * row_bytes];
            self.read(stored, Unit::Block(kind), &blocks, out, |bytes, out| out.copy_from_slice(bytes))?;
            self.mark(stored);
        }
        let weight = if window.is_whole_blocks(kind.block_len()) {
            Tensor::from_bytes(&Device::Cpu, DType::U8, &[matrices.len(), rows, row_bytes], bytes)
                .and_then(|data| Weight::with_format(data, WeightFormat::Ggml(kind)))
        } else {
            let shape = [matrices.len(), rows, window.cols.len()];
            let values = cut_blocks(kind, &bytes, row_bytes, window);
            Tensor::from_bytes(&Device::Cpu, DType::F32, &shape, values)
                .and_then(|data| Weight::new(data, None))
        };
        weight.map_err(kernel_error(matrices[0].name))
    }

    fn stack_scales(
        &self,
        prefixes: &[&str],
        matrices: &[Stored<'_>],
        shape: [usize; 2],
        window: &Window,
    ) -> Result<BlockScales> {
        let blocks = window.blocks(scale::block_size(self, &matrices[0])?);
        let mut values = Vec::new();
        for (prefix, weight) in prefixes.iter().zip(matrices) {
            let (stored, dtype) = scale::find(self, weight, prefix, shape)?;
            values.extend(blocks.spread(&scale::read(self, &stored, dtype, &blocks.stored)?));
            self.mark(&stored);
        }
        let [rows, cols] = blocks.shape();
        let scales = Tensor::from_f32(&Device::Cpu, &[prefixes.len(), rows, cols], &values)
            .map_err(kernel_error(matrices[0].name))?;
        let [block_rows, block_cols] = blocks.unit;
        Ok(BlockScales { scales, block_rows, block_cols })
    }

    /// A window of a float tensor as `F32` of `shape`.
    fn widened(&self, stored: &Stored<'_>, window: &Window, shape: &[usize]) -> Result<Tensor> {
        if stored.info.blocks.is_some() {
            return Err(stored.error("type", "F32, F16 or BF16", stored.info.storage()));
        }
        let dtype = match kernel_dtype(stored.info.dtype) {
            Some(DType::F8E4M3) => {
                let expected = "F32, F16 or BF16: no scale belongs to it";
                return Err(stored.error("dtype", expected, DType::F8E4M3));
            }
            Some(dtype) => dtype,
            None => return Err(stored.error("dtype", "a float", format!("{:?}", stored.info.dtype))),
        };
        let mut bytes = AlignedBytes::zeroed(window.len() * size_of::<f32>());
        let out = bytemuck::cast_slice_mut::<u8, f32>(&mut bytes);
        self.read(stored, Unit::Element(dtype), window, out, |bytes, out| widen(dtype, bytes, out))?;
        self.mark(stored);
        Tensor::from_bytes(&Device::Cpu, DType::F32, shape, bytes).map_err(kernel_error(stored.name))
    }

    /// Hands the window's bytes to `place` in order, run by run, looking for NaN and infinity on the way; chunks run
    /// in parallel. `out` has the same number of places for every unit of the window.
    pub(crate) fn read<T: Send>(
        &self,
        stored: &Stored<'_>,
        unit: Unit,
        window: &Window,
        out: &mut [T],
        place: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<()> {
        let (size, places) = (unit.size(), out.len().checked_div(window.len()).unwrap_or(1));
        out.par_chunks_mut(CHUNK * places).enumerate().try_for_each(|(chunk, mut out)| {
            let (first, mut end) = (chunk * CHUNK, 0);
            let mut start = usize::MAX;
            for run in window.runs(first..first + out.len() / places) {
                let (target, rest) = std::mem::take(&mut out).split_at_mut(run.len() * places);
                let bytes = &stored.bytes()[run.start * size..run.end * size];
                place(bytes, target);
                // The run is in cache now.
                check_finite(stored, unit, bytes, run.start)?;
                out = rest;
                (start, end) = (start.min(run.start), end.max(run.end));
            }
            stored.release(start.min(end) * size..end * size);
            Ok(())
        })?;
        self.count_read(window.len() * size);
        Ok(())
    }
}

/// The dtypes that a matmul decodes.
fn weight_dtype(stored: &Stored<'_>) -> Result<DType> {
    match stored.info.dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        Dtype::F8_E4M3 => Ok(DType::F8E4M3),
        found => Err(stored.error("dtype", "F32, F16, BF16, F8_E4M3 or I8 (FP4)", format!("{found:?}"))),
    }
}

/// The columns of `window` in `F32`, out of rows of the blocks that it touches.
fn cut_blocks(kind: GgmlType, blocks: &[u8], row_bytes: usize, window: &Window) -> AlignedBytes {
    let (len, width) = (kind.block_len(), window.cols.len());
    let (offset, rows) = (window.cols.start % len, blocks.len().checked_div(row_bytes).unwrap_or(0));
    let mut bytes = AlignedBytes::zeroed(rows * width * size_of::<f32>());
    let out: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
    let row_columns = row_bytes / kind.block_bytes() * len;
    let rows = blocks.par_chunks(row_bytes.max(1));
    out.par_chunks_mut(width.max(1)).zip(rows).for_each_init(
        || vec![0.0; row_columns],
        |values, (out, row)| {
            decode_ggml(kind, row, values);
            out.copy_from_slice(&values[offset..][..width]);
        },
    );
    bytes
}

/// What a window counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Element(DType),
    Block(GgmlType),
}

impl Unit {
    fn size(self) -> usize {
        match self {
            Self::Element(dtype) => dtype.size(),
            Self::Block(kind) => kind.block_bytes(),
        }
    }
}

/// Looks for NaN and infinity in `bytes`, which begin with unit `start` of the tensor.
fn check_finite(stored: &Stored<'_>, unit: Unit, bytes: &[u8], start: usize) -> Result<()> {
    let found = match unit {
        Unit::Element(dtype) => {
            first_non_finite(dtype, bytes).map(|(at, value)| format!("{value} at index {}", start + at))
        }
        Unit::Block(kind) => kind
            .first_non_finite(bytes)
            .map(|at| format!("NaN or infinity in the scale of block {}", start + at)),
    };
    match found {
        None => Ok(()),
        Some(found) => Err(stored.error("values", "finite numbers", found)),
    }
}

pub(crate) fn kernel_error(tensor: &str) -> impl FnOnce(KernelError) -> CheckpointError {
    move |source| CheckpointError::Kernel { tensor: tensor.to_owned(), source }
}
