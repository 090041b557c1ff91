//! Launches of `cuda/sample.cu`.

use crate::cuda::{Args, Launch};
use crate::ops::{SampleBatch, SampledRows};
use crate::{DType, Result, Tensor};

/// Threads of a block, which is a row.
const THREADS: u32 = 1024;
/// Rows of the scratch are padded to whole tiles of every warp.
const ROW_UNIT: usize = 128 * (THREADS as usize / 32);

/// `logits` `[R, V]`, of which the batch has the first rows; it has been checked.
pub(crate) fn sample(logits: &Tensor, batch: &SampleBatch) -> Result<SampledRows> {
    let (device, rows, vocab) = (logits.device(), batch.rows(), logits.dim(1));
    let mut ids = Tensor::output(&device, DType::U32, &[rows])?;
    let mut logprobs = Tensor::output(&device, DType::F32, &[rows])?;
    if rows == 0 {
        return Ok(SampledRows { ids, logprobs });
    }
    let list = |words: &[u32]| Tensor::from_u32(&device, &[words.len()], words);
    let params = list(bytemuck::cast_slice(&batch.params))?;
    let (offsets, edits) = (list(&batch.offsets)?, list(bytemuck::cast_slice(&batch.edits))?);
    let allowed = batch.allowed.as_deref().map(list).transpose()?;
    let mut scratch = Tensor::output(&device, DType::F32, &[rows, vocab.next_multiple_of(ROW_UNIT)])?;
    let gpu = logits.cuda("sample")?;
    let args = Args::new().tensor(logits)?.tensor(&params)?.tensor(&offsets)?.tensor(&edits)?;
    let args = args.optional(allowed.as_ref())?.output(&mut scratch)?.output(&mut ids)?;
    let args = args.output(&mut logprobs)?.fault(gpu).value(vocab as u32);
    let launch = Launch { grid: [rows as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    gpu.launch("sample", "sample_f32", launch, args)?;
    Ok(SampledRows { ids, logprobs })
}
