//! `swiglu`. Catches: gate and up exchanged, an overflowing exponential, a lost tail.

use kernels::cpu::{self, Level};
use kernels::{KernelError, Tensor, ops, reference};

use crate::common::{F32, FORMS, ROUND, abs, close_by, tensor, values, weight};

#[test]
fn matches_the_reference() {
    for form in FORMS {
        for [n, k] in [[37, 50], [136, 192], [16, 64]] {
            let (gate, up) = (weight(form, [1, n, k], 1), weight(form, [1, n, k], 20));
            for tokens in [1, 3, 13, 70] {
                let x = values(9, tokens * k);
                let (gate_dense, up_dense) = (gate.to_vec_f32(), up.to_vec_f32());
                let mut want = reference::linear(&x, &gate_dense, None, k, n);
                let linear = reference::linear(&x, &up_dense, None, k, n);
                reference::silu_mul(&mut want, &linear, None);
                let gate_size = reference::linear(&abs(&x), &abs(&gate_dense), None, k, n);
                let up_size = reference::linear(&abs(&x), &abs(&up_dense), None, k, n);
                // Either factor is off by some sqrt(k) roundings of its sum of magnitudes, and silu's slope is below 1.1.
                let bound = |i: usize| {
                    let spread =
                        gate_size[i] * linear[i].abs() + up_size[i] * (1.0 + gate_size[i].min(want[i].abs()));
                    8.0 * (k as f32).sqrt() * ROUND * spread + 1e-6
                };
                for level in Level::available() {
                    let mut got = vec![0.0; tokens * n];
                    cpu::swiglu(level, &x, &gate, &up, f32::INFINITY, &mut got);
                    let what = format!("{form:?} {n}x{k} T={tokens} {level:?}");
                    close_by(&what, &got, &want, bound);
                }
            }
        }
    }
}

#[test]
fn large_gates_do_not_overflow() {
    // silu(+-1000) through weights of one: 1000 and 0, never NaN.
    for level in Level::available() {
        let one = weight(F32, [1, 1, 1], 1);
        let w = one.to_vec_f32()[0];
        for gate in [1000.0_f32, -1000.0, 89.0, -89.0, 0.0] {
            let mut out = [f32::NAN];
            cpu::swiglu(level, &[gate / w], &one, &one, f32::INFINITY, &mut out);
            let silu = f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
            let want = (silu * f64::from(gate)) as f32;
            assert!((out[0] - want).abs() <= 1e-5 * want.abs() + 1e-28, "{gate}: {} for {want}", out[0]);
        }
    }
}

/// V4's clamp: the gate from above only, the other factor on both sides, and NaN stays NaN.
#[test]
fn the_limit_cuts_the_gate_above_and_the_other_on_both_sides() {
    let one = tensor(&[1, 1], &[1.0]);
    let one = kernels::Weight::new(one, None).unwrap();
    let run = |level, x: f32, limit| {
        // Eighteen tokens: a whole vector and a tail.
        let mut out = [0.0; 18];
        cpu::swiglu(level, &[x; 18], &one, &one, limit, &mut out);
        assert!(out.iter().all(|v| v.to_bits() == out[0].to_bits()), "{out:?}");
        out[0]
    };
    for level in Level::available() {
        let silu = |x: f32| x / (1.0 + (-x).exp());
        for (x, want) in [(3.0, silu(1.5) * 1.5), (-3.0, silu(-3.0) * -1.5), (1.0, silu(1.0))] {
            let got = run(level, x, 1.5);
            assert!((got - want).abs() < 1e-6, "{x}: {got}, expected {want}");
            assert!(
                (ops::swiglu(&tensor(&[1, 1], &[x]), &one, &one, Some(1.5)).unwrap().to_vec_f32()[0] - want)
                    .abs()
                    < 1e-6
            );
        }
        assert!(run(level, f32::NAN, 1.5).is_nan());
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let (gate, up) = (weight(F32, [1, 4, 8], 1), weight(F32, [1, 5, 8], 1));
    let shape = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(shape(ops::swiglu(&tensor(&[1, 8], &[0.0; 8]), &gate, &up, None)));
    assert!(shape(ops::swiglu(&tensor(&[1, 7], &[0.0; 7]), &gate, &gate, None)));
}
