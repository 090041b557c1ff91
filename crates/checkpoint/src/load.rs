//! From stored bytes to kernel tensors: one copy into aligned memory, in parallel for large tensors, with the mapped
//! pages released behind it.

use kernels::cpu::AlignedBytes;
use kernels::{BlockScales, DType, Device, KernelError, Tensor, Weight};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, Stored};
use crate::values::{first_non_finite, kernel_dtype, widen};
use crate::{CheckpointError, Result, scale};

/// Elements that one thread copies at a time: large enough to hide the scheduling, small enough that the mapped pages
/// in flight stay a few megabytes per core.
const CHUNK: usize = 1 << 20;

impl Checkpoint {
    /// A float tensor of exactly `shape`, widened to `F32`: norms, biases, gate weights. An FP8 matrix is multiplied
    /// by its block scales.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a missing tensor, another shape, a dtype that is no float, NaN or infinity.
    pub fn tensor_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.stored(name)?;
        stored.expect_shape(shape)?;
        let dtype = kernel_dtype(stored.info.dtype)
            .ok_or_else(|| stored.error("dtype", "a float", format!("{:?}", stored.info.dtype)))?;
        if dtype == DType::F8E4M3 {
            let (Some(prefix), &[n, k]) = (name.strip_suffix(".weight"), shape) else {
                return Err(stored.error("dtype", "F32, F16 or BF16: no scale belongs to it", dtype));
            };
            let values = self.weight(prefix, [n, k])?.to_vec_f32();
            return Tensor::from_f32(&Device::Cpu, shape, &values).map_err(kernel_error(name));
        }
        let mut bytes = AlignedBytes::zeroed(stored.info.size_bytes / dtype.size() * size_of::<f32>());
        let out = bytemuck::cast_slice_mut::<u8, f32>(&mut bytes);
        out.par_chunks_mut(CHUNK).enumerate().try_for_each(|(chunk, out)| {
            let start = chunk * CHUNK * dtype.size();
            let end = start + out.len() * dtype.size();
            let source = &stored.bytes()[start..end];
            check_finite(&stored, dtype, source, chunk)?;
            widen(dtype, source, out);
            stored.release(start..end);
            Ok(())
        })?;
        self.mark(&stored);
        Tensor::from_bytes(&Device::Cpu, DType::F32, shape, bytes).map_err(kernel_error(name))
    }

    /// The matrix `{prefix}.weight` of shape `[n, k]` (out features, in features) in its stored dtype, with the block
    /// scales of `{prefix}.weight_scale_inv` or `{prefix}.scale` if that is `F8_E4M3`.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a missing tensor, another shape or dtype, NaN or infinity, and for scales that
    /// are missing, misshapen or not positive.
    pub fn weight(&self, prefix: &str, [n, k]: [usize; 2]) -> Result<Weight> {
        self.stack(&[prefix], [n, k])
    }

    /// The matrices `{prefix}.weight` of all `prefixes`, in order, as one weight `[E, n, k]`. They must have one dtype.
    ///
    /// # Errors
    /// As [`Checkpoint::weight`], and for experts of different dtypes or an empty list.
    pub fn stacked_weight(&self, prefixes: &[String], [n, k]: [usize; 2]) -> Result<Weight> {
        let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
        self.stack(&prefixes, [n, k])
    }

    fn stack(&self, prefixes: &[&str], [n, k]: [usize; 2]) -> Result<Weight> {
        let matrices: Vec<_> =
            prefixes.iter().map(|prefix| self.stored(&format!("{prefix}.weight"))).collect::<Result<_>>()?;
        let Some(first) = matrices.first() else {
            return Err(CheckpointError::tensor("the caller", "stack", "experts", "at least one", "none"));
        };
        let dtype = weight_dtype(first)?;
        for stored in &matrices {
            stored.expect_shape(&[n, k])?;
            if stored.info.dtype != first.info.dtype {
                let expected = format!("{dtype}, as `{}` has", first.name);
                return Err(stored.error("dtype", expected, format!("{:?}", stored.info.dtype)));
            }
        }
        let scales = match dtype {
            DType::F8E4M3 => Some(self.stack_scales(prefixes, &matrices, [n, k])?),
            _ => None,
        };
        let size = first.info.size_bytes;
        let mut bytes = AlignedBytes::zeroed(matrices.len() * size);
        for (index, stored) in matrices.iter().enumerate() {
            copy(stored, dtype, &mut bytes[index * size..][..size])?;
            self.mark(stored);
        }
        let shape = [matrices.len(), n, k];
        Tensor::from_bytes(&Device::Cpu, dtype, &shape, bytes)
            .and_then(|data| Weight::new(data, scales))
            .map_err(kernel_error(first.name))
    }

    fn stack_scales(
        &self,
        prefixes: &[&str],
        matrices: &[Stored<'_>],
        [n, k]: [usize; 2],
    ) -> Result<BlockScales> {
        let [block_rows, block_cols] = scale::block_size(self, &matrices[0])?;
        let (rows, cols) = (n.div_ceil(block_rows), k.div_ceil(block_cols));
        let mut values = vec![0.0; prefixes.len() * rows * cols];
        for (index, (prefix, weight)) in prefixes.iter().zip(matrices).enumerate() {
            let (stored, dtype) = scale::find(self, weight, prefix, [n, k])?;
            let out = &mut values[index * rows * cols..][..rows * cols];
            scale::read(&stored, dtype, cols, out)?;
            self.mark(&stored);
        }
        let scales = Tensor::from_f32(&Device::Cpu, &[prefixes.len(), rows, cols], &values)
            .map_err(kernel_error(matrices[0].name))?;
        Ok(BlockScales { scales, block_rows, block_cols })
    }
}

/// The dtypes that a matmul decodes.
fn weight_dtype(stored: &Stored<'_>) -> Result<DType> {
    match stored.info.dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        Dtype::F8_E4M3 => Ok(DType::F8E4M3),
        found => Err(stored.error("dtype", "F32, F16, BF16 or F8_E4M3", format!("{found:?}"))),
    }
}

/// Copies a whole tensor into `out` of the same size, looking for NaN and infinity on the way.
fn copy(stored: &Stored<'_>, dtype: DType, out: &mut [u8]) -> Result<()> {
    let chunk_bytes = CHUNK * dtype.size();
    out.par_chunks_mut(chunk_bytes).enumerate().try_for_each(|(chunk, out)| {
        let start = chunk * chunk_bytes;
        let end = start + out.len();
        out.copy_from_slice(&stored.bytes()[start..end]);
        stored.release(start..end);
        // The copy is in cache, and its pages stay when the map's are gone.
        check_finite(stored, dtype, out, chunk)
    })
}

fn check_finite(stored: &Stored<'_>, dtype: DType, bytes: &[u8], chunk: usize) -> Result<()> {
    match first_non_finite(dtype, bytes) {
        None => Ok(()),
        Some((at, value)) => {
            let found = format!("{value} at index {}", chunk * CHUNK + at);
            Err(stored.error("values", "finite numbers", found))
        }
    }
}

fn kernel_error(tensor: &str) -> impl FnOnce(KernelError) -> CheckpointError {
    move |source| CheckpointError::Kernel { tensor: tensor.to_owned(), source }
}
