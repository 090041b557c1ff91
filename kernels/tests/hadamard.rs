//! `hadamard_fp8_assign`, `hadamard_fp4_assign` and packed index vectors. Catches: a sign or a channel of the rotation, its norm,
//! a scale that is no power of two, too small or without its floor, a scale left out of the weight or put into another's; of
//! FP4 nibbles exchanged, ties away from zero, a scale of other channels.
//!
//! Of small whole numbers the sums are exact in any order, so that every device must give the reference's very bits.

use kernels::cpu;
use kernels::{
    DType, Device, Fp4KeyRow, IndexKeyRow, KernelError, Precision, Tensor, e2m1_to_f32, f32_to_e2m1, ops,
    reference,
};
use testkit::soft_gpu;

use crate::common::{close, close_by, tensor, values};

/// Tokens, heads, channels.
const SIZES: [[usize; 3]; 7] =
    [[1, 1, 1], [3, 2, 2], [2, 3, 4], [1, 5, 16], [2, 3, 64], [2, 65, 128], [1, 3, 512]];

/// Queries and weights after the op.
fn on(device: &Device, [tokens, heads, dim]: [usize; 3], q: &[f32], weights: &[f32]) -> [Vec<f32>; 2] {
    let mut q = Tensor::from_f32(device, &[tokens, heads, dim], q).unwrap();
    let mut weights = Tensor::from_f32(device, &[tokens, heads], weights).unwrap();
    ops::hadamard_fp8_assign(&mut q, &mut weights).unwrap();
    [q.to_vec_f32(), weights.to_vec_f32()]
}

#[test]
fn the_rotation_is_the_matrix_and_its_own_inverse() {
    for dim in [1, 2, 4, 8, 32, 128, 1024] {
        let whole: Vec<f32> = values(dim as u64, dim).iter().map(|v| (v * 9.0).round()).collect();
        let mut row = whole.clone();
        cpu::hadamard(&mut row);
        assert_eq!(row, reference::hadamard(&whole), "{dim} channels");
        cpu::hadamard(&mut row);
        close("twice", &row, &whole, 1e-5);
    }
}

#[test]
fn queries_are_the_references_on_every_device() {
    let gpu = soft_gpu();
    let check = |device: &Device| {
        for [tokens, heads, dim] in SIZES {
            // Magnitudes of 1e-3 to 1e3 in turns: scales far apart.
            let q: Vec<f32> = values(4, tokens * heads * dim)
                .iter()
                .enumerate()
                .map(|(i, v)| (v * 9.0).round() * [1.0, 1024.0, 1.0 / 1024.0][i / dim % 3])
                .collect();
            let weights = values(5, tokens * heads);
            let (mut rounded, mut folded) = (Vec::new(), Vec::new());
            for (head, weight) in q.chunks_exact(dim).zip(&weights) {
                let (values, scale) = reference::fp8_power_of_two(&reference::hadamard(head));
                rounded.extend(values);
                folded.push(weight * scale);
            }
            let found = on(device, [tokens, heads, dim], &q, &weights);
            assert_eq!(found, [rounded, folded], "{device} {heads} heads of {dim}");
        }
    };
    check(&Device::Cpu);
    gpu.under_all_schedules(Precision::Bf16, check);
}

#[test]
fn any_numbers_are_kept_to_half_a_step() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let q = values(6, 64 * 128);
        let [rounded, scales] = on(&device, [1, 64, 128], &q, &[1.0; 64]);
        let want: Vec<f32> = q.chunks_exact(128).flat_map(reference::hadamard).collect();
        let got: Vec<f32> = rounded.iter().enumerate().map(|(i, v)| v * scales[i / 128]).collect();
        // 1/16 of the value, or 2^-10 of the scale; sums in another order.
        let tolerance = |i: usize| (want[i].abs() / 16.0).max(scales[i / 128] / 1024.0) + 1e-6;
        close_by(&device.to_string(), &got, &want, tolerance);
    }
}

/// The release's rule, in its arithmetic: the bits of `amax * (1 / 448)`, any mantissa carrying into the exponent.
fn released_scale(amax: f32) -> f32 {
    let bits = (amax.max(1e-4) * (1.0 / 448.0_f32)).to_bits();
    f32::from_bits(((bits >> 23) + u32::from(bits & 0x7F_FFFF != 0)) << 23)
}

/// One channel is its own rotation, so its scale is what becomes of a weight of 1.
#[test]
fn scales_are_the_least_power_of_two_that_holds_the_largest_value() {
    let known = [
        (448.0, 1.0),
        (448.000_03, 2.0),
        (447.999_97, 1.0),
        (224.0, 0.5),
        (256.0, 1.0),
        (1.0, 1.0 / 256.0),
        (-1.75, 1.0 / 256.0),
        (-1.750_000_1, 1.0 / 128.0),
        (1e-4, 2f32.powi(-22)),
        (1e-9, 2f32.powi(-22)),
        (0.0, 2f32.powi(-22)),
    ];
    let mut values: Vec<f32> = known.iter().map(|(value, _)| *value).collect();
    for exponent in -22..100 {
        let edge = 448.0 * 2f32.powi(exponent);
        values.extend([edge.next_down(), edge, edge.next_up(), 2f32.powi(exponent).next_up()]);
    }
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::Bf16)] {
        let count = values.len();
        let [_, scales] = on(&device, [1, count, 1], &values, &vec![1.0; count]);
        for (value, scale) in values.iter().zip(&scales) {
            assert_eq!(*scale, released_scale(value.abs()), "{device}: scale of {value}");
            assert_eq!(*scale, reference::fp8_power_of_two(&[*value]).1, "{device}: scale of {value}");
        }
        for ((value, want), scale) in known.iter().zip(&scales) {
            assert_eq!(scale, want, "{device}: scale of {value}");
        }
    }
}

#[test]
fn a_packed_key_comes_back() {
    let format = IndexKeyRow { index_head_dim: 128 };
    assert_eq!((format.scale_at(), format.bytes()), (128, 132), "as the release stores it");
    assert_eq!(IndexKeyRow { index_head_dim: 2 }.bytes(), 8);
    // Every e4m3 magnitude, 448 among them, at some scales.
    let codes: Vec<f32> =
        (0..128).map(|code| kernels::e4m3_to_f32([code, 0][usize::from(code == 127)])).collect();
    for scale in [1.0, 0.125, 4096.0] {
        let row: Vec<f32> = codes.iter().enumerate().map(|(i, v)| v * scale * [1.0, -1.0][i % 2]).collect();
        let (mut bytes, mut back) = (vec![0xFF; format.bytes()], vec![f32::NAN; 128]);
        format.encode(&row, &mut bytes);
        assert_eq!(bytes[128..], f32::to_le_bytes(scale));
        format.decode(&bytes, &mut back);
        assert_eq!(back, row);
        format.decode(&bytes, &mut back[..3]);
    }
}

#[test]
fn nan_shows() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::Bf16)] {
        let mut q = vec![1.0; 32];
        q[3] = f32::NAN;
        let [q, weights] = on(&device, [2, 1, 16], &q, &[1.0, f32::NAN]);
        assert!(q[..16].iter().all(|v| v.is_nan()) && q[16..].iter().all(|v| !v.is_nan()), "{device}");
        assert!(!weights[0].is_nan() && weights[1].is_nan(), "{device}");
    }
}

#[test]
fn nothing_to_do_is_fine_and_what_does_not_fit_is_refused() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    for device in [&Device::Cpu, &device] {
        assert_eq!(on(device, [0, 4, 16], &[], &[]), [Vec::<f32>::new(), Vec::new()]);
    }
    let refused = |shape: &[usize], weights: &mut Tensor| {
        ops::hadamard_fp8_assign(&mut tensor(shape, &[0.0; 48]), weights).unwrap_err()
    };
    let weights = &mut tensor(&[2, 2], &[1.0; 4]);
    let error = refused(&[2, 2, 12], weights).to_string();
    assert!(error.contains("12") && error.contains("a power of two"), "{error}");
    assert!(matches!(refused(&[6, 8], weights), KernelError::Shape { arg: "q", .. }));
    assert!(matches!(refused(&[1, 3, 16], weights), KernelError::Shape { arg: "weights", .. }));
    let mut half = Tensor::zeros(&Device::Cpu, DType::F16, &[1, 3]).unwrap();
    assert!(matches!(refused(&[1, 3, 16], &mut half), KernelError::DType { arg: "weights", .. }));
    let mut far = Tensor::zeros(&device, DType::F32, &[1, 3]).unwrap();
    assert!(matches!(refused(&[1, 3, 16], &mut far), KernelError::Placement { arg: "weights", .. }));
    let mut wide = Tensor::zeros(&device, DType::F32, &[1, 1, 1 << 14]).unwrap();
    let mut weight = Tensor::zeros(&device, DType::F32, &[1, 1]).unwrap();
    let error = ops::hadamard_fp8_assign(&mut wide, &mut weight).unwrap_err();
    assert!(matches!(error, KernelError::Value { arg: "q", .. }), "{error}");
    let held = weight.clone();
    let mut q = Tensor::zeros(&device, DType::F32, &[1, 1, 16]).unwrap();
    let error = ops::hadamard_fp8_assign(&mut q, &mut weight).unwrap_err();
    assert!(matches!(error, KernelError::Aliased { arg: "weights", .. }), "{error}");
    drop(held);
}

#[test]
fn fp4_queries_are_the_references_on_every_device() {
    let gpu = soft_gpu();
    let check = |device: &Device| {
        for [tokens, heads, dim] in SIZES {
            // Whole numbers make many ties. Some channels of the rotated head are far larger than the others.
            let q: Vec<f32> = values(4, tokens * heads * dim)
                .iter()
                .enumerate()
                .map(|(i, v)| (v * 9.0).round() * [1.0, 1024.0, 2f32.powi(-140)][i / dim % 3])
                .collect();
            let want: Vec<f32> = q
                .chunks_exact(dim)
                .flat_map(|head| reference::fp4_power_of_two(&reference::hadamard(head)))
                .collect();
            let mut q = Tensor::from_f32(device, &[tokens, heads, dim], &q).unwrap();
            ops::hadamard_fp4_assign(&mut q).unwrap();
            assert_eq!(q.to_vec_f32(), want, "{device} {heads} heads of {dim}");
        }
    };
    check(&Device::Cpu);
    gpu.under_all_schedules(Precision::Bf16, check);
}

/// With one channel there is nothing to rotate.
#[test]
fn fp4_scales_and_ties() {
    let known = [
        (6.0, 6.0),
        (6.0_f32.next_up(), 6.0),
        (7.0, 8.0),
        (7.1, 8.0),
        (-5.0, -4.0),
        (5.0_f32.next_up(), 6.0),
        (3.5, 4.0),
        (3.1, 3.0),
        (1e-30, 6.0 * 2f32.powi(-102)),
        (0.0, 0.0),
        (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
        (f32::MIN_POSITIVE * 0.25, 0.0),
        (f32::MIN_POSITIVE * 0.26, f32::MIN_POSITIVE * 0.5),
    ];
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::Bf16)] {
        let values: Vec<f32> = known.iter().map(|(value, _)| *value).collect();
        let mut q = Tensor::from_f32(&device, &[1, known.len(), 1], &values).unwrap();
        ops::hadamard_fp4_assign(&mut q).unwrap();
        for ((value, want), found) in known.iter().zip(q.to_vec_f32()) {
            assert_eq!(found, *want, "{device}: {value}");
            assert_eq!(found, reference::fp4_power_of_two(&[*value])[0], "{device}: {value}");
        }
    }
    for (value, want) in
        [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)]
    {
        assert_eq!(e2m1_to_f32(f32_to_e2m1(value)), want, "a tie goes to the even code");
        assert_eq!(e2m1_to_f32(f32_to_e2m1(-value)), -want);
    }
    for code in (0..16).filter(|code| *code != 8) {
        assert_eq!(f32_to_e2m1(e2m1_to_f32(code)), code);
    }
    assert_eq!((f32_to_e2m1(1e9), f32_to_e2m1(-f32::INFINITY)), (7, 15));
}

#[test]
fn a_key_in_fp4_comes_back() {
    let format = Fp4KeyRow { index_head_dim: 128 };
    assert_eq!((format.scales_at(), format.bytes()), (64, 68), "as the release stores it");
    let small = [2, 4, 16, 32, 64].map(|index_head_dim| Fp4KeyRow { index_head_dim }.bytes());
    assert_eq!(small, [4, 4, 12, 20, 36]);
    let scales = [1.0, 0.125, 4096.0, 1.0];
    let row: Vec<f32> = (0..128).map(|c| e2m1_to_f32((c % 16) as u8) * scales[c / 32]).collect();
    let (mut bytes, mut back) = (vec![0xFF; format.bytes()], vec![f32::NAN; 128]);
    format.encode(&row, &mut bytes);
    // The first of two values in the low bits; minus zero became zero.
    assert_eq!(bytes[..8], [0x10, 0x32, 0x54, 0x76, 0x90, 0xBA, 0xDC, 0xFE]);
    assert_eq!(bytes[64..], [127, 124, 139, 127]);
    format.decode(&bytes, &mut back);
    assert_eq!(back, row);
    format.decode(&bytes, &mut back[..3]);
    let mut broken = row;
    broken[40] = f32::NAN;
    format.encode(&broken, &mut bytes);
    format.decode(&bytes, &mut back);
    assert!(back[32..64].iter().all(|v| v.is_nan()), "nobody takes it for a number");
    assert_eq!(back[..32], broken[..32]);
}
