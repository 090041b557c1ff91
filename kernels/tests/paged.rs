//! A poisoned paged cache for the attention tests, and the index checks of `PagedBatch`.
//!
//! Rows that no sequence owns are NaN and unused table entries are `u32::MAX`: a stray read shows in the result or panics.

use kernels::cpu::{AlignedBytes, CacheRows};
use kernels::ops::{self, PagedBatch};
use kernels::{DType, Device, Fp8Row, KernelError, Precision, Tensor};
use testkit::soft_gpu;

use crate::common::{ids, packed, tensor, values};

/// A step over some sequences, with a cache of random rows where they live and NaN elsewhere.
pub(crate) struct Paged {
    pub(crate) batch: PagedBatch,
    pub(crate) cache: Tensor,
    pub(crate) dtype: DType,
    /// The layout of packed rows.
    packed: Option<Fp8Row>,
    /// The cache rows that each new token sees.
    pub(crate) visible: Vec<Vec<u32>>,
    /// `(queries, context, blocks)` of each sequence.
    pub(crate) sequences: Vec<(usize, usize, Vec<u32>)>,
}

impl Paged {
    /// `sizes` are (new tokens, keys) per sequence; blocks are dealt out in a scattered order.
    pub(crate) fn new(dtype: DType, block_size: usize, width: usize, sizes: &[(usize, usize)]) -> Self {
        let total: usize = sizes.iter().map(|s| s.1.div_ceil(block_size)).sum();
        let blocks = 2 * total + 1;
        // Odd blocks from the end: neighbours in a table are never neighbours in memory.
        let mut free = (0..total as u32).map(|i| 2 * (total as u32 - i) - 1);
        let mut rows = vec![f32::NAN; blocks * block_size * width];
        let (mut sequences, mut visible) = (Vec::new(), Vec::new());
        for (s, &(new, context)) in sizes.iter().enumerate() {
            let table: Vec<u32> = free.by_ref().take(context.div_ceil(block_size)).collect();
            let row = |i: usize| table[i / block_size] * block_size as u32 + (i % block_size) as u32;
            for i in 0..context {
                let values = values((s * 10_000 + i) as u64, width);
                rows[row(i) as usize * width..][..width].copy_from_slice(&values);
            }
            visible.extend((context - new..context).map(|i| (0..=i).map(row).collect::<Vec<u32>>()));
            sequences.push((new, context, table));
        }
        let lists: Vec<_> = sequences.iter().map(|(new, context, t)| (*new, *context, &t[..])).collect();
        let batch = PagedBatch::new(&Device::Cpu, block_size, &lists).unwrap();
        let cache = packed(dtype, &[blocks, block_size, width], &rows);
        Self { batch, cache, dtype, packed: None, visible, sequences }
    }

    /// As [`Paged::new`], with packed latent rows; the unused ones are NaN in each of their values and scales.
    pub(crate) fn fp8(row: Fp8Row, block_size: usize, sizes: &[(usize, usize)]) -> Self {
        let mut paged = Self::new(DType::F32, block_size, row.width(), sizes);
        let mut bytes = vec![0xFF; paged.cache.len() / row.width() * row.bytes()];
        let rows = paged.cache.to_vec_f32();
        for (values, to) in rows.chunks_exact(row.width()).zip(bytes.chunks_exact_mut(row.bytes())) {
            if !values[0].is_nan() {
                row.encode(values, to);
            }
        }
        let shape = [paged.cache.dim(0), block_size, row.bytes()];
        paged.cache =
            Tensor::from_bytes(&Device::Cpu, DType::U8, &shape, AlignedBytes::copy_of(&bytes)).unwrap();
        (paged.dtype, paged.packed) = (DType::U8, Some(row));
        paged
    }

    /// Cache and paging on `device`; every table ends in an entry that nobody may follow.
    pub(crate) fn on(&self, device: &Device) -> (Tensor, PagedBatch) {
        let tables: Vec<Vec<u32>> = self.sequences.iter().map(|s| [&s.2[..], &[u32::MAX]].concat()).collect();
        let lists: Vec<_> = self.sequences.iter().zip(&tables).map(|(s, t)| (s.0, s.1, &t[..])).collect();
        (
            self.cache.to_device(device).unwrap(),
            PagedBatch::new(device, self.batch.block_size, &lists).unwrap(),
        )
    }

    pub(crate) fn tokens(&self) -> usize {
        self.visible.len()
    }

    /// The cache as the references read it: poison replaced by zeros, which they never look at.
    pub(crate) fn rows(&self) -> Vec<f32> {
        let Some(row) = self.packed else { return self.cache.to_vec_f32() };
        let mut rows = vec![0.0; self.cache.dim(0) * self.cache.dim(1) * row.width()];
        let bytes = self.cache.host_bytes().unwrap();
        for (values, bytes) in rows.chunks_exact_mut(row.width()).zip(bytes.chunks_exact(row.bytes())) {
            row.decode(bytes, values);
        }
        rows
    }

    /// The sequences as the CPU attention takes them.
    pub(crate) fn walk(&self) -> Vec<kernels::cpu::Sequence<'_>> {
        let mut start = 0;
        self.sequences
            .iter()
            .map(|(new, context, blocks)| {
                start += new;
                kernels::cpu::Sequence { queries: start - new..start, context: *context, blocks }
            })
            .collect()
    }

    /// Typed rows for the CPU attention; `store` keeps the copy alive.
    pub(crate) fn typed<'a>(&self, store: &'a mut (Vec<f32>, Vec<half::bf16>)) -> CacheRows<'a> {
        store.0 = self.rows();
        store.1 = store.0.iter().map(|v| half::bf16::from_f32(*v)).collect();
        if self.dtype == DType::F32 { CacheRows::F32(&store.0) } else { CacheRows::Bf16(&store.1) }
    }
}

/// Sequences that start, go on, decode, end on a block's edge and cross a span of keys.
pub(crate) const STEPS: [&[(usize, usize)]; 5] =
    [&[(1, 1)], &[(7, 7), (1, 33), (5, 16)], &[(1, 130)], &[(70, 70)], &[(3, 1030), (1, 2049)]];

fn broken(change: impl Fn(&mut PagedBatch)) -> KernelError {
    let mut paged = Paged::new(DType::F32, 4, 24, &[(2, 6), (1, 3)]);
    change(&mut paged.batch);
    let q = tensor(&[3, 2, 24], &values(1, 3 * 2 * 24));
    ops::paged_mla(&q, &paged.cache, &paged.batch, None, 1.0, 16).unwrap_err()
}

#[test]
fn bad_indices_are_errors() {
    let value = |e: KernelError, name: &str| {
        assert!(matches!(e, KernelError::Value { arg, .. } if arg == name), "{e}");
    };
    value(broken(|b| b.block_tables = ids(&[2, 2], &[1, u32::MAX, 0, 0])), "block_tables");
    value(broken(|b| b.block_tables = ids(&[2, 2], &[1, 7, 0, 0])), "block_tables");
    value(broken(|b| b.context_lens = ids(&[2], &[9, 3])), "context_lens");
    value(broken(|b| b.context_lens = ids(&[2], &[1, 3])), "query_start");
    value(broken(|b| b.query_start = ids(&[3], &[0, 5, 3])), "query_start");
    value(broken(|b| b.query_start = ids(&[3], &[0, 2, 2])), "query_start");
    value(broken(|b| b.query_start = ids(&[3], &[1, 2, 3])), "query_start");
    assert!(matches!(broken(|b| b.query_start = ids(&[2], &[0, 3])), KernelError::Shape { .. }));
    assert!(matches!(broken(|b| b.block_size = 5), KernelError::Shape { arg: "cache", .. }));
}

#[test]
fn unused_table_entries_are_not_looked_at() {
    let mut paged = Paged::new(DType::F32, 4, 24, &[(2, 6), (1, 3)]);
    let mut table = paged.batch.block_tables.to_vec_u32().unwrap();
    assert_eq!(table[3], u32::MAX, "the shorter sequence's row is filled up with poison");
    table.truncate(4);
    paged.batch.block_tables = ids(&[2, 2], &table);
    let q = tensor(&[3, 2, 24], &values(1, 3 * 2 * 24));
    let out = ops::paged_mla(&q, &paged.cache, &paged.batch, None, 1.0, 16).unwrap();
    assert!(out.to_vec_f32().iter().all(|v| v.is_finite()));
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let new = |size, sequences: &[(usize, usize, &[u32])]| PagedBatch::new(&Device::Cpu, size, sequences);
    assert!(matches!(new(0, &[]), Err(KernelError::Value { .. })));
    assert!(matches!(new(4, &[(3, 2, &[0])]), Err(KernelError::Value { .. })));
    assert!(matches!(new(4, &[(1, 5, &[0])]), Err(KernelError::Value { .. })));
    let step = new(4, &[(2, 6, &[9, 3])]).unwrap();
    assert_eq!(step.slot_mapping.to_vec_u32().unwrap(), [12, 13]);
}

#[test]
fn a_batch_in_place_is_the_batch_made_anew() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let mut batch = PagedBatch::resident(&device, 4, [2, 2], 3).unwrap();
        for sequences in [[(1, 5, &[7, 2][..]), (1, 1, &[0])], [(1, 12, &[1, 2, 3]), (1, 4, &[9])]] {
            let slots = [sequences[0].1 as u32, 3];
            batch.rewrite(&sequences, Some(&slots)).unwrap();
            let fresh = PagedBatch::new(&device, 4, &sequences).unwrap().with_state_slots(&slots).unwrap();
            for (ours, theirs) in [
                (&batch.query_start, &fresh.query_start),
                (&batch.context_lens, &fresh.context_lens),
                (&batch.slot_mapping, &fresh.slot_mapping),
                (batch.state_slots.as_ref().unwrap(), fresh.state_slots.as_ref().unwrap()),
            ] {
                assert_eq!(ours.to_vec_u32().unwrap(), theirs.to_vec_u32().unwrap());
            }
            let (table, width) = (batch.block_tables.to_vec_u32().unwrap(), fresh.block_tables.dim(1));
            for (row, blocks) in fresh.block_tables.to_vec_u32().unwrap().chunks(width).enumerate() {
                assert_eq!(table[row * 3..][..width], *blocks);
                assert!(table[row * 3 + width..][..3 - width].iter().all(|&block| block == u32::MAX));
            }
        }
        assert!(batch.rewrite(&[(1, 1, &[0][..])], None).is_err(), "another number of sequences");
        let two = [(1, 12, &[0, 1, 2][..]), (1, 1, &[0])];
        assert!(batch.rewrite(&two, None).is_ok());
        assert!(batch.rewrite(&two, Some(&[1])).is_err(), "another number of slots");
        assert!(batch.rewrite(&[(1, 13, &[0, 1, 2, 3][..]), (1, 1, &[0])], None).is_err(), "a longer table");
    }
}
