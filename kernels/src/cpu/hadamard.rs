//! The Walsh-Hadamard rotation of index vectors, and their rounding to FP8 or FP4.

use super::parallel::{Disjoint, for_each};
use crate::{Fp4KeyRow, IndexKeyRow};

/// `row` times the Walsh-Hadamard matrix over the root of its length, which is a power of two.
pub fn hadamard(row: &mut [f32]) {
    let mut half = 1;
    while half < row.len() {
        for both in row.chunks_exact_mut(2 * half) {
            let (left, right) = both.split_at_mut(half);
            left.iter_mut().zip(right).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
        }
        half *= 2;
    }
    let norm = 1.0 / (row.len() as f32).sqrt();
    row.iter_mut().for_each(|v| *v *= norm);
}

/// Rotates every head of `q`, `[weights.len(), dim]`, and rounds it to e4m3 values; its scale goes into its weight.
pub fn hadamard_fp8(q: &mut [f32], weights: &mut [f32], dim: usize) {
    let (heads, work) = (weights.len(), 8 * q.len());
    let (q, weights) = (Disjoint::new(q), Disjoint::new(weights));
    for_each(heads, work, |i| {
        // SAFETY: every task has its own head.
        let (head, weight) = unsafe { (q.part(i * dim, dim), weights.part(i, 1)) };
        hadamard(head);
        weight[0] *= IndexKeyRow::round(head);
    });
}

/// Rotates every head of `q`, of `dim` channels, and rounds it to FP4 by 32s.
pub fn hadamard_fp4(q: &mut [f32], dim: usize) {
    let (heads, work) = (q.len() / dim, 8 * q.len());
    let q = Disjoint::new(q);
    for_each(heads, work, |i| {
        // SAFETY: every task has its own head.
        let head = unsafe { q.part(i * dim, dim) };
        hadamard(head);
        Fp4KeyRow::round(head);
    });
}
