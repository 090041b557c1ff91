//! Seeded inputs, packed weights of every form, and comparison with a stated tolerance.

#![allow(dead_code, reason = "two test binaries share it, and each uses a part")]

use half::{bf16, f16};
use kernels::cpu::AlignedBytes;
use kernels::{
    BlockScales, DType, Device, GgmlType, GroupScales, Tensor, Weight, WeightFormat, f32_to_e4m3, reference,
};

/// Unit roundoff of `f32`.
pub(crate) const ROUND: f32 = f32::EPSILON / 2.0;

/// A stored form of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Float(DType),
    /// Rows and columns of a block.
    Fp8([usize; 2]),
    Fp4,
    /// Rows and columns of a block; `None` is one scale per row.
    Int8(Option<[usize; 2]>),
    /// Columns of a group and the dtype of its scale.
    Int4(usize, DType),
    /// Blocks; `K` is a multiple of 256.
    Ggml(GgmlType),
}

pub(crate) const F32: Form = Form::Float(DType::F32);
pub(crate) const BF16: Form = Form::Float(DType::BF16);
pub(crate) const FP8: Form = Form::Fp8([128, 128]);

/// Every form that a weight may have on every device; the blocks are the sizes in use and one that divides nothing.
pub(crate) const FORMS: [Form; 13] = [
    F32,
    Form::Float(DType::F16),
    BF16,
    FP8,
    Form::Fp8([32, 32]),
    Form::Fp8([5, 7]),
    Form::Fp4,
    Form::Int8(None),
    Form::Int8(Some([128, 128])),
    Form::Int8(Some([5, 7])),
    Form::Int4(32, DType::BF16),
    Form::Int4(64, DType::F32),
    Form::Int4(128, DType::BF16),
];

impl Form {
    /// Whether rows of `k` columns can have the form: two 4-bit codes fill a byte.
    pub(crate) fn fits(self, k: usize) -> bool {
        !matches!(self, Self::Fp4 | Self::Int4(..)) || k.is_multiple_of(2)
    }
}

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

fn bytes(dtype: DType, shape: &[usize], bytes: impl Iterator<Item = u8>) -> Tensor {
    let bytes: Vec<u8> = bytes.collect();
    Tensor::from_bytes(&Device::Cpu, dtype, shape, AlignedBytes::copy_of(&bytes)).unwrap()
}

/// A random weight `[E, N, K]` in one of the [`FORMS`], elements of about one; every block has its own scale.
pub(crate) fn weight(form: Form, [e, n, k]: [usize; 3], seed: u64) -> Weight {
    let elements = values(seed, e * n * k);
    // 0.005 to 0.025 times `unit`.
    let scales = |shape: &[usize], unit: f32| -> Vec<f32> {
        values(seed + 1, shape.iter().product()).iter().map(|s| 0.01 * (s + 1.5) * unit).collect()
    };
    let blocks = |[block_rows, block_cols]: [usize; 2], unit: f32| {
        let shape = [e, n.div_ceil(block_rows), k.div_ceil(block_cols)];
        BlockScales { scales: tensor(&shape, &scales(&shape, unit)), block_rows, block_cols }
    };
    // Two codes from eight random bits.
    let codes =
        || bytes(DType::U8, &[e, n, k / 2], elements.iter().step_by(2).map(|v| (v * 128.0) as i8 as u8));
    let (data, format) = match form {
        Form::Float(dtype) => (packed(dtype, &[e, n, k], &elements), WeightFormat::Float),
        Form::Fp8(block) => {
            let data: Vec<f32> = elements.iter().map(|v| v * 100.0).collect();
            (packed(DType::F8E4M3, &[e, n, k], &data), WeightFormat::Fp8(blocks(block, 1.0)))
        }
        Form::Int8(block) => {
            let data = bytes(DType::I8, &[e, n, k], elements.iter().map(|v| (v * 127.0) as i8 as u8));
            (data, WeightFormat::Int8(blocks(block.unwrap_or([1, k.max(1)]), 0.5)))
        }
        Form::Fp4 => {
            let shape = [e, n, k.div_ceil(WeightFormat::FP4_GROUP)];
            // 2^-5 to 2^-2.
            let exponents =
                values(seed + 1, shape.iter().product()).into_iter().map(|s| (124.0 + 2.0 * s) as u8);
            (codes(), WeightFormat::Fp4(bytes(DType::F8E8M0, &shape, exponents)))
        }
        Form::Int4(group, dtype) => {
            let shape = [e, n, k.div_ceil(group)];
            let zeros = values(seed + 2, shape.iter().product()).into_iter().map(|z| (8.0 + 8.0 * z) as u8);
            let zeros = bytes(DType::U8, &shape, zeros);
            let scales = packed(dtype, &shape, &scales(&shape, 5.0));
            (codes(), WeightFormat::Int4(GroupScales { scales, zeros, group }))
        }
        Form::Ggml(kind) => {
            let blocks = ggml_blocks(kind, e * n * k / kind.block_len(), seed);
            let shape = [e, n, kind.row_bytes(k).unwrap()];
            (bytes(DType::U8, &shape, blocks.into_iter()), WeightFormat::Ggml(kind))
        }
    };
    Weight::with_format(data, format).unwrap()
}

/// Random blocks of ggml: all bits of the codes and the small scales, elements of about one.
pub(crate) fn ggml_blocks(kind: GgmlType, count: usize, seed: u64) -> Vec<u8> {
    let size = kind.block_bytes();
    let mut bytes: Vec<u8> = values(seed, count * size).iter().map(|v| (v * 128.0) as i8 as u8).collect();
    // What the codes and the small scales multiply to is divided out again.
    let (unit, halves): (f32, &[usize]) = match kind {
        GgmlType::Mxfp4 => (0.0, &[]),
        GgmlType::Q4_0 | GgmlType::Q5_0 => (0.1, &[0]),
        GgmlType::Q4_1 | GgmlType::Q5_1 => (0.1, &[0, 2]),
        GgmlType::Q8_0 | GgmlType::Iq4Nl => (0.01, &[0]),
        GgmlType::Q2K => (0.02, &[80, 82]),
        GgmlType::Q3K => (0.01, &[108]),
        GgmlType::Q4K | GgmlType::Q5K => (0.001, &[0, 2]),
        GgmlType::Q6K => (0.0003, &[208]),
        GgmlType::Iq4Xs => (0.0003, &[0]),
    };
    let scales = values(seed + 1, 2 * count);
    for (i, block) in bytes.chunks_exact_mut(size).enumerate() {
        for (part, &at) in halves.iter().enumerate() {
            let scale = f16::from_f32(unit * (1.5 + scales[2 * i + part]));
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if kind == GgmlType::Mxfp4 {
            // 2^-5 to 2^-2.
            block[0] = (124.0 + 2.0 * scales[i]) as u8;
        }
    }
    bytes
}

/// Gives the first four of `blocks` a scale each that is subnormal, negative, zero or the largest.
pub(crate) fn odd_scales(kind: GgmlType, blocks: &mut [u8]) {
    let at = match kind {
        GgmlType::Q2K => 80,
        GgmlType::Q3K => 108,
        GgmlType::Q6K => 208,
        _ => 0,
    };
    // Of MXFP4 the exponents are these bytes' first.
    let scales = [[0x01, 0x00], [0x7E, 0x83], [0x00, 0x80], [0x80, 0x7B]];
    for (block, scale) in blocks.chunks_exact_mut(kind.block_bytes()).zip(scales) {
        let len = if kind == GgmlType::Mxfp4 { 1 } else { 2 };
        block[at..at + len].copy_from_slice(&scale[..len]);
    }
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

/// `values` rounded to bf16, as a tensor of a `BF16` device's activations holds them.
pub(crate) fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect()
}

/// `x` in rows of `weight`'s columns, as `device` multiplies it by `weight`: a GPU of bf16 multiplies INT8 by INT8.
pub(crate) fn as_multiplied(device: &Device, weight: &Weight, x: &[f32]) -> Vec<f32> {
    let k = weight.cols();
    let covered = |blocks: &BlockScales| blocks.block_cols.is_multiple_of(32) || blocks.block_cols >= k;
    match weight.format() {
        WeightFormat::Int8(blocks) if device.activation_dtype() == DType::BF16 && covered(blocks) => {
            let (codes, scales) = reference::quantize_rows(x, k);
            codes.iter().enumerate().map(|(i, &code)| f32::from(code) * scales[i / k]).collect()
        }
        _ => x.to_vec(),
    }
}

/// How far a value may be from `want` in the dtype that `device` keeps activations in: `tolerance`, and half a step of
/// bf16 (with a step's neighbour where the sum before rounding differed) if that is what it keeps.
pub(crate) fn activation_tolerance(device: &Device, want: f32, tolerance: f32) -> f32 {
    match device.activation_dtype() {
        DType::BF16 => tolerance + want.abs() / 256.0,
        _ => tolerance,
    }
}
