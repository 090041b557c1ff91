//! [`SplitKvB`]: MLA's `kv_b_proj` where a file has it in two tensors, the key half transposed for the absorbed form.
//!
//! `attn_k_b` is `[H, latent, nope]`, `attn_v_b` `[H, v, latent]`; the released matrix has, head by head, `nope` rows of
//! keys and `v` rows of values, all of `latent` columns. Transposing takes blocks apart, so the matrix is decoded to
//! `F32` when it is read. It is about a hundredth of a model.

use std::ops::Range;

use kernels::cpu::{AlignedBytes, decode_ggml};
use kernels::{DType, Device, GgmlType, Tensor, Weight};
use safetensors::Dtype;

use super::header::Entry;
use crate::checkpoint::{Checkpoint, Stored};
use crate::slice::Window;
use crate::values::{first_non_finite, kernel_dtype, widen};
use crate::{CheckpointError, Result};

/// The two halves of one layer.
#[derive(Debug)]
pub(crate) struct SplitKvB {
    keys: Stack,
    values: Stack,
}

/// One matrix per head.
#[derive(Debug)]
struct Stack {
    name: String,
    shard: usize,
    /// Its bytes in the file.
    range: Range<usize>,
    dtype: Dtype,
    blocks: Option<GgmlType>,
    /// Heads, rows and columns of each.
    shape: [usize; 3],
}

impl Stack {
    fn new(file: &str, shard: usize, entry: Entry) -> Result<Self> {
        let Entry { name, dtype, blocks, shape, range } = entry;
        let Ok(shape) = <[usize; 3]>::try_from(shape.as_slice()) else {
            let found = format!("{shape:?}");
            return Err(CheckpointError::tensor(file, &name, "shape", "one matrix per head", found));
        };
        Ok(Self { name, shard, range, dtype, blocks, shape })
    }

    /// The matrix of `head`.
    fn read(&self, checkpoint: &Checkpoint, head: usize) -> Result<Vec<f32>> {
        let [heads, rows, cols] = self.shape;
        let shard = checkpoint.shard(self.shard);
        let size = self.range.len() / heads;
        let start = self.range.start + head * size;
        let bytes = &shard.bytes()[start..start + size];
        let mut values = vec![0.0; rows * cols];
        let error = |what: &'static str, expected: &str, found: String| {
            CheckpointError::tensor(&shard.file, &self.name, what, expected, found)
        };
        let bad = match (self.blocks, kernel_dtype(self.dtype)) {
            (Some(kind), _) => {
                decode_ggml(kind, bytes, &mut values);
                let bad = kind.first_non_finite(bytes);
                bad.map(|block| format!("NaN or infinity in block {block} of head {head}"))
            }
            (None, Some(dtype @ (DType::F32 | DType::F16 | DType::BF16))) => {
                widen(dtype, bytes, &mut values);
                first_non_finite(dtype, bytes).map(|(at, value)| format!("{value} at {at} of head {head}"))
            }
            _ => return Err(error("dtype", "a float", format!("{:?}", self.dtype))),
        };
        shard.release(start..start + size);
        checkpoint.count_read(size);
        match bad {
            None => Ok(values),
            Some(found) => Err(error("values", "finite numbers", found)),
        }
    }
}

impl SplitKvB {
    /// Two halves that fit each other, and the shape of the whole.
    pub(super) fn new(
        file: &str,
        (key_shard, keys): (usize, Entry),
        (value_shard, values): (usize, Entry),
    ) -> Result<(Self, [usize; 2])> {
        let (keys, values) = (Stack::new(file, key_shard, keys)?, Stack::new(file, value_shard, values)?);
        let ([heads, latent, nope], [value_heads, value, value_latent]) = (keys.shape, values.shape);
        if (heads, latent) != (value_heads, value_latent) {
            let expected = format!("[{heads}, v, {latent}], as `{}` has", keys.name);
            let found = format!("{:?}", values.shape);
            return Err(CheckpointError::tensor(file, &values.name, "shape", expected, found));
        }
        Ok((Self { keys, values }, [heads * (nope + value), latent]))
    }

    /// The part `window` of the whole matrix.
    pub(crate) fn read(
        &self,
        checkpoint: &Checkpoint,
        stored: &Stored<'_>,
        window: &Window,
    ) -> Result<Weight> {
        let [_, latent, nope] = self.keys.shape;
        let height = nope + self.values.shape[1];
        let width = window.cols.len();
        let mut bytes = AlignedBytes::zeroed(window.len() * size_of::<f32>());
        let out: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
        // The two of the head that the last row was in.
        let mut matrices: Option<(usize, Vec<f32>, Vec<f32>)> = None;
        for (row, out) in window.rows.clone().zip(out.chunks_exact_mut(width.max(1))) {
            let (head, i) = (row / height, row % height);
            let (_, keys, values) = match matrices.take_if(|(of, ..)| *of == head) {
                Some(same) => matrices.insert(same),
                None => matrices.insert((
                    head,
                    self.keys.read(checkpoint, head)?,
                    self.values.read(checkpoint, head)?,
                )),
            };
            for (out, col) in out.iter_mut().zip(window.cols.clone()) {
                *out = if i < nope { keys[col * nope + i] } else { values[(i - nope) * latent + col] };
            }
        }
        checkpoint.mark(stored);
        Tensor::from_bytes(&Device::Cpu, DType::F32, &[1, window.rows.len(), width], bytes)
            .and_then(|data| Weight::new(data, None))
            .map_err(|source| CheckpointError::Kernel { tensor: stored.name.to_owned(), source })
    }
}
