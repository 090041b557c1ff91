//! `rms_norm` and `add_rms_norm`. Catches: a mean over whole vectors instead of the row, eps left out or misplaced.

use kernels::cpu::{self, Level};
use kernels::{KernelError, ops, reference};

use crate::common::{close, tensor, values};

/// The mean of squares of up to 7168 values below 1, sixteen running sums: a few units in the last place.
const TOLERANCE: f32 = 2e-5;

#[test]
fn matches_the_reference() {
    for dim in [1, 15, 16, 33, 576, 7168] {
        for tokens in [1, 3, 40] {
            let (x, weight) = (values(1, tokens * dim), values(2, dim));
            for eps in [1e-6, 1e-2] {
                let want = reference::rms_norm(&x, &weight, dim, eps);
                for level in Level::available() {
                    let mut got = vec![0.0; x.len()];
                    cpu::rms_norm(level, &x, &weight, eps, &mut got);
                    close(&format!("{tokens}x{dim} {level:?}"), &got, &want, TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn the_fused_add_is_the_add_and_the_norm() {
    let (tokens, dim) = (5, 77);
    let (x, y, weight) = (values(1, tokens * dim), values(2, tokens * dim), values(3, dim));
    let mut residual = tensor(&[tokens, dim], &x);
    let weight = tensor(&[dim], &weight);
    let fused = ops::add_rms_norm(&mut residual, &tensor(&[tokens, dim], &y), &weight, 1e-6).unwrap();
    let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    assert_eq!(residual.to_vec_f32(), sum);
    assert_eq!(fused.to_vec_f32(), ops::rms_norm(&residual, &weight, 1e-6).unwrap().to_vec_f32());
}

#[test]
fn refusals_write_nothing() {
    let (x, weight) = (tensor(&[2, 4], &[1.0; 8]), tensor(&[4], &[1.0; 4]));
    let mut residual = tensor(&[2, 4], &[3.0; 8]);
    assert!(matches!(
        ops::add_rms_norm(&mut residual, &tensor(&[4, 2], &[1.0; 8]), &weight, 1e-6),
        Err(KernelError::Shape { .. })
    ));
    let shared = residual.clone();
    assert!(matches!(ops::add_rms_norm(&mut residual, &x, &weight, 1e-6), Err(KernelError::Aliased { .. })));
    assert_eq!(shared.to_vec_f32(), [3.0; 8]);
    assert!(matches!(ops::rms_norm(&x, &tensor(&[3], &[1.0; 3]), 1e-6), Err(KernelError::Shape { .. })));
}
