//! `grouped_linear`. Catches: a group that reads its neighbour's columns, another group's matrix, results side by side.

use kernels::cpu::{self, Level};
use kernels::{KernelError, Precision, Weight, ops, reference};
use testkit::soft_gpu;

use crate::common::{
    BF16, F32, FORMS, FP8, Form, ROUND, abs, close, close_by, rounded, tensor, values, weight,
};

fn matrices(form: Form, groups: usize, n: usize, k: usize) -> (Vec<Weight>, Vec<f32>) {
    let weights: Vec<Weight> = (0..groups).map(|g| weight(form, [1, n, k], 3 + g as u64)).collect();
    let dense = weights.iter().flat_map(Weight::to_vec_f32).collect();
    (weights, dense)
}

#[test]
fn matches_the_reference() {
    for form in FORMS {
        for (groups, k, n) in [(1, 40, 24), (2, 64, 72), (8, 32, 130)] {
            let (weights, dense) = matrices(form, groups, n, k);
            for tokens in [1, 2, 19] {
                let x = values(4, tokens * groups * k);
                let want = reference::grouped_linear(&x, &dense, groups, k, n);
                let size = reference::grouped_linear(&abs(&x), &abs(&dense), groups, k, n);
                for level in Level::available() {
                    let mut got = vec![f32::NAN; want.len()];
                    cpu::grouped_linear(level, &x, &weights, &mut got);
                    let what = format!("{form:?} {groups}x{n}x{k} T={tokens} {level:?}");
                    close_by(&what, &got, &want, |i| 4.0 * (k as f32).sqrt() * ROUND * size[i] + 1e-7);
                }
            }
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let (weights, _) = matrices(FORMS[0], 3, 2, 4);
    let shape = |x: &[usize], weights: &[Weight]| {
        let x = tensor(x, &vec![0.0; x.iter().product()]);
        matches!(ops::grouped_linear(&x, weights), Err(KernelError::Shape { .. }))
    };
    assert!(shape(&[2, 8], &weights) && !shape(&[2, 12], &weights));
    let mixed = [weights[0].clone(), matrices(FORMS[0], 1, 3, 4).0.remove(0)];
    assert!(shape(&[2, 8], &mixed));
    let none = ops::grouped_linear(&tensor(&[1, 0], &[]), &[]);
    assert!(matches!(none, Err(KernelError::Value { .. })));
}

#[test]
fn a_gpu_matches_the_cpu() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        let device = gpu.device(precision);
        for form in [FP8, F32, BF16] {
            for (groups, k, n, tokens) in [(2, 64, 72, 3), (8, 32, 130, 1), (3, 40, 24, 0)] {
                let (weights, _) = matrices(form, groups, n, k);
                let x = tensor(&[tokens, groups * k], &rounded(&values(4, tokens * groups * k)));
                let want = ops::grouped_linear(&x, &weights).unwrap();
                let weights: Vec<Weight> = weights.iter().map(|w| w.to_device(&device).unwrap()).collect();
                let got = ops::grouped_linear(&x.to_device(&device).unwrap(), &weights).unwrap();
                assert_eq!(got.shape(), want.shape());
                // Up to 64 products of up to 2 each, all exact but for their sum.
                close(&format!("{form:?} {groups}x{n}x{k}"), &got.to_vec_f32(), &want.to_vec_f32(), 2e-4);
            }
        }
    }
}
