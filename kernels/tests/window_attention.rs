//! `window_attention`. Catches: a sink left out or given a value, a window one row too long or too short, an entry seen before
//! its last token, a row of another sequence, results that depend on the chunks.

use kernels::cpu::AlignedBytes;
use kernels::ops::{self, CompressedEntries, PagedBatch};
use kernels::{DType, Device, KernelError, Precision, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, packed, tensor, values};
use crate::state_ring::batch;

const BLOCK: usize = 16;
const DIM: usize = 24;
const HEADS: usize = 3;
const SINKS: [f32; HEADS] = [0.5, -1.0, 2.0];

/// The row of a position of a sequence, rounded to `dtype`.
fn row(dtype: DType, s: usize, p: usize) -> Vec<f32> {
    packed(dtype, &[DIM], &values((s * 1000 + p) as u64, DIM)).to_vec_f32()
}

fn entry(dtype: DType, s: usize, w: usize) -> Vec<f32> {
    packed(dtype, &[DIM], &values((s * 1000 + w + 500_000) as u64, DIM)).to_vec_f32()
}

/// The listed entries of the query at `position`: every other one that it may see, out of order.
fn listed(position: usize, ratio: usize) -> Vec<u32> {
    (0..((position + 1) / ratio) as u32).rev().filter(|w| w % 2 == 0).collect()
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    dtype: DType,
    window: usize,
    /// Tokens of an entry; 0 without entries.
    ratio: usize,
    lists: bool,
}

impl Layer {
    /// What the query of sequence `s` at `position` sees, and its attention.
    fn want(&self, s: usize, position: usize, q: &[f32]) -> Vec<f32> {
        let oldest = (position + 1).saturating_sub(self.window);
        let mut rows: Vec<f32> = (oldest..=position).flat_map(|p| row(self.dtype, s, p)).collect();
        if let Some(visible) = (position + 1).checked_div(self.ratio) {
            let all = (0..visible as u32).collect();
            let seen = if self.lists { listed(position, self.ratio) } else { all };
            rows.extend(seen.iter().flat_map(|&w| entry(self.dtype, s, w as usize)));
        }
        let visible = [(0..(rows.len() / DIM) as u32).collect()];
        reference::window(q, &rows, &visible, &SINKS, [HEADS, DIM], 0.2)
    }

    /// The compressed cache of two sequences, NaN where they have no entry.
    fn cache(&self, lens: [usize; 2]) -> Tensor {
        let rows = BLOCK / self.ratio;
        let mut cache = vec![f32::NAN; 64 * rows * DIM];
        for s in [0, 1] {
            for w in 0..lens[s] / self.ratio {
                let at = ((w / rows) * 4 + s) * rows + w % rows;
                cache[at * DIM..][..DIM].copy_from_slice(&entry(self.dtype, s, w));
            }
        }
        packed(self.dtype, &[64, rows, DIM], &cache)
    }

    /// Attention of every token of two sequences, run in steps of `chunks` (cycled); `[S][T * H * D]`.
    fn run(&self, device: &Device, lens: [usize; 2], chunks: &[usize]) -> [Vec<f32>; 2] {
        let on = |tensor: Tensor| tensor.to_device(device).unwrap();
        let mut ring = Tensor::filled(device, self.dtype, &[3, self.window, DIM], 0xFF).unwrap();
        let cache = (self.ratio > 0).then(|| on(self.cache(lens)));
        let (mut done, mut step, mut out) = ([0, 0], 0, [Vec::new(), Vec::new()]);
        while done != lens {
            let size = chunks[step % chunks.len()];
            let new = [size.min(lens[0] - done[0]), if step == 0 { 0 } else { size.min(lens[1] - done[1]) }];
            let tokens = new[0] + new[1];
            let each: Vec<(usize, usize)> =
                (0..2).flat_map(|s| (done[s]..done[s] + new[s]).map(move |p| (s, p))).collect();
            let q: Vec<f32> = each.iter().flat_map(|&(s, p)| query(s, p)).collect();
            let fresh: Vec<f32> = each.iter().flat_map(|&(s, p)| row(self.dtype, s, p)).collect();
            let fresh = on(packed(self.dtype, &[tokens, DIM], &fresh));
            let batch =
                batch(device, BLOCK, &[(new[0], done[0] + new[0]), (new[1], done[1] + new[1])], &[2, 0]);
            let lists = (self.ratio > 0 && self.lists).then(|| {
                let list = |&(_, p): &(usize, usize)| {
                    let mut list = listed(p, self.ratio);
                    list.resize(40, u32::MAX);
                    list
                };
                on(ids(&[tokens, 40], &each.iter().flat_map(list).collect::<Vec<_>>()))
            });
            let entries = cache.as_ref().map(|cache| CompressedEntries { cache, indices: lists.as_ref() });
            let q = on(tensor(&[tokens, HEADS, DIM], &q));
            let sinks = on(tensor(&[HEADS], &SINKS));
            let got = ops::window_attention(&q, [&fresh, &ring], entries, &sinks, &batch, 0.2).unwrap();
            ops::ring_write(&mut ring, &fresh, &batch).unwrap();
            for ((s, _), row) in each.iter().zip(got.to_vec_f32().chunks_exact(HEADS * DIM)) {
                out[*s].extend_from_slice(row);
            }
            (done, step) = ([done[0] + new[0], done[1] + new[1]], step + 1);
        }
        out
    }
}

fn query(s: usize, p: usize) -> Vec<f32> {
    values((s * 1000 + p + 70_000) as u64, HEADS * DIM)
}

const LAYERS: [Layer; 5] = [
    Layer { dtype: DType::F32, window: 16, ratio: 0, lists: false },
    Layer { dtype: DType::F32, window: 5, ratio: 4, lists: true },
    Layer { dtype: DType::BF16, window: 16, ratio: 4, lists: true },
    Layer { dtype: DType::F32, window: 7, ratio: 16, lists: false },
    Layer { dtype: DType::BF16, window: 1, ratio: 8, lists: false },
];

fn check(device: &Device, chunkings: &[&[usize]]) {
    let lens = [70, 37];
    for layer in LAYERS {
        let want =
            [0, 1].map(|s| (0..lens[s]).flat_map(|p| layer.want(s, p, &query(s, p))).collect::<Vec<_>>());
        let whole = layer.run(device, lens, &[70]);
        for s in [0, 1] {
            close(&format!("{layer:?} sequence {s}"), &whole[s], &want[s], 1e-5);
        }
        for chunks in chunkings {
            assert_eq!(layer.run(device, lens, chunks), whole, "{layer:?} in chunks of {chunks:?}");
        }
    }
}

#[test]
fn matches_the_reference_in_any_chunks() {
    check(&Device::Cpu, &[&[1], &[3, 1, 9], &[16]]);
}

#[test]
fn a_gpu_matches_the_reference() {
    let gpu = soft_gpu();
    check(&gpu.device(Precision::F32), &[&[3, 1, 9]]);
    gpu.under_all_schedules(Precision::Bf16, |device| check(device, &[]));
}

#[test]
fn a_huge_sink_takes_everything() {
    let batch = batch(&Device::Cpu, BLOCK, &[(1, 1)], &[0]);
    let rows = tensor(&[1, DIM], &[1.0; DIM]);
    let ring = tensor(&[1, 4, DIM], &[0.0; 4 * DIM]);
    let q = tensor(&[1, 1, DIM], &[1.0; DIM]);
    for (sink, want) in [(1e30, 0.0), (-1e30, 1.0)] {
        let sinks = tensor(&[1], &[sink]);
        let out = ops::window_attention(&q, [&rows, &ring], None, &sinks, &batch, 1.0).unwrap();
        assert_eq!(out.to_vec_f32(), [want; DIM]);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let batch = batch(&Device::Cpu, BLOCK, &[(2, 6)], &[0]);
    let zeros = |shape: &[usize]| tensor(shape, &vec![0.0; shape.iter().product()]);
    let run = |q: &[usize], fresh: &Tensor, sinks: usize, lists: Option<&[u32]>, batch: &PagedBatch| {
        let cache = zeros(&[1, BLOCK / 4, DIM]);
        let lists = lists.map(|lists| ids(&[2, lists.len() / 2], lists));
        let entries = CompressedEntries { cache: &cache, indices: lists.as_ref() };
        let rows = [fresh, &zeros(&[1, 4, DIM])];
        ops::window_attention(&zeros(q), rows, Some(entries), &zeros(&[sinks]), batch, 1.0)
    };
    let fresh = zeros(&[2, DIM]);
    let q = [2, 3, DIM];
    assert!(run(&q, &fresh, 3, Some(&[0, 0]), &batch).is_ok());
    let shape = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(shape(run(&[1, 3, DIM], &fresh, 3, None, &batch)));
    assert!(shape(run(&[2, 3, DIM + 1], &fresh, 3, None, &batch)));
    assert!(shape(run(&q, &fresh, 2, None, &batch)));
    assert!(shape(run(&q, &zeros(&[1, DIM]), 3, None, &batch)));
    let half =
        Tensor::from_bytes(&Device::Cpu, DType::BF16, &[2, DIM], AlignedBytes::zeroed(4 * DIM)).unwrap();
    assert!(matches!(run(&q, &half, 3, None, &batch), Err(KernelError::DType { .. })));
    // Position 5 is the second token of window 1: only entry 0 is complete.
    let error = run(&q, &fresh, 3, Some(&[0, 1]), &batch).unwrap_err();
    assert_eq!(error.to_string(), "window_attention: indices holds 1, expected entries below 1");
}
