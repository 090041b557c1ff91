//! `rope_assign`. Catches: the two pair layouts exchanged, the wrong columns, the angles of another token.

use kernels::cpu::{self, Level};
use kernels::{KernelError, RopeLayout, RopeTable, ops, reference};

use crate::common::{close, ids, tensor, values};

fn table(positions: &[u32], half: usize) -> RopeTable {
    let freq: Vec<f32> = (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect();
    RopeTable::new(&ids(&[positions.len()], positions), &freq, 1.0).unwrap()
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
