//! `linear` in every stored form. Catches: a transposed or shifted block scale, a lost partial block or tail column,
//! results that depend on the batch.

use kernels::cpu::{self, Level};
use kernels::{BlockScales, DType, Device, KernelError, Tensor, Weight, ops, reference};

use crate::common::{BF16, F32, FORMS, FP8, ROUND, abs, close_by, packed, tensor, values, weight};

const SHAPES: [[usize; 2]; 6] = [[1, 1], [37, 50], [136, 192], [66, 2100], [9, 16], [130, 1024]];
const TOKENS: [usize; 9] = [1, 2, 3, 4, 5, 7, 13, 33, 130];

/// Both sums of `k` products are within `k` roundings of the exact one, relative to the sum of magnitudes.
fn bound(x: &[f32], dense: &[f32], k: usize, n: usize) -> Vec<f32> {
    let magnitude = reference::linear(&abs(x), &abs(dense), None, k, n);
    magnitude.iter().map(|m| 2.0 * (k + 2) as f32 * ROUND * m).collect()
}

#[test]
fn matches_the_reference() {
    for (f, form) in FORMS.into_iter().enumerate() {
        for [n, k] in SHAPES.into_iter().filter(|[_, k]| form.fits(*k)) {
            let weight = weight(form, [1, n, k], 7 + f as u64);
            let dense = weight.to_vec_f32();
            let bias = values(3, n);
            for tokens in TOKENS {
                let x = values(tokens as u64, tokens * k);
                let want = reference::linear(&x, &dense, Some(&bias), k, n);
                let bound = bound(&x, &dense, k, n);
                for level in Level::available() {
                    let mut got = vec![0.0; tokens * n];
                    cpu::linear(level, &x, &weight, Some(&bias), &mut got);
                    let what = format!("{form:?} {n}x{k} T={tokens} {level:?}");
                    close_by(&what, &got, &want, |i| bound[i] + 2.0 * ROUND);
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_alone_and_in_a_batch() {
    for form in FORMS {
        let (n, k, tokens) = (75, 2100, 67);
        let weight = weight(form, [1, n, k], 5);
        let x = values(6, tokens * k);
        for level in Level::available() {
            let mut all = vec![0.0; tokens * n];
            cpu::linear(level, &x, &weight, None, &mut all);
            // Alone, and with few others: they meet the weights in registers.
            for few in [1, 2, 3, 4, 5] {
                for (x, rows) in x.chunks(few * k).zip(all.chunks(few * n)) {
                    let mut apart = vec![0.0; rows.len()];
                    cpu::linear(level, x, &weight, None, &mut apart);
                    assert!(apart == rows, "{form:?} {level:?}, {few} at once");
                }
            }
        }
    }
}

#[test]
fn fused_levels_agree_bit_for_bit() {
    let (n, k, tokens) = (20, 1100, 3);
    let weight = weight(FP8, [1, n, k], 5);
    let x = values(6, tokens * k);
    let run = |level| {
        let mut out = vec![0.0; tokens * n];
        cpu::linear(level, &x, &weight, None, &mut out);
        out
    };
    if Level::detect() == Level::Avx512 {
        assert_eq!(run(Level::Avx512), run(Level::Avx2));
    }
}

#[test]
fn every_e4m3_byte_is_decoded() {
    // Row r is the byte r times one: the result is the byte's value; rows of 16 and of 17 take both code paths.
    for (k, scale) in [(16, 0.5), (17, 0.5), (16, 1000.0)] {
        let bytes: Vec<u8> = (0..256 * k).map(|i| if i % k == k - 1 { (i / k) as u8 } else { 0 }).collect();
        let data = cpu::AlignedBytes::copy_of(&bytes);
        let data = Tensor::from_bytes(&Device::Cpu, DType::F8E4M3, &[256, k], data).unwrap();
        let scales = tensor(&[1, 2, 1], &[scale; 2]);
        let weight =
            Weight::new(data, Some(BlockScales { scales, block_rows: 128, block_cols: 128 })).unwrap();
        for level in Level::available() {
            for tokens in [1, 3] {
                let mut out = vec![0.0; tokens * 256];
                cpu::linear(level, &vec![1.0; tokens * k], &weight, None, &mut out);
                for (i, value) in out.iter().enumerate() {
                    let want = kernels::e4m3_to_f32((i % 256) as u8) * scale;
                    let same = *value == want || (value.is_nan() && want.is_nan());
                    assert!(same, "byte {:#x} {level:?} T={tokens}: {value} for {want}", i % 256);
                }
            }
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let weight = weight(F32, [1, 4, 8], 1);
    let x = tensor(&[2, 8], &values(1, 16));
    let shape = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(shape(ops::linear(&tensor(&[2, 7], &values(1, 14)), &weight, None)));
    assert!(shape(ops::linear(&tensor(&[16], &values(1, 16)), &weight, None)));
    assert!(shape(ops::linear(&x, &weight, Some(&tensor(&[5], &values(1, 5))))));
    assert!(shape(ops::linear(&x, &crate::common::weight(F32, [2, 4, 8], 1), None)));
    let wrong = packed(DType::BF16, &[2, 8], &values(1, 16));
    assert!(matches!(ops::linear(&wrong, &weight, None), Err(KernelError::DType { arg: "x", .. })));
}

#[test]
fn no_tokens_give_no_rows() {
    let weight = weight(BF16, [1, 4, 8], 1);
    assert_eq!(ops::linear(&tensor(&[0, 8], &[]), &weight, None).unwrap().shape(), [0, 4]);
}
