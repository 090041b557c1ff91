//! `rope_assign`. Catches: the two pair layouts exchanged, the wrong columns, the angles of another token.

use kernels::cpu::{self, Level};
use kernels::{KernelError, Precision, RopeLayout, RopeTable, Tensor, ops, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, tensor, values};

fn frequencies(half: usize) -> Vec<f32> {
    (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect()
}

fn table(positions: &[u32], half: usize) -> RopeTable {
    RopeTable::new(&ids(&[positions.len()], positions), &frequencies(half), 1.0).unwrap()
}

#[test]
fn matches_the_reference_and_leaves_other_columns() {
    let positions = [0, 5, 1000, 7];
    for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
        for (heads, dim, offset, half) in [(3, 50, 7, 19), (1, 64, 0, 32), (5, 192, 128, 32), (2, 2, 0, 1)] {
            let table = table(&positions, half);
            let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
            let x = values(4, positions.len() * heads * dim);
            let mut want = x.clone();
            for (i, head) in want.chunks_exact_mut(dim).enumerate() {
                let t = i / heads * half;
                reference::rope(
                    &mut head[offset..][..2 * half],
                    &cos[t..][..half],
                    &sin[t..][..half],
                    layout,
                );
            }
            for level in Level::available() {
                let mut got = x.clone();
                cpu::rope(level, &mut got, (heads, dim), offset..offset + 2 * half, (&cos, &sin), layout);
                // Two products below 1.5: the levels differ by fused rounding only.
                close(&format!("{layout:?} {dim} {level:?}"), &got, &want, 3e-7);
            }
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let mut x = tensor(&[2, 1, 8], &[1.0; 16]);
    let layout = RopeLayout::HalfSplit;
    for (offset, table) in [(1, table(&[0, 1], 4)), (0, table(&[0], 4)), (0, table(&[0, 1], 5))] {
        assert!(matches!(ops::rope_assign(&mut x, offset, &table, layout), Err(KernelError::Shape { .. })));
    }
    let mut uneven = table(&[0, 1], 4);
    uneven.sin = tensor(&[2, 3], &[0.0; 6]);
    assert!(matches!(ops::rope_assign(&mut x, 0, &uneven, layout), Err(KernelError::Shape { .. })));
    assert_eq!(x.to_vec_f32(), [1.0; 16]);
}

#[test]
fn a_stride_rounds_positions_down() {
    let strided = RopeTable::strided(&ids(&[5], &[0, 3, 4, 11, 130]), &frequencies(4), 1.5, 4).unwrap();
    let plain = RopeTable::new(&ids(&[5], &[0, 0, 4, 8, 128]), &frequencies(4), 1.5).unwrap();
    assert_eq!(strided.cos.to_vec_f32(), plain.cos.to_vec_f32());
    assert_eq!(strided.sin.to_vec_f32(), plain.sin.to_vec_f32());
    assert!(RopeTable::strided(&ids(&[1], &[0]), &frequencies(4), 1.0, 0).is_err());
}

/// Negative frequencies undo the rotation of their positive twins: what V4 does to the attention's output.
#[test]
fn negative_frequencies_rotate_back() {
    let positions = ids(&[3], &[0, 5, 1_000_003]);
    let frequencies = frequencies(4);
    let back: Vec<f32> = frequencies.iter().map(|f| -f).collect();
    let x = values(2, 3 * 2 * 12);
    let mut turned = tensor(&[3, 2, 12], &x);
    for frequencies in [&frequencies[..], &back] {
        let table = RopeTable::new(&positions, frequencies, 1.0).unwrap();
        ops::rope_assign(&mut turned, 4, &table, RopeLayout::Interleaved).unwrap();
    }
    close("there and back", &turned.to_vec_f32(), &x, 1e-6);
}

#[test]
fn a_gpu_matches_the_cpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for (heads, dim, offset, half) in
            [(3, 50, 7, 19), (1, 64, 0, 32), (5, 192, 128, 32), (2, 256, 0, 128), (2, 2, 0, 1)]
        {
            for positions in [&[0, 5, 163_839, 7][..], &[]] {
                let of =
                    |positions: Tensor| RopeTable::strided(&positions, &frequencies(half), 1.25, 4).unwrap();
                let on_cpu = of(ids(&[positions.len()], positions));
                let on_gpu = of(Tensor::from_u32(device, &[positions.len()], positions).unwrap());
                // Within two units in the last place of 1.25; a CPU takes the cosine in f64.
                close("cos", &on_gpu.cos.to_vec_f32(), &on_cpu.cos.to_vec_f32(), 2.5e-7);
                close("sin", &on_gpu.sin.to_vec_f32(), &on_cpu.sin.to_vec_f32(), 2.5e-7);
                let shape = [positions.len(), heads, dim];
                let x = values(4, shape.iter().product());
                for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
                    let (mut want, mut got) =
                        (tensor(&shape, &x), Tensor::from_f32(device, &shape, &x).unwrap());
                    ops::rope_assign(&mut want, offset, &on_cpu, layout).unwrap();
                    ops::rope_assign(&mut got, offset, &on_gpu, layout).unwrap();
                    close(&format!("{layout:?} {dim}"), &got.to_vec_f32(), &want.to_vec_f32(), 1e-6);
                }
            }
        }
    });
}

#[test]
fn a_gpu_refuses_what_it_cannot_hold() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let positions = Tensor::from_u32(&device, &[2], &[0, 1]).unwrap();
    let error = RopeTable::new(&positions, &[1.0; 129], 1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rope_table: inv_freq holds 129, expected at most 128 frequencies on a GPU"
    );
    let mut x = tensor(&[2, 1, 8], &[1.0; 16]).to_device(&device).unwrap();
    let error = ops::rope_assign(&mut x, 0, &table(&[0, 1], 4), RopeLayout::HalfSplit).unwrap_err();
    assert!(matches!(error, KernelError::Placement { arg: "table", .. }));
}
