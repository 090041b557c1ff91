//! `linear`, `swiglu` and `moe_experts` on a GPU, with float and with bf16 operands. Catches: a missing wait or barrier,
//! a scale of the wrong block, a lost tail of K, a part of K that is summed twice or not at all, rows of one expert
//! multiplied by another's weights, results that depend on the batch.

use kernels::cpu::AlignedBytes;
use kernels::ops::{self, Experts, Routing};
use kernels::{BlockScales, DType, Device, Precision, Tensor, Weight, reference};
use testkit::soft_gpu;

use crate::common::{
    BF16, F32, FORMS, FP8, Form, ROUND, abs, as_multiplied, close_by, ids, packed, tensor, values, weight,
};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// `values` as activations of `device`, and what they are worth after rounding.
fn activations(device: &Device, shape: &[usize], values: &[f32]) -> (Tensor, Vec<f32>) {
    let x = packed(device.activation_dtype(), shape, values);
    (x.to_device(device).unwrap(), x.to_vec_f32())
}

/// Both sums of `k` exact products are within `k` roundings of the exact one, relative to the sum of magnitudes.
fn bound(x: &[f32], dense: &[f32], k: usize, n: usize) -> Vec<f32> {
    let magnitude = reference::linear(&abs(x), &abs(dense), None, k, n);
    magnitude.iter().map(|m| 2.0 * (k + 3) as f32 * ROUND * m + 2.0 * ROUND).collect()
}

fn check_linear(device: &Device, weight: &Weight, tokens: usize, what: &str) {
    let (n, k) = (weight.rows(), weight.cols());
    let (dense, bias) = (weight.to_vec_f32(), values(3, n));
    let (x, x_host) = activations(device, &[tokens, k], &values(tokens as u64, tokens * k));
    let x_host = as_multiplied(device, weight, &x_host);
    let want = reference::linear(&x_host, &dense, Some(&bias), k, n);
    let bias = tensor(&[n], &bias).to_device(device).unwrap();
    let got = ops::linear(&x, &weight.to_device(device).unwrap(), Some(&bias)).unwrap();
    assert_eq!((got.dtype(), got.shape()), (DType::F32, &[tokens, n][..]));
    let bound = bound(&x_host, &dense, k, n);
    close_by(&format!("{what} {n}x{k} T={tokens}"), &got.to_vec_f32(), &want, |i| bound[i]);
}

#[test]
fn linear_matches_the_reference() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        for (f, form) in FORMS.into_iter().enumerate() {
            for [n, k] in [[1, 2], [1, 7], [37, 50], [136, 192], [66, 2100], [9, 16], [130, 1024], [65, 72]] {
                if !form.fits(k) {
                    continue;
                }
                let weight = weight(form, [1, n, k], 7 + f as u64);
                for tokens in [1, 2, 16, 17, 65] {
                    check_linear(&device, &weight, tokens, &format!("{precision:?} {form:?}"));
                }
            }
        }
    }
}

#[test]
fn linear_of_real_sizes() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    // V2-Lite's and V3's latent projections (split over K), V3's query projection, a slice of its vocabulary, and
    // enough columns for the tiles of prefill.
    let cases =
        [([576, 2048], 1), ([576, 7168], 3), ([1536, 1536], 2), ([2048, 1408], 5), ([13_900, 72], 70)];
    for ([n, k], tokens) in cases {
        for form in [BF16, FP8, Form::Fp4, Form::Int8(None)] {
            check_linear(&device, &weight(form, [1, n, k], 7), tokens, &format!("{form:?}"));
        }
    }
}

#[test]
fn linear_under_all_schedules() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        gpu.under_all_schedules(precision, |device| {
            // Rows on and off 16-byte boundaries, splits, and all tiles but the largest.
            for (form, [n, k], tokens) in [
                (FP8, [70, 1040], 3),
                (Form::Fp8([32, 32]), [40, 200], 17),
                (BF16, [65, 136], 66),
                (F32, [20, 77], 2),
                (FP8, [33, 130], 18),
                (Form::Fp4, [20, 160], 5),
                (Form::Int4(32, DType::BF16), [130, 320], 20),
                (Form::Int4(64, DType::F32), [40, 1100], 2),
                (Form::Int8(None), [20, 272], 3),
            ] {
                check_linear(device, &weight(form, [1, n, k], 5), tokens, &format!("{precision:?} {form:?}"));
            }
        });
    }
}

#[test]
fn largest_tile_under_all_schedules() {
    // 70 rows of one expert and enough columns that 128 x 128 tiles fill a GPU.
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let w = weight(FP8, [1, 13_800, 40], 5);
    drop(device);
    gpu.under_all_schedules(Precision::Bf16, |device| check_linear(device, &w, 66, "m128"));
}

#[test]
fn a_row_is_the_same_bits_alone_and_in_a_batch() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        for form in FORMS {
            let (n, k) = (75, 2096);
            let weight = weight(form, [1, n, k], 5).to_device(&device).unwrap();
            let x = values(6, 50 * k);
            let run = |rows: std::ops::Range<usize>| {
                let (x, _) = activations(&device, &[rows.len(), k], &x[rows.start * k..rows.end * k]);
                ops::linear(&x, &weight, None).unwrap().to_vec_f32()
            };
            // Within a tile shape: up to 16 rows, up to 64.
            let (few, many) = (run(0..16), run(0..50));
            assert_eq!(run(3..4), few[3 * n..4 * n], "{precision:?} {form:?}");
            assert_eq!(run(5..13), few[5 * n..13 * n], "{precision:?} {form:?}");
            assert_eq!(run(20..40), many[20 * n..40 * n], "{precision:?} {form:?}");
        }
    }
}

#[test]
fn every_e4m3_byte_is_decoded() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        for k in [16, 17] {
            // The byte of row r is its last column, the rest zeros.
            let bytes: Vec<u8> =
                (0..256 * k).map(|i| if i % k == k - 1 { (i / k) as u8 } else { 0 }).collect();
            let data = AlignedBytes::copy_of(&bytes);
            let data = Tensor::from_bytes(&Device::Cpu, DType::F8E4M3, &[256, k], data).unwrap();
            let scales = tensor(&[1, 2, 1], &[0.5; 2]);
            let scales = BlockScales { scales, block_rows: 128, block_cols: 128 };
            let weight = Weight::new(data, Some(scales)).unwrap().to_device(&device).unwrap();
            let (x, _) = activations(&device, &[1, k], &vec![1.0; k]);
            let out = ops::linear(&x, &weight, None).unwrap().to_vec_f32();
            for (byte, value) in out.iter().enumerate() {
                let want = kernels::e4m3_to_f32(byte as u8) * 0.5;
                let same = *value == want || (value.is_nan() && want.is_nan());
                assert!(same, "{precision:?} byte {byte:#x} of {k}: {value} for {want}");
            }
        }
    }
}

/// What `swiglu` may be off by: either factor by some roundings of its sum of magnitudes (silu's slope is below 1.1),
/// and the rounding of the result.
fn gated(
    device: &Device,
    x: &[f32],
    gate: &[f32],
    up: &[f32],
    [k, n]: [usize; 2],
    limit: Option<f32>,
) -> (Vec<f32>, Vec<f32>) {
    let mut want = reference::linear(x, gate, None, k, n);
    let linear = reference::linear(x, up, None, k, n);
    reference::silu_mul(&mut want, &linear, limit);
    let (gate_off, up_off) = (bound(x, gate, k, n), bound(x, up, k, n));
    let rounding = if device.activation_dtype() == DType::BF16 { 1.0 / 256.0 } else { 4.0 * ROUND };
    let off = |i: usize| {
        let silu = if linear[i] == 0.0 { 1.0 } else { (want[i] / linear[i]).abs() + gate_off[i] };
        1.1 * gate_off[i] * (linear[i].abs() + up_off[i]) + up_off[i] * silu + rounding * want[i].abs() + 1e-6
    };
    let off = (0..want.len()).map(off).collect();
    (want, off)
}

fn check_swiglu(device: &Device, form: Form, [n, k]: [usize; 2], tokens: usize) {
    let (gate, up) = (weight(form, [1, n, k], 1), weight(form, [1, n, k], 20));
    let (x, x_host) = activations(device, &[tokens, k], &values(9, tokens * k));
    let x_host = as_multiplied(device, &gate, &x_host);
    let dense = [&gate, &up].map(Weight::to_vec_f32);
    let [gate, up] = [gate, up].map(|w| w.to_device(device).unwrap());
    // V4's clamp cuts most factors off at this limit.
    for limit in [None, Some(0.2)] {
        let (want, off) = gated(device, &x_host, &dense[0], &dense[1], [k, n], limit);
        let got = ops::swiglu(&x, &gate, &up, limit).unwrap();
        assert_eq!((got.dtype(), got.shape()), (device.activation_dtype(), &[tokens, n][..]));
        close_by(&format!("{form:?} {n}x{k} T={tokens} {limit:?}"), &got.to_vec_f32(), &want, |i| off[i]);
    }
}

#[test]
fn swiglu_matches_the_reference() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        for form in FORMS {
            for [n, k] in [[37, 50], [136, 192], [16, 64], [40, 1100]] {
                for tokens in [1, 13, 70] {
                    check_swiglu(&device, form, [n, k], tokens);
                }
            }
        }
        check_swiglu(&device, FP8, [1408, 2048], 1);
    }
}

#[test]
fn swiglu_under_all_schedules() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        gpu.under_all_schedules(precision, |device| {
            for (form, [n, k], tokens) in
                [(FP8, [37, 1040], 3), (BF16, [72, 66], 18), (Form::Fp4, [40, 96], 4)]
            {
                check_swiglu(device, form, [n, k], tokens);
            }
        });
    }
}

#[test]
fn large_gates_do_not_overflow() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let one = Weight::new(packed(DType::F32, &[1, 1], &[1.0]), None).unwrap().to_device(&device).unwrap();
    for gate in [1000.0_f32, -1000.0, 89.0, -89.0, 0.0] {
        let (x, _) = activations(&device, &[1, 1], &[gate]);
        let out = ops::swiglu(&x, &one, &one, None).unwrap().to_vec_f32()[0];
        let silu = f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
        let want = (silu * f64::from(gate)) as f32;
        assert!((out - want).abs() <= 1e-5 * want.abs() + 1e-28, "{gate}: {out} for {want}");
    }
}

fn experts(form: Form, [count, inter, dim]: [usize; 3]) -> Experts {
    Experts {
        gate: weight(form, [count, inter, dim], 31),
        up: weight(form, [count, inter, dim], 41),
        down: weight(form, [count, dim, inter], 51),
        swiglu_limit: None,
    }
}

fn to_device(experts: &Experts, device: &Device) -> Experts {
    let [gate, up, down] = [&experts.gate, &experts.up, &experts.down].map(|w| w.to_device(device).unwrap());
    Experts { gate, up, down, swiglu_limit: experts.swiglu_limit }
}

/// `tokens * top_k` distinct experts per token, unevenly used.
fn chosen(tokens: usize, top_k: usize, count: usize) -> Vec<u32> {
    (0..tokens).flat_map(|t| (0..top_k).map(move |k| ((t * t + k * (1 + t % 2)) % count) as u32)).collect()
}

fn routing(device: &Device, tokens: usize, top_k: usize, ids_host: &[u32], weights: &[f32]) -> Routing {
    Routing {
        // Uploaded bytes, so that only the device knows them, as if it had routed.
        experts: ids(&[tokens, top_k], ids_host).to_device(device).unwrap(),
        weights: tensor(&[tokens, top_k], weights).to_device(device).unwrap(),
    }
}

/// The hidden state between the products is rounded to activations; the reference rounds at the same point.
fn moe_reference(
    device: &Device,
    x: &[f32],
    slots: (&[u32], &[f32]),
    experts: &Experts,
    top_k: usize,
) -> Vec<f32> {
    let (dim, inter) = (experts.gate.cols(), experts.gate.rows());
    let x = as_multiplied(device, &experts.gate, x);
    let [gate, up, down] = [&experts.gate, &experts.up, &experts.down].map(Weight::to_vec_f32);
    let mut out = vec![0.0; x.len()];
    for (slot, (&expert, &factor)) in slots.0.iter().zip(slots.1).enumerate() {
        let token = slot / top_k;
        let [gate, up, down] =
            [&gate, &up, &down].map(|w| &w[expert as usize * dim * inter..][..dim * inter]);
        let mut hidden = reference::linear(&x[token * dim..][..dim], gate, None, dim, inter);
        let linear = reference::linear(&x[token * dim..][..dim], up, None, dim, inter);
        reference::silu_mul(&mut hidden, &linear, None);
        let hidden = packed(device.activation_dtype(), &[inter], &hidden).to_vec_f32();
        let hidden = as_multiplied(device, &experts.down, &hidden);
        let y = reference::linear(&hidden, down, None, inter, dim);
        out[token * dim..][..dim].iter_mut().zip(&y).for_each(|(o, y)| *o += factor * y);
    }
    out
}

fn check_moe(device: &Device, form: Form, sizes: [usize; 3], top_k: usize, tokens: usize) {
    let ([count, _, dim], experts) = (sizes, experts(form, sizes));
    let (x, x_host) = activations(device, &[tokens, dim], &values(7, tokens * dim));
    let (ids, weights) = (chosen(tokens, top_k, count), values(8, tokens * top_k));
    let want = moe_reference(device, &x_host, (&ids, &weights), &experts, top_k);
    let routing = routing(device, tokens, top_k, &ids, &weights);
    let got = ops::moe_experts(&x, &routing, &to_device(&experts, device)).unwrap();
    assert_eq!((got.dtype(), got.shape()), (DType::F32, &[tokens, dim][..]));
    // Relative to the largest result. In bf16 a hidden value near a rounding boundary may fall to either side: a few of
    // hundreds of terms are off by one part in 256 of their size.
    let largest = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    // As an integer it may be off by one part in 127 of the largest of its row.
    let off = match (device.activation_dtype(), form) {
        (DType::BF16, Form::Int8(_)) => 4e-3,
        (DType::BF16, _) => 1e-3,
        _ => 1e-5,
    };
    let what = format!("{form:?} {sizes:?} top {top_k} T={tokens} {:?}", device.activation_dtype());
    close_by(&what, &got.to_vec_f32(), &want, |_| off * largest);
}

#[test]
fn moe_matches_the_reference() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        for form in FORMS {
            for (sizes, top_k) in [([1, 37, 50], 1), ([5, 24, 136], 2), ([16, 136, 40], 8)] {
                for tokens in [1, 2, 19].into_iter().filter(|_| form.fits(sizes[1]) && form.fits(sizes[2])) {
                    check_moe(&device, form, sizes, top_k, tokens);
                }
            }
        }
        // Two experts with some 45 rows each: the medium tile.
        check_moe(&device, FP8, [2, 40, 72], 1, 90);
        check_moe(&device, FP8, [2, 40, 72], 2, 0);
        // V2-Lite's sizes with four of its experts.
        check_moe(&device, BF16, [4, 1408, 2048], 2, 1);
    }
}

/// One token through one expert of V3 as stored and as an A100 takes it, of V4-Flash and of V4-Pro.
#[test]
fn experts_of_full_size() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    for (form, [inter, dim]) in [
        (FP8, [2048, 7168]),
        (Form::Int8(None), [2048, 7168]),
        (Form::Fp4, [2048, 4096]),
        (Form::Fp4, [3072, 7168]),
    ] {
        check_moe(&device, form, [1, inter, dim], 1, 1);
    }
}

#[test]
fn moe_under_all_schedules() {
    let gpu = soft_gpu();
    for precision in PRECISIONS {
        gpu.under_all_schedules(precision, |device| {
            check_moe(device, FP8, [5, 24, 136], 2, 9);
            check_moe(device, Form::Fp4, [2, 20, 40], 1, 50);
        });
    }
}

#[test]
fn a_token_is_the_same_bits_alone_and_in_a_batch() {
    let gpu = soft_gpu();
    let ([count, inter, dim], top_k, tokens) = ([6, 40, 72], 3, 30);
    for precision in PRECISIONS {
        let device = gpu.device(precision);
        let experts = to_device(&experts(FP8, [count, inter, dim]), &device);
        let (x, _) = activations(&device, &[tokens, dim], &values(7, tokens * dim));
        let (ids, weights) = (chosen(tokens, top_k, count), values(8, tokens * top_k));
        let all = ops::moe_experts(&x, &routing(&device, tokens, top_k, &ids, &weights), &experts).unwrap();
        let (all, x) = (all.to_vec_f32(), x.to_vec_f32());
        for t in [0, 7, 29] {
            let slots = t * top_k..(t + 1) * top_k;
            let (x, _) = activations(&device, &[1, dim], &x[t * dim..][..dim]);
            let routing = routing(&device, 1, top_k, &ids[slots.clone()], &weights[slots]);
            let alone = ops::moe_experts(&x, &routing, &experts).unwrap().to_vec_f32();
            assert_eq!(alone, all[t * dim..][..dim], "{precision:?} token {t}");
        }
    }
}

#[test]
fn an_expert_out_of_range_is_reported_and_harms_no_other_token() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let experts = to_device(&experts(F32, [3, 8, 16]), &device);
    let (x, _) = activations(&device, &[2, 16], &values(7, 32));
    let weights = [0.5, 0.5, 0.25, 0.75];
    let good = ops::moe_experts(&x, &routing(&device, 2, 2, &[0, 1, 1, 2], &weights), &experts).unwrap();
    let good = good.to_vec_f32();
    let bad = ops::moe_experts(&x, &routing(&device, 2, 2, &[0, 1, 1, 3], &weights), &experts).unwrap();
    let error = bad.read_f32().unwrap_err().to_string();
    assert!(error.contains("moe_experts") && error.contains("values below 3"), "{error}");
    assert_eq!(bad.to_vec_f32()[..16], good[..16]);
}

#[test]
fn no_tokens_give_no_rows() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let weight = weight(BF16, [1, 4, 8], 1).to_device(&device).unwrap();
    let (x, _) = activations(&device, &[0, 8], &[]);
    assert_eq!(ops::linear(&x, &weight, None).unwrap().shape(), [0, 4]);
    assert_eq!(ops::swiglu(&x, &weight, &weight, None).unwrap().shape(), [0, 4]);
}
