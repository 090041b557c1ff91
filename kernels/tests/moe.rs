//! `moe_experts`. Catches: a token's slots summed in another order or with another slot's weight, gate and up
//! exchanged, an expert's scales taken from its neighbour, results that depend on the batch.

use kernels::cpu::{self, Level};
use kernels::ops::{self, Experts, Routing};
use kernels::{KernelError, reference};

use crate::common::{BF16, F32, FORMS, Form, close_by, ids, tensor, values, weight};

fn experts(form: Form, [count, inter, dim]: [usize; 3]) -> Experts {
    Experts {
        gate: weight(form, [count, inter, dim], 31),
        up: weight(form, [count, inter, dim], 41),
        down: weight(form, [count, dim, inter], 51),
        swiglu_limit: None,
    }
}

/// `tokens * top_k` distinct experts per token, unevenly used.
fn chosen(tokens: usize, top_k: usize, count: usize) -> Vec<u32> {
    (0..tokens).flat_map(|t| (0..top_k).map(move |k| ((t * t + k * (1 + t % 2)) % count) as u32)).collect()
}

#[test]
fn matches_the_reference() {
    for form in FORMS {
        for (sizes, top_k) in [([1, 37, 50], 1), ([5, 24, 136], 2), ([16, 136, 40], 8)] {
            let [count, inter, dim] = sizes;
            if !form.fits(inter) {
                continue;
            }
            // One of the shapes with V4's clamp, low enough to cut many factors off.
            let swiglu_limit = (count == 5).then_some(0.4);
            let experts = Experts { swiglu_limit, ..experts(form, sizes) };
            let dense = [&experts.gate, &experts.up, &experts.down].map(|w| w.to_vec_f32());
            for tokens in [1, 2, 19] {
                let x = values(7, tokens * dim);
                let (ids, weights) = (chosen(tokens, top_k, count), values(8, tokens * top_k));
                let parts = [&dense[0][..], &dense[1][..], &dense[2][..]];
                let sizes_k = [dim, inter, top_k];
                let want = reference::moe_experts(&x, &ids, &weights, parts, sizes_k, swiglu_limit);
                // Relative to the largest result: three sums of up to 136 products and one of eight.
                let largest = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
                for level in Level::available() {
                    let mut got = vec![f32::NAN; x.len()];
                    got.fill(0.0);
                    cpu::moe_experts(level, &x, (&ids, &weights), &experts, &mut got);
                    let what = format!("{form:?} {sizes:?} T={tokens} {level:?}");
                    close_by(&what, &got, &want, |_| 1e-5 * largest);
                }
            }
        }
    }
}

#[test]
fn a_token_is_the_same_bits_alone_and_in_a_batch() {
    let ([count, inter, dim], top_k, tokens) = ([6, 40, 72], 3, 30);
    for form in FORMS {
        let experts = experts(form, [count, inter, dim]);
        let x = values(7, tokens * dim);
        let (ids, weights) = (chosen(tokens, top_k, count), values(8, tokens * top_k));
        for level in Level::available() {
            let mut all = vec![0.0; x.len()];
            cpu::moe_experts(level, &x, (&ids, &weights), &experts, &mut all);
            for t in 0..tokens {
                let slots = t * top_k..(t + 1) * top_k;
                let mut alone = vec![0.0; dim];
                let routing = (&ids[slots.clone()], &weights[slots]);
                cpu::moe_experts(level, &x[t * dim..][..dim], routing, &experts, &mut alone);
                assert_eq!(alone, all[t * dim..][..dim], "{form:?} {level:?} token {t}");
            }
        }
    }
}

#[test]
fn large_enough_for_many_cores() {
    // Above the serial threshold, one token and many.
    let ([count, inter, dim], top_k) = ([4, 256, 512], 4);
    let experts = experts(BF16, [count, inter, dim]);
    let dense = [&experts.gate, &experts.up, &experts.down].map(|w| w.to_vec_f32());
    for tokens in [1, 9] {
        let x = values(7, tokens * dim);
        let (ids, weights) = (chosen(tokens, top_k, count), values(8, tokens * top_k));
        let parts = [&dense[0][..], &dense[1][..], &dense[2][..]];
        let want = reference::moe_experts(&x, &ids, &weights, parts, [dim, inter, top_k], None);
        let largest = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        let mut got = vec![0.0; x.len()];
        cpu::moe_experts(Level::detect(), &x, (&ids, &weights), &experts, &mut got);
        close_by("parallel", &got, &want, |_| 1e-5 * largest);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let experts = experts(F32, [3, 4, 8]);
    let routing = |rows: usize, id: u32| Routing {
        experts: ids(&[rows, 1], &vec![id; rows]),
        weights: tensor(&[rows, 1], &vec![1.0; rows]),
    };
    let x = tensor(&[2, 8], &[0.0; 16]);
    let shape = |r: kernels::Result<kernels::Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(matches!(ops::moe_experts(&x, &routing(2, 3), &experts), Err(KernelError::Value { .. })));
    assert!(shape(ops::moe_experts(&x, &routing(3, 0), &experts)));
    assert!(shape(ops::moe_experts(&tensor(&[2, 7], &[0.0; 14]), &routing(2, 0), &experts)));
    assert_eq!(ops::moe_experts(&tensor(&[0, 8], &[]), &routing(0, 0), &experts).unwrap().shape(), [0, 8]);
}
