//! [`PagedBatch`]: which keys each query of a step may see, and where they lie in the paged cache.

use crate::{Device, KernelError, Result, Tensor};

/// The paging of one step over `B` sequences and `T` new tokens. All tensors are `U32`.
///
/// New tokens of sequence `b` are rows `query_start[b] .. query_start[b + 1]` and are the last of its
/// `context_lens[b]` keys; a query sees the keys up to and including its own. Key `i` of sequence `b` lies in row
/// `i % block_size` of block `block_tables[b, i / block_size]`.
#[derive(Debug, Clone)]
pub struct PagedBatch {
    /// `[B + 1]`, rising, from 0 to `T`.
    pub query_start: Tensor,
    /// `[B]`: keys per sequence, the new tokens included.
    pub context_lens: Tensor,
    /// `[B, M]`: physical blocks of each sequence in order; entries past its length are never read.
    pub block_tables: Tensor,
    /// `[T]`: the cache row (`block * block_size + offset`) that each new token's key is written to.
    pub slot_mapping: Tensor,
    /// Rows per block.
    pub block_size: usize,
}

impl PagedBatch {
    /// Builds and checks the paging of a step from host lists, one entry per sequence: the number of new tokens, the
    /// number of keys after the step, and the block table.
    pub fn new(device: &Device, block_size: usize, sequences: &[(usize, usize, &[u32])]) -> Result<Self> {
        const OP: &str = "paged_batch";
        if block_size == 0 {
            return Err(KernelError::value(OP, "block_size", "at least 1", 0));
        }
        let width = sequences.iter().map(|s| s.2.len()).max().unwrap_or(0);
        let mut starts = vec![0];
        let (mut lens, mut tables, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for &(new, context, blocks) in sequences {
            if new > context || context > blocks.len() * block_size {
                let expected = format!("{new} to {} keys", blocks.len() * block_size);
                return Err(KernelError::value(OP, "context_len", expected, context));
            }
            starts.push(starts[starts.len() - 1] + new as u32);
            lens.push(context as u32);
            slots.extend((context - new..context).map(|i| {
                let (block, offset) = (blocks[i / block_size], i % block_size);
                block * block_size as u32 + offset as u32
            }));
            tables.extend_from_slice(blocks);
            tables.resize(lens.len() * width, u32::MAX);
        }
        let count = sequences.len();
        Ok(Self {
            query_start: Tensor::from_u32(device, &[count + 1], &starts)?,
            context_lens: Tensor::from_u32(device, &[count], &lens)?,
            block_tables: Tensor::from_u32(device, &[count, width], &tables)?,
            slot_mapping: Tensor::from_u32(device, &[slots.len()], &slots)?,
            block_size,
        })
    }

    /// New tokens `T` of the step.
    pub fn num_tokens(&self) -> usize {
        self.slot_mapping.len()
    }

    /// Sequences `B` of the step.
    pub fn num_sequences(&self) -> usize {
        self.context_lens.len()
    }

    /// For each new token: the cache rows of its visible keys, in order. The host form the CPU attention walks.
    pub(crate) fn visible_rows(&self, op: &'static str, cache_rows: usize) -> Result<Vec<Vec<u32>>> {
        let starts = self.query_start.u32s(op, "query_start")?;
        let lens = self.context_lens.u32s(op, "context_lens")?;
        let tables = self.block_tables.u32s(op, "block_tables")?;
        let (width, size) = (self.block_tables.dim(1), self.block_size);
        let mut visible = Vec::with_capacity(self.num_tokens());
        for (b, &len) in lens.iter().enumerate() {
            let table = &tables[b * width..][..width];
            let row = |i: usize| table[i / size] as usize * size + i % size;
            let rows: Vec<u32> = (0..len as usize).map(|i| row(i) as u32).collect();
            if let Some(row) = rows.iter().find(|&&r| r as usize >= cache_rows) {
                return Err(KernelError::value(op, "block_tables", format!("rows below {cache_rows}"), row));
            }
            let new = (starts[b + 1] - starts[b]) as usize;
            visible.extend((0..new).map(|i| rows[..len as usize - new + i + 1].to_vec()));
        }
        Ok(visible)
    }
}
