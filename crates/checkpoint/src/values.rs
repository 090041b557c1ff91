//! Elements as they lie in a file: little-endian and unaligned. Widening to `f32`, and the search for values that no
//! sound weight has.

use half::{bf16, f16};
use kernels::{DType, e4m3_to_f32, e8m0_to_f32};
use safetensors::Dtype;

/// The kernel dtype of a float that a layer can be built from.
pub(crate) fn kernel_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F8_E4M3 => Some(DType::F8E4M3),
        Dtype::F8_E8M0 => Some(DType::F8E8M0),
        _ => None,
    }
}

/// Writes the elements of `bytes` to `out` as `f32`, which has one place for each.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size(), "one place per element");
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F8E4M3 => each(bytes, out, |[b]: [u8; 1]| e4m3_to_f32(b)),
        DType::F8E8M0 => each(bytes, out, |[b]: [u8; 1]| e8m0_to_f32(b)),
        DType::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        DType::U8 => each(bytes, out, |b| f32::from(u8::from_le_bytes(b))),
        DType::U32 => each(bytes, out, |b| u32::from_le_bytes(b) as f32),
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, element) in out.iter_mut().zip(elements) {
        *value = decode(*element);
    }
}

/// Index and value of the first NaN or infinity. E4M3 has no infinities, E8M0 only NaN.
pub(crate) fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f32)> {
    match dtype {
        DType::F32 => first(bytes, |b| u32::from_le_bytes(b) & 0x7F80_0000 == 0x7F80_0000),
        DType::F16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7C00 == 0x7C00),
        DType::BF16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7F80 == 0x7F80),
        DType::F8E4M3 => first(bytes, |[b]: [u8; 1]| b & 0x7F == 0x7F),
        DType::F8E8M0 => first(bytes, |[b]: [u8; 1]| b == 0xFF),
        DType::I8 | DType::U8 | DType::U32 => None,
    }
    .map(|index| {
        let mut value = [0.0];
        widen(dtype, &bytes[index * dtype.size()..][..dtype.size()], &mut value);
        (index, value[0])
    })
}

/// The common case, that there is none, must cost no more than reading: the fold has no early exit and vectorises.
fn first<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<N>();
    if !elements.iter().fold(false, |any, element| any | bad(*element)) {
        return None;
    }
    elements.iter().position(|element| bad(*element))
}
