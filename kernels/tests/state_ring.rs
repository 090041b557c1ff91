//! `ring_write`. Catches: a row in another sequence's slot, the first instead of the last rows of a long chunk.

use kernels::ops::{self, PagedBatch};
use kernels::{DType, Device, KernelError, Precision, Tensor};
use testkit::soft_gpu;

use crate::common::{packed, tensor, values};

/// Sequences of `(new tokens, tokens after the step)` in the given slots, without a cache worth speaking of.
pub(crate) fn batch(
    device: &Device,
    block_size: usize,
    sequences: &[(usize, usize)],
    slots: &[u32],
) -> PagedBatch {
    let tables: Vec<Vec<u32>> = sequences
        .iter()
        .enumerate()
        .map(|(s, (_, context))| (0..context.div_ceil(block_size) as u32).map(|b| b * 4 + s as u32).collect())
        .collect();
    let lists: Vec<_> = sequences.iter().zip(&tables).map(|(s, t)| (s.0, s.1, &t[..])).collect();
    PagedBatch::new(device, block_size, &lists).unwrap().with_state_slots(slots).unwrap()
}

/// Writes `count` rows of NaN behind the `lens` tokens of two sequences in slots 2 and 0, as guesses do that turn out wrong.
pub(crate) fn take_back(ring: &mut Tensor, block_size: usize, lens: [usize; 2], count: usize) {
    if count > 0 {
        let each = lens.map(|len| (count, len + count));
        let batch = batch(&ring.device(), block_size, &each, &[2, 0]);
        let rows = Tensor::filled(&ring.device(), ring.dtype(), &[2 * count, ring.dim(2)], 0xFF).unwrap();
        ops::ring_write(ring, &rows, &batch).unwrap();
    }
}

fn check_slots(device: &Device) {
    for dtype in [DType::F32, DType::BF16] {
        let (width, length) = (5, 4);
        let mut ring = Tensor::filled(device, dtype, &[3, length, width], 0xFF).unwrap();
        let row =
            |s: usize, p: usize| packed(dtype, &[width], &values((s * 100 + p) as u64, width)).to_vec_f32();
        let mut lens = [0, 0];
        // One token, a few, more than the ring holds, none.
        for new in [[1, 3], [2, 9], [6, 1], [0, 4]] {
            let rows: Vec<f32> =
                (0..2).flat_map(|s| (0..new[s]).flat_map(move |i| row(s, lens[s] + i))).collect();
            (0..2).for_each(|s| lens[s] += new[s]);
            let batch = batch(device, 16, &[(new[0], lens[0]), (new[1], lens[1])], &[2, 0]);
            let rows = packed(dtype, &[new[0] + new[1], width], &rows).to_device(device).unwrap();
            ops::ring_write(&mut ring, &rows, &batch).unwrap();
            let found = ring.to_vec_f32();
            for (s, slot) in [(0, 2), (1, 0)] {
                for p in lens[s].saturating_sub(length)..lens[s] {
                    let at = (slot * length + p % length) * width;
                    assert_eq!(found[at..at + width], row(s, p), "sequence {s} position {p}");
                }
            }
            assert!(found[length * width..2 * length * width].iter().all(|v| v.is_nan()), "nobody's slot");
        }
    }
}

#[test]
fn a_slot_holds_the_last_positions() {
    check_slots(&Device::Cpu);
}

#[test]
fn a_slot_holds_the_last_positions_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::F32, check_slots);
}

#[test]
fn refuses_what_does_not_fit() {
    let mut ring = tensor(&[2, 4, 3], &[0.0; 24]);
    let rows = tensor(&[2, 3], &[1.0; 6]);
    let mut write = |rows: &Tensor, batch: &PagedBatch| ops::ring_write(&mut ring, rows, batch).unwrap_err();
    let good = batch(&Device::Cpu, 4, &[(2, 2)], &[1]);
    assert!(matches!(write(&tensor(&[1, 3], &[1.0; 3]), &good), KernelError::Shape { .. }));
    assert!(matches!(write(&packed(DType::BF16, &[2, 3], &[1.0; 6]), &good), KernelError::DType { .. }));
    assert!(matches!(write(&rows, &batch(&Device::Cpu, 4, &[(2, 2)], &[2])), KernelError::Value { .. }));
    let plain = PagedBatch::new(&Device::Cpu, 4, &[(2, 2, &[0])]).unwrap();
    let error = write(&rows, &plain).to_string();
    assert_eq!(error, "ring_write: state_slots holds none, expected a slot for every sequence");
    assert!(plain.with_state_slots(&[0, 1]).is_err());
    ops::ring_write(&mut ring, &rows, &good).unwrap();
}
