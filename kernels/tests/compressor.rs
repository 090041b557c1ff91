//! `compress`. Catches: the overlap dropped or its halves exchanged, the position bias at the wrong place of the window,
//! a token of the state taken from another slot, rope at the window's last position, results that depend on the chunks or on
//! tokens that were taken back; packed entries that are not the rounded ones, index keys that
//! are not rotated before.

use kernels::ops::{self, Compressor};
use kernels::{
    DType, Device, Fp4KeyRow, IndexKeyRow, KernelError, PackedRow, Precision, RopeLayout, RopeTable,
    SharedKvRow, Tensor, reference,
};
use testkit::soft_gpu;

use crate::common::{close, ids, tensor, values};
use crate::state_ring::{batch, take_back};

const BLOCK: usize = 16;
const FREQUENCIES: [f32; 2] = [1.0, 0.25];

/// One sequence's projections, and the compressor that is applied to them.
struct Case {
    compressor: Compressor,
    values: Vec<f32>,
    gates: Vec<f32>,
    channels: usize,
    dim: usize,
}

fn case(ratio: usize, overlaps: bool, dim: usize, tokens: usize, seed: u64) -> Case {
    let channels = if overlaps { 2 * dim } else { dim };
    let ape = tensor(&[ratio, channels], &values(seed, ratio * channels));
    let norm = tensor(&[dim], &values(seed + 1, dim));
    let packed = PackedRow::SharedKv(SharedKvRow { head_dim: dim, qk_rope_head_dim: 4 });
    let compressor = Compressor { ape, norm, eps: 1e-6, packed };
    assert_eq!(compressor.overlaps(), overlaps);
    let gates = values(seed + 2, tokens * channels).iter().map(|g| 3.0 * g).collect();
    Case { compressor, values: values(seed + 3, tokens * channels), gates, channels, dim }
}

impl Case {
    /// Entries of the first `tokens` tokens, rotated.
    fn want(&self, tokens: usize) -> Vec<f32> {
        let (ape, norm) = (self.compressor.ape.to_vec_f32(), self.compressor.norm.to_vec_f32());
        let (c, ratio) = (self.channels, self.compressor.ratio());
        let (v, g) = (&self.values[..tokens * c], &self.gates[..tokens * c]);
        let mut entries = reference::compress(v, g, &ape, &norm, 1e-6, ratio);
        for (w, entry) in entries.chunks_exact_mut(self.dim).enumerate() {
            let angles = FREQUENCIES.map(|f| (w * ratio) as f32 * f);
            let nope = self.dim - 4;
            reference::rope(
                &mut entry[nope..],
                &angles.map(f32::cos),
                &angles.map(f32::sin),
                RopeLayout::Interleaved,
            );
        }
        entries
    }

    /// `[values | gates]` of tokens `range`.
    fn projected(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        let c = self.channels;
        range.flat_map(|t| [&self.values[t * c..][..c], &self.gates[t * c..][..c]].concat()).collect()
    }
}

/// Runs two sequences side by side in steps of `chunks` (cycled), and returns each one's entries. After every step
/// `taken_back` tokens of NaN are written and forgotten, which the state just has room for.
fn run(
    device: &Device,
    cases: [&Case; 2],
    lens: [usize; 2],
    chunks: &[usize],
    taken_back: usize,
) -> [Vec<f32>; 2] {
    run_in(device, DType::F32, cases, lens, chunks, taken_back)
}

/// The same, with a cache of `dtype`.
fn run_in(
    device: &Device,
    dtype: DType,
    cases: [&Case; 2],
    lens: [usize; 2],
    chunks: &[usize],
    taken_back: usize,
) -> [Vec<f32>; 2] {
    let Case { compressor, channels, dim, .. } = cases[0];
    let compressor = &Compressor {
        ape: compressor.ape.to_device(device).unwrap(),
        norm: compressor.norm.to_device(device).unwrap(),
        eps: compressor.eps,
        packed: compressor.packed,
    };
    let (ratio, width) = (compressor.ratio(), 2 * channels);
    let poison = |dtype, shape: &[usize]| Tensor::filled(device, dtype, shape, 0xFF).unwrap();
    let rows = BLOCK / ratio;
    let packed = compressor.packed;
    let mut cache = poison(dtype, &[64, rows, if dtype == DType::U8 { packed.bytes() } else { *dim }]);
    let state_rows = compressor.ring_rows() + taken_back.saturating_sub(1);
    let mut state = poison(DType::F32, &[3, state_rows, width]);
    let (mut done, mut step) = ([0, 0], 0);
    while done != lens {
        // The second sequence starts a step later.
        let size = chunks[step % chunks.len()];
        let new = [size.min(lens[0] - done[0]), if step == 0 { 0 } else { size.min(lens[1] - done[1]) }];
        let end = [done[0] + new[0], done[1] + new[1]];
        let both = [0, 1].map(|s| cases[s].projected(done[s]..end[s])).concat();
        let positions: Vec<u32> = (0..2).flat_map(|s| done[s] as u32..end[s] as u32).collect();
        let positions = Tensor::from_u32(device, &[positions.len()], &positions).unwrap();
        let table = RopeTable::strided(&positions, &FREQUENCIES, 1.0, ratio as u32).unwrap();
        let batch = batch(device, BLOCK, &[(new[0], end[0]), (new[1], end[1])], &[2, 0]);
        let projected = Tensor::from_f32(device, &[new[0] + new[1], width], &both).unwrap();
        ops::compress(&mut cache, &projected, &state, compressor, &table, &batch).unwrap();
        ops::ring_write(&mut state, &projected, &batch).unwrap();
        (done, step) = (end, step + 1);
        take_back(&mut state, BLOCK, done, taken_back);
    }
    let found = match dtype {
        DType::U8 => unpacked(packed, &cache),
        _ => cache.to_vec_f32(),
    };
    [0, 1].map(|s| {
        let row = |w: usize| ((w / rows) * 4 + s) * rows + w % rows;
        (0..lens[s] / ratio).flat_map(|w| found[row(w) * dim..][..*dim].to_vec()).collect()
    })
}

/// The values of a cache of packed rows.
fn unpacked(packed: PackedRow, cache: &Tensor) -> Vec<f32> {
    let cache = cache.host_bytes().unwrap();
    let decode = |row: usize| {
        let mut values = vec![0.0; packed.width()];
        packed.decode(&cache, row, &mut values);
        values
    };
    (0..cache.len() / packed.bytes()).flat_map(decode).collect()
}

fn check_packed(device: &Device) {
    for (ratio, overlaps, dim) in [(4, true, 150), (4, true, 32), (8, false, 75), (16, false, 132)] {
        let mut one = case(ratio, overlaps, dim, 40, 3);
        // Groups of 64 channels of other magnitudes.
        let norm: Vec<f32> =
            values(9, dim).iter().enumerate().map(|(c, v)| v * [0.01, 1.0, 70.0][c / 64]).collect();
        one.compressor.norm = tensor(&[dim], &norm);
        let [exact, found] =
            [DType::F32, DType::U8].map(|dtype| run_in(device, dtype, [&one, &one], [40, 23], &[7], 0));
        for (exact, found) in exact.iter().zip(&found) {
            let want: Vec<f32> =
                exact.chunks_exact(dim).flat_map(|row| reference::shared_kv_row(row, 4)).collect();
            assert_eq!(*found, want, "{device} {ratio} {overlaps} {dim}");
        }
    }
}

#[test]
fn packed_entries_are_the_rounded_ones() {
    check_packed(&Device::Cpu);
    soft_gpu().under_all_schedules(Precision::Bf16, check_packed);
}

/// Index keys are rotated before they are rounded; a value at the middle between two codes may fall to either side, where the
/// rotation added up in another order.
fn check_packed_keys(device: &Device) {
    for (ratio, overlaps, dim) in [(4, true, 128), (4, true, 16), (8, false, 64), (2, true, 4)] {
        let mut one = case(ratio, overlaps, dim, 40, 3);
        let exact = run(device, [&one, &one], [40, 23], &[7], 0);
        let rotated = |row: &[f32]| reference::hadamard(row);
        let want = |round: fn(&[f32]) -> Vec<f32>| {
            exact.each_ref().map(|rows| rows.chunks_exact(dim).flat_map(|r| round(&rotated(r))).collect())
        };
        let fp8 = |row: &[f32]| {
            let (codes, scale) = reference::fp8_power_of_two(row);
            codes.iter().map(|code| code * scale).collect()
        };
        let forms: [(PackedRow, [Vec<f32>; 2]); 2] = [
            (PackedRow::IndexKey(IndexKeyRow { index_head_dim: dim }), want(fp8)),
            (PackedRow::Fp4Key(Fp4KeyRow { index_head_dim: dim }), want(reference::fp4_power_of_two)),
        ];
        for (packed, want) in forms {
            one.compressor.packed = packed;
            let found = run_in(device, DType::U8, [&one, &one], [40, 23], &[7], 0);
            for (want, found) in want.iter().zip(&found) {
                assert_eq!(want.len(), found.len());
                let other = want.iter().zip(found).filter(|(a, b)| a != b).count();
                assert!(other * 500 <= want.len(), "{device} {packed:?}: {other} of {}", want.len());
                close(&format!("{device} {packed:?}"), found, want, 1.0);
            }
        }
    }
}

#[test]
fn packed_index_keys_are_rotated_and_rounded() {
    check_packed_keys(&Device::Cpu);
    soft_gpu().under_all_schedules(Precision::Bf16, check_packed_keys);
}

fn check(device: &Device, chunkings: &[&[usize]]) {
    for (ratio, overlaps, dim) in
        [(4, true, 32), (4, true, 13), (8, false, 32), (16, false, 40), (2, true, 6)]
    {
        let lens = [70, 37];
        let cases = [11, 50].map(|seed| case(ratio, overlaps, dim, 70, seed));
        // One compressor for both sequences.
        let cases = [
            &cases[0],
            &Case { compressor: cases[0].compressor.clone(), ..case(ratio, overlaps, dim, 70, 50) },
        ];
        for chunks in chunkings {
            for taken_back in [0, 5] {
                let got = run(device, cases, lens, chunks, taken_back);
                for s in [0, 1] {
                    let what = format!("{ratio} {overlaps} {dim} {chunks:?} -{taken_back} sequence {s}");
                    close(&what, &got[s], &cases[s].want(lens[s]), 1e-5);
                }
            }
        }
    }
}

#[test]
fn matches_the_reference_in_any_chunks() {
    check(&Device::Cpu, &[&[1], &[3, 1, 9], &[7], &[70], &[16]]);
}

#[test]
fn a_gpu_matches_the_reference() {
    let gpu = soft_gpu();
    check(&gpu.device(Precision::F32), &[&[3, 1, 9], &[70]]);
    gpu.under_all_schedules(Precision::Bf16, |device| check(device, &[&[16]]));
}

#[test]
fn chunks_do_not_show_in_the_bits() {
    for (ratio, overlaps) in [(4, true), (8, false)] {
        let cases = [case(ratio, overlaps, 32, 70, 1), case(ratio, overlaps, 32, 70, 1)];
        let whole = run(&Device::Cpu, [&cases[0], &cases[1]], [70, 33], &[70], 0);
        for chunks in [&[1][..], &[5, 2]] {
            assert_eq!(
                run(&Device::Cpu, [&cases[0], &cases[1]], [70, 33], chunks, 0),
                whole,
                "{ratio} {chunks:?}"
            );
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let Case { compressor, .. } = case(4, true, 8, 4, 1);
    let zeros = |shape: &[usize]| tensor(shape, &vec![0.0; shape.iter().product()]);
    let table = RopeTable::new(&ids(&[2], &[0, 1]), &FREQUENCIES, 1.0).unwrap();
    let fails = |cache: &[usize], projected: &[usize], state: &[usize]| {
        let batch = batch(&Device::Cpu, 16, &[(2, 2)], &[0]);
        let result =
            ops::compress(&mut zeros(cache), &zeros(projected), &zeros(state), &compressor, &table, &batch);
        matches!(result, Err(KernelError::Shape { .. }))
    };
    assert!(!fails(&[1, 4, 8], &[2, 32], &[1, 8, 32]));
    assert!(fails(&[1, 16, 8], &[2, 32], &[1, 8, 32]) && fails(&[1, 4, 9], &[2, 32], &[1, 8, 32]));
    assert!(fails(&[1, 4, 8], &[2, 16], &[1, 8, 32]) && fails(&[1, 4, 8], &[3, 32], &[1, 8, 32]));
    assert!(fails(&[1, 4, 8], &[2, 32], &[1, 7, 32]) && fails(&[1, 4, 8], &[2, 32], &[1, 8, 16]));
}
