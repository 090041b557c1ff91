//! Seeded inputs, packed weights of every form, and comparison with a stated tolerance.

#![allow(dead_code, reason = "two test binaries share it, and each uses a part")]

use half::{bf16, f16};
use kernels::cpu::AlignedBytes;
use kernels::{BlockScales, DType, Device, Tensor, Weight, f32_to_e4m3};

/// Unit roundoff of `f32`.
pub(crate) const ROUND: f32 = f32::EPSILON / 2.0;

/// Every dtype a weight may have; the blocks are the two sizes in use and one that divides nothing.
pub(crate) const FORMS: [(DType, [usize; 2]); 6] = [
    (DType::F32, [1, 1]),
    (DType::F16, [1, 1]),
    (DType::BF16, [1, 1]),
    (DType::F8E4M3, [128, 128]),
    (DType::F8E4M3, [32, 32]),
    (DType::F8E4M3, [5, 7]),
];

/// `count` values in -1..1, the same for the same seed (splitmix64).
pub(crate) fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(&Device::Cpu, shape, values).unwrap()
}

pub(crate) fn ids(shape: &[usize], values: &[u32]) -> Tensor {
    Tensor::from_u32(&Device::Cpu, shape, values).unwrap()
}

/// `values` rounded to `dtype`.
pub(crate) fn packed(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        DType::F8E4M3 => values.iter().map(|v| f32_to_e4m3(*v)).collect(),
        _ => unreachable!("not a stored form"),
    };
    Tensor::from_bytes(&Device::Cpu, dtype, shape, AlignedBytes::copy_of(&bytes)).unwrap()
}

/// A random weight `[E, N, K]` in one of the [`FORMS`]; every block has its own scale.
pub(crate) fn weight((dtype, block): (DType, [usize; 2]), [e, n, k]: [usize; 3], seed: u64) -> Weight {
    let values = values(seed, e * n * k);
    if dtype != DType::F8E4M3 {
        return Weight::new(packed(dtype, &[e, n, k], &values), None).unwrap();
    }
    let shape = [e, n.div_ceil(block[0]), k.div_ceil(block[1])];
    let scales = self::values(seed + 1, shape.iter().product());
    let scales: Vec<f32> = scales.iter().map(|s| 0.01 * (s + 1.5)).collect();
    let data: Vec<f32> = values.iter().map(|v| v * 100.0).collect();
    let scales = BlockScales { scales: tensor(&shape, &scales), block_rows: block[0], block_cols: block[1] };
    Weight::new(packed(dtype, &[e, n, k], &data), Some(scales)).unwrap()
}

/// Fails with the first element that is further than `tolerance` of its own index from `want`.
#[track_caller]
pub(crate) fn close_by(what: &str, got: &[f32], want: &[f32], tolerance: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let apart = (g - w).abs();
        assert!(apart <= tolerance(i), "{what}: element {i} is {g}, expected {w} within {}", tolerance(i));
    }
}

/// [`close_by`] with one tolerance.
#[track_caller]
pub(crate) fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    close_by(what, got, want, |_| tolerance);
}

pub(crate) fn abs(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| v.abs()).collect()
}
