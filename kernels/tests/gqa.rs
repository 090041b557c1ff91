//! `paged_gqa`. Catches: one visible key too many or too few, the wrong key head, stray reads of the cache, a split over
//! spans that changes the result.

use kernels::cpu::{self, Attention, Level};
use kernels::{DType, KernelError, ops, reference};

use crate::common::{close, tensor, values};
use crate::paged::{Paged, STEPS};

fn run(level: Level, paged: &Paged, q: &[f32], [heads, kv_heads, dim]: [usize; 3], scale: f32) -> Vec<f32> {
    let mut store = Default::default();
    let args = Attention {
        q,
        cache: paged.typed(&mut store),
        width: 2 * kv_heads * dim,
        block_size: paged.batch.block_size,
        sequences: paged.walk(),
        heads,
        kv_heads,
        key_dim: dim,
        value_start: kv_heads * dim,
        value_dim: dim,
        scale,
        sinks: None,
    };
    let mut out = vec![0.0; q.len()];
    cpu::paged_attention(level, &args, &mut out);
    out
}

#[test]
fn matches_the_reference() {
    for dtype in [DType::F32, DType::BF16] {
        for sizes in [[1, 1, 16], [4, 2, 24], [9, 3, 64], [2, 2, 7], [40, 1, 16]] {
            let [heads, kv_heads, dim] = sizes;
            for (i, step) in STEPS.into_iter().enumerate() {
                let paged = Paged::new(dtype, [16, 5][i % 2], 2 * kv_heads * dim, step);
                let q = values(99, paged.tokens() * heads * dim);
                let want = reference::gqa(&q, &paged.rows(), &paged.visible, sizes, 0.3);
                for level in Level::available() {
                    let got = run(level, &paged, &q, sizes, 0.3);
                    // Means of up to 2049 values below 1, which the reference adds up one by one.
                    close(&format!("{dtype} {sizes:?} {step:?} {level:?}"), &got, &want, 2e-5);
                }
                let q = tensor(&[paged.tokens(), heads, dim], &q);
                let got = ops::paged_gqa(&q, &paged.cache, &paged.batch, 0.3, kv_heads).unwrap();
                assert_eq!(got.shape(), [paged.tokens(), heads * dim]);
                close("op", &got.to_vec_f32(), &want, 2e-5);
            }
        }
    }
}

#[test]
fn chunked_prefill_is_prefill_in_one_go() {
    let (sizes, context) = ([4, 2, 24], 90);
    let whole = Paged::new(DType::F32, 16, 96, &[(context, context)]);
    let q = values(5, context * 96);
    let all = run(Level::detect(), &whole, &q, sizes, 0.2);
    for new in [1, 7, 40] {
        let last = Paged::new(DType::F32, 16, 96, &[(new, context)]);
        let rest = run(Level::detect(), &last, &q[(context - new) * 96..], sizes, 0.2);
        assert_eq!(rest, all[(context - new) * 96..], "last {new}");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let paged = Paged::new(DType::F32, 4, 24, &[(2, 6)]);
    let q = tensor(&[2, 4, 6], &[0.0; 48]);
    let go =
        |q: &kernels::Tensor, cache: &kernels::Tensor, kv| ops::paged_gqa(q, cache, &paged.batch, 1.0, kv);
    assert!(go(&q, &paged.cache, 2).is_ok());
    assert!(matches!(go(&q, &paged.cache, 3), Err(KernelError::Value { arg: "num_kv_heads", .. })));
    assert!(matches!(go(&q, &paged.cache, 0), Err(KernelError::Value { .. })));
    assert!(matches!(go(&q, &paged.cache, 1), Err(KernelError::Shape { arg: "cache", .. })));
    assert!(matches!(go(&tensor(&[3, 4, 6], &[0.0; 72]), &paged.cache, 2), Err(KernelError::Shape { .. })));
    let half = crate::common::packed(DType::F16, paged.cache.shape(), &paged.rows());
    assert!(matches!(go(&q, &half, 2), Err(KernelError::DType { arg: "cache", .. })));
}
