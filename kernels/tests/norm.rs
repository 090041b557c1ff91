//! `rms_norm` and `add_rms_norm`. Catches: a mean over whole vectors instead of the row, eps left out or misplaced.

use kernels::cpu::{self, Level};
use kernels::{DType, KernelError, Precision, Tensor, ops, reference};
use testkit::soft_gpu;

use crate::common::{activation_tolerance, close, close_by, packed, rounded, tensor, values};

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
fn heads_are_normed_without_weights() {
    for (heads, dim) in [(3, 1), (5, 33), (4, 512)] {
        let x = values(4, 2 * heads * dim);
        let want = reference::rms_norm(&x, &vec![1.0; dim], dim, 1e-6);
        for level in Level::available() {
            let mut got = x.clone();
            cpu::head_norm(level, &mut got, dim, 1e-6);
            close(&format!("{heads}x{dim} {level:?}"), &got, &want, TOLERANCE);
        }
        let mut q = tensor(&[2, heads, dim], &x);
        ops::head_norm_assign(&mut q, 1e-6).unwrap();
        close("op", &q.to_vec_f32(), &want, TOLERANCE);
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

#[test]
fn a_gpu_matches_the_reference() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        gpu.under_all_schedules(precision, |device| {
            for (tokens, dim) in [(1, 1), (3, 15), (2, 33), (4, 64), (2, 1536), (1, 2050), (2, 7168), (0, 8)]
            {
                let (x, y, weight) = (values(1, tokens * dim), values(2, tokens * dim), values(3, dim));
                let on_gpu =
                    |shape: &[usize], values: &[f32]| Tensor::from_f32(device, shape, values).unwrap();
                let weight_on_gpu = on_gpu(&[dim], &weight);
                let check = |what: &str, got: Tensor, want: &[f32]| {
                    assert_eq!(got.dtype(), device.activation_dtype(), "{what}");
                    let tolerance = |i: usize| activation_tolerance(device, want[i], TOLERANCE);
                    close_by(&format!("{what} {tokens}x{dim}"), &got.to_vec_f32(), want, tolerance);
                };
                let want = reference::rms_norm(&x, &weight, dim, 1e-2);
                check(
                    "norm",
                    ops::rms_norm(&on_gpu(&[tokens, dim], &x), &weight_on_gpu, 1e-2).unwrap(),
                    &want,
                );
                let mut residual = on_gpu(&[tokens, dim], &x);
                let more = on_gpu(&[tokens, dim], &y);
                let fused = ops::add_rms_norm(&mut residual, &more, &weight_on_gpu, 1e-6).unwrap();
                let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
                assert_eq!(residual.to_vec_f32(), sum, "the residual is exact");
                check("add and norm", fused, &reference::rms_norm(&sum, &weight, dim, 1e-6));
            }
        });
    }
}

#[test]
fn a_gpu_also_takes_activations_and_says_what_it_does_not_take() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let (x, weight) = (values(1, 2 * 50), values(2, 50));
    let on_gpu = |t: Tensor| t.to_device(&device).unwrap();
    let weight_on_gpu = on_gpu(tensor(&[50], &weight));
    let got = ops::rms_norm(&on_gpu(packed(DType::BF16, &[2, 50], &x)), &weight_on_gpu, 1e-6).unwrap();
    let want = reference::rms_norm(&rounded(&x), &weight, 50, 1e-6);
    close_by("bf16", &got.to_vec_f32(), &want, |i| activation_tolerance(&device, want[i], TOLERANCE));

    let wide = Tensor::zeros(&device, DType::F32, &[1, 50_000]).unwrap();
    let wide_weight = Tensor::zeros(&device, DType::F32, &[50_000]).unwrap();
    assert!(matches!(ops::rms_norm(&wide, &wide_weight, 1e-6), Err(KernelError::Shape { .. })));
    let x = on_gpu(tensor(&[2, 50], &x));
    assert!(matches!(ops::rms_norm(&x, &tensor(&[50], &weight), 1e-6), Err(KernelError::Placement { .. })));
    let mut shared = x.clone();
    let refused = ops::add_rms_norm(&mut shared, &x, &weight_on_gpu, 1e-6);
    assert!(matches!(refused, Err(KernelError::Aliased { arg: "residual", .. })));
    let half = on_gpu(packed(DType::F16, &[2, 50], &[0.0; 100]));
    assert!(matches!(ops::rms_norm(&half, &weight_on_gpu, 1e-6), Err(KernelError::DType { .. })));
}

#[test]
fn a_gpu_norms_heads() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for shape in [[3, 2, 1], [2, 3, 33], [1, 4, 512], [0, 2, 8]] {
            let mut want = tensor(&shape, &values(4, shape.iter().product()));
            let mut got = want.to_device(device).unwrap();
            ops::head_norm_assign(&mut want, 1e-6).unwrap();
            ops::head_norm_assign(&mut got, 1e-6).unwrap();
            close(&format!("{shape:?}"), &got.to_vec_f32(), &want.to_vec_f32(), TOLERANCE);
        }
    });
}
