//! `window_attention`. Catches: a sink left out or given a value, a window one row too long or too short, an entry seen before
//! its last token, a row of another sequence, results that depend on the chunks or on rows that were taken back; on a GPU
//! splits that do not add up, stray reads, missing barriers; of packed rows another scale or rope channels at another place.

use kernels::cpu::AlignedBytes;
use kernels::ops::{self, CompressedEntries, PagedBatch, RecentRows};
use kernels::{DType, Device, KernelError, Precision, SharedKvRow, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, packed, rounded, tensor, values};
use crate::state_ring::{batch, take_back};

const BLOCK: usize = 16;
const DIM: usize = 24;
const HEADS: usize = 3;

/// Packed rows of `dim` channels, of which about an eighth are rotated.
fn format(dim: usize) -> SharedKvRow {
    SharedKvRow { head_dim: dim, qk_rope_head_dim: (dim / 8).next_multiple_of(2) }
}

/// Elements of a row in `dtype`.
fn width(dtype: DType, dim: usize) -> usize {
    if dtype == DType::U8 { format(dim).bytes() } else { dim }
}

/// `rows` of `dim` values, in `dtype` or packed as bytes.
fn stored(dtype: DType, shape: &[usize], rows: &[f32]) -> Tensor {
    let dim = shape[shape.len() - 1];
    if dtype != DType::U8 {
        return packed(dtype, shape, rows);
    }
    let row_bytes = format(dim).bytes();
    let mut bytes = vec![0; rows.len() / dim * row_bytes];
    for (row, to) in rows.chunks_exact(dim).zip(bytes.chunks_exact_mut(row_bytes)) {
        format(dim).encode(row, to);
    }
    let shape = [&shape[..shape.len() - 1], &[row_bytes]].concat();
    Tensor::from_bytes(&Device::Cpu, dtype, &shape, AlignedBytes::copy_of(&bytes)).unwrap()
}

/// A row as `dtype` holds it; every 64 channels are of another magnitude than their neighbours.
fn held(dtype: DType, dim: usize, seed: usize) -> Vec<f32> {
    let row: Vec<f32> =
        values(seed as u64, dim).iter().enumerate().map(|(c, v)| v * [1.0, 0.25, 0.5][c / 64 % 3]).collect();
    match dtype {
        DType::U8 => reference::shared_kv_row(&row, format(dim).qk_rope_head_dim),
        _ => packed(dtype, &[dim], &row).to_vec_f32(),
    }
}

/// The row of a position of a sequence.
fn row(dtype: DType, dim: usize, s: usize, p: usize) -> Vec<f32> {
    held(dtype, dim, s * 1000 + p)
}

fn entry(dtype: DType, dim: usize, s: usize, w: usize) -> Vec<f32> {
    held(dtype, dim, s * 1000 + w + 500_000)
}

/// The listed entries of the query at `position`: every other one that it may see, out of order.
fn listed(position: usize, ratio: usize) -> Vec<u32> {
    (0..((position + 1) / ratio) as u32).rev().filter(|w| w % 2 == 0).collect()
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    /// `[H, D]`.
    heads: [usize; 2],
    dtype: DType,
    window: usize,
    /// Tokens of an entry; 0 without entries.
    ratio: usize,
    lists: bool,
}

impl Layer {
    fn scale(&self) -> f32 {
        (self.heads[1] as f32).powf(-0.5)
    }

    fn recent<'a>(&self, fresh: &'a Tensor, ring: &'a Tensor) -> RecentRows<'a> {
        let qk_rope_head_dim = format(self.heads[1]).qk_rope_head_dim;
        RecentRows { fresh, ring, window: self.window, qk_rope_head_dim }
    }

    fn sinks(&self) -> Vec<f32> {
        (0..self.heads[0]).map(|head| [0.5, -1.0, 2.0][head % 3]).collect()
    }

    /// Values that bf16 holds, as every device then multiplies them.
    fn query(&self, s: usize, p: usize) -> Vec<f32> {
        rounded(&values((s * 1000 + p + 70_000) as u64, self.heads[0] * self.heads[1]))
    }

    /// What the query of sequence `s` at `position` sees, and its attention.
    fn want(&self, s: usize, position: usize, q: &[f32]) -> Vec<f32> {
        let oldest = (position + 1).saturating_sub(self.window);
        let (dtype, dim) = (self.dtype, self.heads[1]);
        let mut rows: Vec<f32> = (oldest..=position).flat_map(|p| row(dtype, dim, s, p)).collect();
        if let Some(visible) = (position + 1).checked_div(self.ratio) {
            let all = (0..visible as u32).collect();
            let seen = if self.lists { listed(position, self.ratio) } else { all };
            rows.extend(seen.iter().flat_map(|&w| entry(dtype, dim, s, w as usize)));
        }
        let visible = [(0..(rows.len() / dim) as u32).collect()];
        reference::window(q, &rows, &visible, &self.sinks(), self.heads, self.scale())
    }

    /// The compressed cache of two sequences, NaN where they have no entry.
    fn cache(&self, lens: [usize; 2]) -> Tensor {
        let (rows, dim) = (BLOCK / self.ratio, self.heads[1]);
        let blocks = 4 * lens[0].max(lens[1]).div_ceil(BLOCK);
        let mut cache = vec![f32::NAN; blocks * rows * dim];
        for s in [0, 1] {
            for w in 0..lens[s] / self.ratio {
                let at = ((w / rows) * 4 + s) * rows + w % rows;
                cache[at * dim..][..dim].copy_from_slice(&entry(self.dtype, dim, s, w));
            }
        }
        stored(self.dtype, &[blocks, rows, dim], &cache)
    }

    /// Attention of every token of two sequences, run in steps of `chunks` (cycled); `[S][T * H * D]`. After every step
    /// `taken_back` rows of NaN are written and forgotten, which the ring just has room for.
    fn run(&self, device: &Device, lens: [usize; 2], chunks: &[usize], taken_back: usize) -> [Vec<f32>; 2] {
        let on = |tensor: Tensor| tensor.to_device(device).unwrap();
        let [heads, dim] = self.heads;
        let ring_rows = self.window + taken_back.saturating_sub(1);
        let mut ring =
            Tensor::filled(device, self.dtype, &[3, ring_rows, width(self.dtype, dim)], 0xFF).unwrap();
        let cache = (self.ratio > 0).then(|| on(self.cache(lens)));
        let (mut done, mut step, mut out) = ([0, 0], 0, [Vec::new(), Vec::new()]);
        while done != lens {
            let size = chunks[step % chunks.len()];
            let new = [size.min(lens[0] - done[0]), if step == 0 { 0 } else { size.min(lens[1] - done[1]) }];
            let tokens = new[0] + new[1];
            let each: Vec<(usize, usize)> =
                (0..2).flat_map(|s| (done[s]..done[s] + new[s]).map(move |p| (s, p))).collect();
            let q: Vec<f32> = each.iter().flat_map(|&(s, p)| self.query(s, p)).collect();
            let fresh: Vec<f32> = each.iter().flat_map(|&(s, p)| row(self.dtype, dim, s, p)).collect();
            let fresh = on(stored(self.dtype, &[tokens, dim], &fresh));
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
            let q = on(tensor(&[tokens, heads, dim], &q));
            let sinks = on(tensor(&[heads], &self.sinks()));
            let recent = self.recent(&fresh, &ring);
            let got = ops::window_attention(&q, recent, entries, &sinks, &batch, self.scale()).unwrap();
            ops::ring_write(&mut ring, &fresh, &batch).unwrap();
            for ((s, _), row) in each.iter().zip(got.to_vec_f32().chunks_exact(heads * dim)) {
                out[*s].extend_from_slice(row);
            }
            (done, step) = ([done[0] + new[0], done[1] + new[1]], step + 1);
            take_back(&mut ring, BLOCK, done, taken_back);
        }
        out
    }

    /// The last `new` of `context` tokens in one step, behind a ring that holds the ones before.
    fn check_decode(&self, device: &Device, context: usize, new: usize) {
        let [heads, dim] = self.heads;
        let on = |tensor: Tensor| tensor.to_device(device).unwrap();
        let start = context - new;
        let mut ring = vec![f32::NAN; 2 * self.window * dim];
        for p in start - self.window..start {
            let at = (self.window + p % self.window) * dim;
            ring[at..][..dim].copy_from_slice(&row(self.dtype, dim, 0, p));
        }
        let ring = on(stored(self.dtype, &[2, self.window, dim], &ring));
        let fresh: Vec<f32> = (start..context).flat_map(|p| row(self.dtype, dim, 0, p)).collect();
        let fresh = on(stored(self.dtype, &[new, dim], &fresh));
        let q: Vec<f32> = (start..context).flat_map(|p| self.query(0, p)).collect();
        let want: Vec<f32> = (start..context).flat_map(|p| self.want(0, p, &self.query(0, p))).collect();
        let places = context / (2 * self.ratio.max(1)) + 1;
        let list = |p: usize| {
            let mut list = listed(p, self.ratio);
            list.resize(places, u32::MAX);
            list
        };
        let lists =
            self.lists.then(|| on(ids(&[new, places], &(start..context).flat_map(list).collect::<Vec<_>>())));
        let cache = (self.ratio > 0).then(|| on(self.cache([context, 0])));
        let entries = cache.as_ref().map(|cache| CompressedEntries { cache, indices: lists.as_ref() });
        let batch = batch(device, BLOCK, &[(new, context)], &[1]);
        let (q, sinks) = (on(tensor(&[new, heads, dim], &q)), on(tensor(&[heads], &self.sinks())));
        let scale = self.scale();
        let got = ops::window_attention(&q, self.recent(&fresh, &ring), entries, &sinks, &batch, scale);
        let what = format!("{self:?} on {device}");
        close(&what, &got.unwrap().to_vec_f32(), &want, tolerance(device, self.dtype));
    }
}

const fn layer(dtype: DType, window: usize, ratio: usize, lists: bool) -> Layer {
    Layer { heads: [HEADS, DIM], dtype, window, ratio, lists }
}

const LAYERS: [Layer; 7] = [
    layer(DType::F32, 16, 0, false),
    layer(DType::F32, 5, 4, true),
    layer(DType::BF16, 16, 4, true),
    layer(DType::F32, 7, 16, false),
    layer(DType::BF16, 1, 8, false),
    layer(DType::U8, 5, 4, true),
    layer(DType::U8, 16, 8, false),
];

/// How far means of values below 1 may be off. On tensor cores exponentials are rounded to bf16, and rows in single
/// precision too, each by at most 2^-9 of themselves.
fn tolerance(device: &Device, rows: DType) -> f32 {
    match (device.activation_dtype(), rows) {
        (DType::BF16, DType::BF16 | DType::U8) => 2.0 / 512.0,
        (DType::BF16, _) => 4.0 / 512.0,
        _ => 1e-5,
    }
}

fn check(device: &Device, layers: &[Layer], lens: [usize; 2], chunkings: &[&[usize]]) {
    for layer in layers {
        let want = |s: usize| (0..lens[s]).flat_map(|p| layer.want(s, p, &layer.query(s, p))).collect();
        let want: [Vec<f32>; 2] = [want(0), want(1)];
        let whole = layer.run(device, lens, &[70], 0);
        for s in [0, 1] {
            let what = format!("{layer:?} sequence {s}");
            close(&what, &whole[s], &want[s], tolerance(device, layer.dtype));
        }
        for chunks in chunkings {
            for taken_back in [0, 5] {
                let got = layer.run(device, lens, chunks, taken_back);
                assert_eq!(got, whole, "{layer:?} in chunks of {chunks:?}, {taken_back} rows taken back");
            }
        }
    }
}

const LENS: [usize; 2] = [70, 37];

#[test]
fn matches_the_reference_in_any_chunks() {
    check(&Device::Cpu, &LAYERS, LENS, &[&[1], &[3, 1, 9], &[16]]);
}

#[test]
fn a_gpu_matches_the_reference() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        check(&gpu.device(precision), &LAYERS, LENS, &[&[3, 1, 9]]);
    }
    gpu.under_all_schedules(Precision::Bf16, |device| {
        check(device, &[LAYERS[1], LAYERS[2], LAYERS[5]], [23, 9], &[]);
    });
}

/// Every instance of the kernel: tiles of 16 and of 64 heads, short and long rows, more heads than a tile has.
#[test]
fn heads_of_the_released_models() {
    let gpu = soft_gpu();
    let layer = |heads, dim, dtype| Layer { heads: [heads, dim], dtype, window: 6, ratio: 4, lists: true };
    for (precision, heads, dim) in [
        (Precision::Bf16, 64, 512),
        (Precision::Bf16, 128, 512),
        (Precision::Bf16, 17, 32),
        (Precision::Bf16, 8, 512),
        (Precision::F32, 20, 512),
        (Precision::F32, 17, 128),
        (Precision::F32, 3, 137),
    ] {
        let dtype = if precision == Precision::F32 { DType::F32 } else { DType::BF16 };
        let layers = [dtype, DType::U8].map(|dtype| layer(heads, dim, dtype));
        check(&gpu.device(precision), &layers, [10, 3], &[&[3, 1]]);
    }
}

/// A step of few tokens splits many keys over blocks: a window longer than a split, then entries, all or listed.
#[test]
fn splits_add_up() {
    let gpu = soft_gpu();
    for (window, ratio, lists, dtype) in [
        (300, 4, false, DType::BF16),
        (250, 2, true, DType::BF16),
        (600, 0, false, DType::BF16),
        (250, 2, true, DType::U8),
    ] {
        let layer = Layer { heads: [HEADS, DIM], dtype, window, ratio, lists };
        for precision in [Precision::F32, Precision::Bf16] {
            layer.check_decode(&gpu.device(precision), 700, 3);
        }
        layer.check_decode(&Device::Cpu, 700, 3);
    }
}

#[test]
fn a_huge_sink_takes_everything() {
    let batch = batch(&Device::Cpu, BLOCK, &[(1, 1)], &[0]);
    let rows = tensor(&[1, DIM], &[1.0; DIM]);
    let ring = tensor(&[1, 4, DIM], &[0.0; 4 * DIM]);
    let q = tensor(&[1, 1, DIM], &[1.0; DIM]);
    for (sink, want) in [(1e30, 0.0), (-1e30, 1.0)] {
        let sinks = tensor(&[1], &[sink]);
        let recent = RecentRows { fresh: &rows, ring: &ring, window: 4, qk_rope_head_dim: 4 };
        let out = ops::window_attention(&q, recent, None, &sinks, &batch, 1.0).unwrap();
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
        let ring = &zeros(&[1, 4, DIM]);
        let recent = RecentRows { fresh, ring, window: 4, qk_rope_head_dim: 4 };
        ops::window_attention(&zeros(q), recent, Some(entries), &zeros(&[sinks]), batch, 1.0)
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
    let windows = |window: usize| {
        let ring = &zeros(&[1, 4, DIM]);
        let recent = RecentRows { fresh: &fresh, ring, window, qk_rope_head_dim: 4 };
        ops::window_attention(&zeros(&q), recent, None, &zeros(&[3]), &batch, 1.0)
    };
    assert!(windows(1).is_ok() && shape(windows(5)));
    assert_eq!(windows(0).unwrap_err().to_string(), "window_attention: window holds 0, expected at least 1");
    // Position 5 is the second token of window 1: only entry 0 is complete.
    let error = run(&q, &fresh, 3, Some(&[0, 1]), &batch).unwrap_err();
    assert_eq!(error.to_string(), "window_attention: indices holds 1, expected entries below 1");
}
