//! [`PagedBatch`]: which keys each query of a step may see, and where they lie in the paged cache; [`CacheReads`]: how
//! many of them its ops have read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{CacheRows, Sequence};
use crate::{DType, Device, KernelError, Result, Tensor};

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
    /// `[B]`: where each sequence keeps what is not paged (the last rows of a window, an unfinished compression): its
    /// row of every state ring. `None` for models without such state.
    pub state_slots: Option<Tensor>,
    /// Where the ops count the cache rows that they read, if somebody wants to know.
    pub reads: Option<Arc<CacheReads>>,
}

/// Cache rows that ops have read: what a token costs, without a clock. A row counts once for each query that sees it,
/// however many heads share it. Only the CPU's ops count: what a GPU reads is in lists that only it knows.
#[derive(Debug, Default)]
pub struct CacheReads {
    attention: AtomicU64,
    index: AtomicU64,
}

impl CacheReads {
    /// Rows that attention has read.
    pub fn attention(&self) -> u64 {
        self.attention.load(Ordering::Relaxed)
    }

    /// Index keys that have been scored.
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }
}

/// The values of the four tensors.
struct Lists {
    starts: Vec<u32>,
    lens: Vec<u32>,
    tables: Vec<u32>,
    slots: Vec<u32>,
}

impl Lists {
    fn new(block_size: usize, width: usize, sequences: &[(usize, usize, &[u32])]) -> Result<Self> {
        const OP: &str = "paged_batch";
        if block_size == 0 {
            return Err(KernelError::value(OP, "block_size", "at least 1", 0));
        }
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
        Ok(Self { starts, lens, tables, slots })
    }
}

impl PagedBatch {
    /// Builds and checks the paging of a step from host lists, one entry per sequence: the number of new tokens, the
    /// number of keys after the step, and the block table.
    pub fn new(device: &Device, block_size: usize, sequences: &[(usize, usize, &[u32])]) -> Result<Self> {
        let width = sequences.iter().map(|s| s.2.len()).max().unwrap_or(0);
        let Lists { starts, lens, tables, slots } = Lists::new(block_size, width, sequences)?;
        Ok(Self {
            query_start: Tensor::from_u32(device, &[starts.len()], &starts)?,
            context_lens: Tensor::from_u32(device, &[lens.len()], &lens)?,
            block_tables: Tensor::from_u32(device, &[lens.len(), width], &tables)?,
            slot_mapping: Tensor::from_u32(device, &[slots.len()], &slots)?,
            block_size,
            state_slots: None,
            reads: None,
        })
    }

    /// The same paging for sequences whose state lies in these slots of the state rings, one per sequence.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another number of slots.
    pub fn with_state_slots(mut self, slots: &[u32]) -> Result<Self> {
        if slots.len() != self.num_sequences() {
            let expected = format!("[{}]", self.num_sequences());
            return Err(KernelError::shape("paged_batch", "state_slots", expected, &[slots.len()]));
        }
        self.state_slots = Some(Tensor::from_u32(&self.slot_mapping.device(), &[slots.len()], slots)?);
        Ok(self)
    }

    /// The paging of a step to be recorded: so many sequences and new tokens in all, tables of `width` blocks, and a state
    /// slot for those that have one, in memory that is kept. Write it with [`PagedBatch::rewrite`] before each use.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn resident(
        device: &Device,
        block_size: usize,
        [sequences, tokens]: [usize; 2],
        width: usize,
    ) -> Result<Self> {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::U32, shape);
        Ok(Self {
            query_start: zeros(&[sequences + 1])?,
            context_lens: zeros(&[sequences])?,
            block_tables: zeros(&[sequences, width])?,
            slot_mapping: zeros(&[tokens])?,
            block_size,
            state_slots: Some(zeros(&[sequences])?),
            reads: None,
        })
    }

    /// Puts another step's paging in place of this one's, of the same number of sequences and new tokens, and with as many
    /// state slots if their model keeps state.
    ///
    /// # Errors
    /// As [`PagedBatch::new`], and for another number of sequences, tokens or slots, or longer tables.
    pub fn rewrite(
        &mut self,
        sequences: &[(usize, usize, &[u32])],
        state_slots: Option<&[u32]>,
    ) -> Result<()> {
        let width = self.block_tables.dim(1);
        if let Some(longest) = sequences.iter().map(|s| s.2.len()).find(|&len| len > width) {
            let expected = format!("tables of at most {width} blocks");
            return Err(KernelError::value("paged_batch", "block_tables", expected, longest));
        }
        let Lists { starts, lens, tables, slots } = Lists::new(self.block_size, width, sequences)?;
        if let (Some(kept), Some(slots)) = (&mut self.state_slots, state_slots) {
            kept.write_u32(slots)?;
        }
        self.query_start.write_u32(&starts)?;
        self.context_lens.write_u32(&lens)?;
        self.block_tables.write_u32(&tables)?;
        self.slot_mapping.write_u32(&slots)
    }

    /// New tokens `T` of the step.
    pub fn num_tokens(&self) -> usize {
        self.slot_mapping.len()
    }

    /// Sequences `B` of the step.
    pub fn num_sequences(&self) -> usize {
        self.context_lens.len()
    }

    /// Keys that no sequence of the step can have more of: what the block tables have room for.
    pub fn max_keys(&self) -> usize {
        self.block_tables.dim(1) * self.block_size
    }

    pub(crate) fn count_attention(&self, rows: usize) {
        if let Some(reads) = &self.reads {
            reads.attention.fetch_add(rows as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_index(&self, rows: usize) {
        if let Some(reads) = &self.reads {
            reads.index.fetch_add(rows as u64, Ordering::Relaxed);
        }
    }

    /// The sequences as the CPU attention walks them, after checking every index against a cache of `blocks` blocks.
    pub(crate) fn sequences(&self, op: &'static str, blocks: usize) -> Result<Vec<Sequence<'_>>> {
        let starts = self.query_start.u32s(op, "query_start")?;
        let lens = self.context_lens.u32s(op, "context_lens")?;
        let tables = self.block_tables.u32s(op, "block_tables")?;
        self.check_shapes(op)?;
        let [rows, width] = self.block_tables.dims(op, "block_tables", "[B, M]")?;
        if starts[0] != 0 || starts[rows] as usize != self.num_tokens() {
            let (expected, found) = (format!("0 to {}", self.num_tokens()), format!("{starts:?}"));
            return Err(KernelError::value(op, "query_start", expected, found));
        }
        let mut sequences = Vec::with_capacity(rows);
        for (b, &context) in lens.iter().enumerate() {
            let (queries, context) = (starts[b] as usize..starts[b + 1] as usize, context as usize);
            if queries.start > queries.end || queries.len() > context {
                let found = format!("{} after {}", starts[b + 1], starts[b]);
                return Err(KernelError::value(op, "query_start", format!("0 to {context} rows"), found));
            }
            let used = context.div_ceil(self.block_size);
            if used > width {
                let expected = format!("at most {} keys", width * self.block_size);
                return Err(KernelError::value(op, "context_lens", expected, context));
            }
            let table = &tables[b * width..][..used];
            if let Some(block) = table.iter().find(|&&block| block as usize >= blocks) {
                return Err(KernelError::value(op, "block_tables", format!("blocks below {blocks}"), block));
            }
            sequences.push(Sequence { queries, context, blocks: table });
        }
        Ok(sequences)
    }

    /// The sequences with their state slots, checked against rings of `slots` slots and a cache of `blocks` blocks.
    pub(crate) fn stateful(
        &self,
        op: &'static str,
        slots: usize,
        blocks: usize,
    ) -> Result<Vec<(Sequence<'_>, usize)>> {
        let Some(list) = &self.state_slots else {
            return Err(KernelError::value(op, "state_slots", "a slot for every sequence", "none"));
        };
        let list = list.u32s(op, "state_slots")?;
        if let Some(slot) = list.iter().find(|&&slot| slot as usize >= slots) {
            return Err(KernelError::value(op, "state_slots", format!("slots below {slots}"), slot));
        }
        let sequences = self.sequences(op, blocks)?.into_iter();
        Ok(sequences.zip(list.iter().map(|&slot| slot as usize)).collect())
    }

    /// Fails unless the lists live on `device` and fit each other and a cache of `blocks` blocks. Lists that only a GPU
    /// knows are checked by its kernels.
    pub(crate) fn check(&self, op: &'static str, device: &Device, blocks: usize) -> Result<()> {
        let lists = [
            ("query_start", &self.query_start),
            ("context_lens", &self.context_lens),
            ("block_tables", &self.block_tables),
        ];
        for (arg, list) in lists {
            list.expect_device(device, op, arg)?;
            list.expect_dtype(DType::U32, "U32", op, arg)?;
        }
        self.check_shapes(op)?;
        if lists.iter().all(|(_, list)| list.host_u32s().is_some()) {
            self.sequences(op, blocks)?;
        }
        Ok(())
    }

    fn check_shapes(&self, op: &'static str) -> Result<()> {
        let [rows, _] = self.block_tables.dims(op, "block_tables", "[B, M]")?;
        let ([starts], [lens]) = (
            self.query_start.dims(op, "query_start", "[B + 1]")?,
            self.context_lens.dims(op, "context_lens", "[B]")?,
        );
        if rows != lens || starts != rows + 1 {
            return Err(KernelError::shape(
                op,
                "query_start",
                format!("[{lens} + 1]"),
                self.query_start.shape(),
            ));
        }
        Ok(())
    }

    /// The typed rows of `cache`.
    pub(crate) fn cache_rows<'a>(&self, op: &'static str, cache: &'a Tensor) -> Result<CacheRows<'a>> {
        float_rows(op, "cache", cache)
    }
}

/// The typed rows of a tensor of cache rows on the CPU.
pub(crate) fn float_rows<'a>(op: &'static str, arg: &'static str, rows: &'a Tensor) -> Result<CacheRows<'a>> {
    rows.expect_device(&Device::Cpu, op, arg)?;
    match rows.dtype() {
        DType::F32 => Ok(CacheRows::F32(bytemuck::cast_slice(rows.bytes()))),
        DType::BF16 => Ok(CacheRows::Bf16(bytemuck::cast_slice(rows.bytes()))),
        found => Err(KernelError::DType { op, arg, expected: "F32 or BF16", found }),
    }
}
