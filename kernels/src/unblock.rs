//! ggml blocks in a form that every backend has: what a weight becomes on its way to a GPU. MXFP4 keeps its codes and
//! exponents; the others are decoded into floats, which takes the memory that floats take.

use half::bf16;
use rayon::prelude::*;

use crate::cpu::{AlignedBytes, decode_ggml};
use crate::{DType, Device, GgmlType, Result, Tensor, Weight, WeightFormat};

/// `data` `[E, N, bytes of a row]` of `kind` as `FP4` or in `float`, `F32` or `BF16`. On the host.
pub(crate) fn unblocked(kind: GgmlType, data: &Tensor, float: DType) -> Result<Weight> {
    let [e, n, cols] = [data.dim(0), data.dim(1), WeightFormat::Ggml(kind).columns(data.dim(2))];
    if kind == GgmlType::Mxfp4 {
        return fp4(data.bytes(), [e, n, cols]);
    }
    let float = if float == DType::F32 { DType::F32 } else { DType::BF16 };
    let mut bytes = AlignedBytes::zeroed(e * n * cols * float.size());
    let rows = bytes.par_chunks_mut((cols * float.size()).max(1));
    rows.zip(data.bytes().par_chunks(data.dim(2).max(1))).for_each(|(out, row)| match float {
        DType::F32 => decode_ggml(kind, row, bytemuck::cast_slice_mut(out)),
        _ => {
            let mut values = vec![0.0; cols];
            decode_ggml(kind, row, &mut values);
            for (out, value) in bytemuck::cast_slice_mut::<u8, bf16>(out).iter_mut().zip(values) {
                *out = bf16::from_f32(value);
            }
        }
    });
    Weight::new(Tensor::from_bytes(&Device::Cpu, float, &[e, n, cols], bytes)?, None)
}

/// The same values: only the order of the halves of a byte differs, and exponents lie apart from codes.
fn fp4(blocks: &[u8], [e, n, k]: [usize; 3]) -> Result<Weight> {
    let mut codes = AlignedBytes::zeroed(e * n * k / 2);
    let mut exponents = AlignedBytes::zeroed(e * n * (k / WeightFormat::FP4_GROUP));
    let blocks = blocks.as_chunks::<17>().0;
    for ((block, codes), exponent) in blocks.iter().zip(codes.as_chunks_mut().0).zip(&mut *exponents) {
        *exponent = block[0];
        *codes = reorder(&block[1..]);
    }
    let codes = Tensor::from_bytes(&Device::Cpu, DType::U8, &[e, n, k / 2], codes)?;
    let shape = [e, n, k / WeightFormat::FP4_GROUP];
    let exponents = Tensor::from_bytes(&Device::Cpu, DType::F8E8M0, &shape, exponents)?;
    Weight::with_format(codes, WeightFormat::Fp4(exponents))
}

/// From column `j` low and `j + 16` high in byte `j` to columns `2j` low and `2j + 1` high.
fn reorder(codes: &[u8]) -> [u8; 16] {
    let column = |i: usize| codes[i % 16] >> (4 * (i / 16)) & 15;
    std::array::from_fn(|j| column(2 * j) | column(2 * j + 1) << 4)
}
