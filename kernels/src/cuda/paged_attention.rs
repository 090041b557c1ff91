//! Launches of `cuda/paged_attention.cu`.

use crate::cuda::Args;
use crate::cuda::attention_plan::Shape;
use crate::ops::PagedBatch;
use crate::{DType, Fp8Row, KernelError, PackedRow, Result, Tensor};

const STEM: &str = "paged_attention";

/// One attention call.
pub(crate) struct PagedAttention<'a> {
    /// Name of the op, for errors.
    pub(crate) op: &'static str,
    /// `[T, heads, key_dim]`, `F32` or the device's activations.
    pub(crate) q: &'a Tensor,
    /// `[blocks, block_size, row]`.
    pub(crate) cache: &'a Tensor,
    /// What rows of bytes hold.
    pub(crate) packed: Option<Fp8Row>,
    pub(crate) batch: &'a PagedBatch,
    /// `[T, K]`, MLA only.
    pub(crate) indices: Option<&'a Tensor>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// Values are the first columns of the keys (MLA); else they follow all keys of the row.
    pub(crate) shares_values: bool,
    pub(crate) scale: f32,
}

impl PagedAttention<'_> {
    fn shape(&self) -> Shape<'_> {
        let context = self.batch.block_tables.dim(1) * self.batch.block_size;
        Shape {
            op: self.op,
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            shares_values: self.shares_values,
            row: (self.cache.dtype(), self.cache.dim(2)),
            packed: self.packed.map(PackedRow::Latent),
            blocks: self.cache.dim(0),
            keys: self.indices.map_or(context, |indices| indices.dim(1)),
            topk: self.indices.map_or(0, |indices| indices.dim(1)),
            by_token: self.indices.is_some(),
            scale: self.scale,
        }
    }

    /// The attention of every query head, `[T, heads, value_dim]` in the device's activation dtype.
    pub(crate) fn run(&self) -> Result<Tensor> {
        let device = self.cache.cuda(self.op)?;
        let dtype = device.activation_dtype();
        if self.q.dtype() != DType::F32 && self.q.dtype() != dtype {
            let expected = "F32 or the device's activation dtype";
            return Err(KernelError::DType { op: self.op, arg: "q", expected, found: self.q.dtype() });
        }
        let tokens = self.batch.num_tokens();
        let mut out = Tensor::output(&self.cache.device(), dtype, &[tokens, self.heads, self.value_dim])?;
        if tokens == 0 || self.heads == 0 {
            return Ok(out);
        }
        let shape = self.shape();
        let plan = shape.plan(device, &[128, 256, 512])?;
        let sizes = shape.sizes(&plan, self.q.dtype())?;
        let [mut values, mut states] = shape.partials(&plan, &self.cache.device())?;
        let [start, lens] = [&self.batch.query_start, &self.batch.context_lens];
        let args = Args::new().tensor(self.q)?.tensor(self.cache)?.tensor(start)?.tensor(lens)?;
        let args = args.tensor(&self.batch.block_tables)?.optional(self.indices)?.output(&mut out)?;
        let args = args.output(&mut values)?.output(&mut states)?.fault(device).value(sizes);
        device.launch(STEM, &plan.instance(STEM), shape.launch(&plan), args)?;
        if plan.max_splits > 1 {
            let args = Args::new().tensor(start)?.tensor(lens)?.output(&mut out)?;
            let args = args.tensor(&values)?.tensor(&states)?.fault(device).value(sizes);
            let precision = if dtype == DType::F32 { "f32" } else { "bf16" };
            device.launch(STEM, &format!("attention_combine_{precision}"), shape.combine(), args)?;
        }
        Ok(out)
    }
}
