//! ggml's block formats: every forward's decoder against one column at a time, and the way to a GPU. Catches: a scale
//! of another block, swapped halves, a lost high bit, a forgotten minimum, a sign.

use kernels::cpu::{self, AlignedBytes, Level};
use kernels::{
    CudaOptions, DType, Device, GgmlType, Precision, Tensor, Weight, WeightFormat, ops, reference,
};
use testkit::soft_gpu;

use crate::common::{Form, ROUND, abs, close_by, ggml_blocks, ids, odd_scales, values, weight};

/// All codes and scales of a few hundred blocks are random, so that every bit decides something.
#[test]
fn the_decoders_agree_with_the_reference() {
    for kind in GgmlType::ALL {
        let bytes = AlignedBytes::copy_of(&ggml_blocks(kind, 300, 7));
        let want = reference::decode_ggml(kind, &bytes);
        let mut got = vec![0.0; 300 * kind.block_len()];
        cpu::decode_ggml(kind, &bytes, &mut got);
        let largest = want.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // A product of three factors and a difference, in another order.
            assert!(
                (got - want).abs() <= 4.0 * f32::EPSILON * largest,
                "{kind} column {i}: {got} for {want}"
            );
        }
    }
}

/// Every column at every instruction level has the bits of the reference: a row of the identity picks it, and a product
/// with one and sums with zeros change nothing.
#[test]
fn every_level_decodes_every_column() {
    for kind in GgmlType::ALL {
        let (rows, columns) = (9, kind.block_len());
        let mut blocks = ggml_blocks(kind, rows, 17);
        odd_scales(kind, &mut blocks);
        let want = reference::decode_ggml(kind, &blocks);
        let data = Tensor::from_bytes(
            &Device::Cpu,
            DType::U8,
            &[rows, kind.block_bytes()],
            AlignedBytes::copy_of(&blocks),
        );
        let weight = Weight::with_format(data.unwrap(), WeightFormat::Ggml(kind)).unwrap();
        let mut identity = vec![0.0; columns * columns];
        identity.iter_mut().step_by(columns + 1).for_each(|one| *one = 1.0);
        for level in Level::available() {
            let mut out = vec![0.0; columns * rows];
            cpu::linear(level, &identity, &weight, None, &mut out);
            for (i, got) in out.iter().enumerate() {
                let (column, row) = (i / rows, i % rows);
                // Of zeros the sign is lost.
                let want = want[row * columns + column] + 0.0;
                assert_eq!(got.to_bits(), want.to_bits(), "{kind} {level:?} row {row} column {column}");
            }
        }
    }
}

/// Blocks written by hand from the formats' description, so that both decoders cannot be wrong in the same way.
#[test]
fn known_blocks() {
    // 2.0 and -1.0 in half precision.
    let (two, minus_one) = ([0x00, 0x40], [0x00, 0xBC]);
    let decode = |kind: GgmlType, parts: &[&[u8]]| {
        let block = AlignedBytes::copy_of(&parts.concat());
        let mut out = vec![0.0; kind.block_len()];
        cpu::decode_ggml(kind, &block, &mut out);
        assert_eq!(out, reference::decode_ggml(kind, &block), "{kind}");
        out
    };
    let codes: Vec<u8> = (0..16).map(|j| j | (15 - j) << 4).collect();
    let q4_0 = decode(GgmlType::Q4_0, &[&two, &codes]);
    assert_eq!((q4_0[0], q4_0[15], q4_0[16], q4_0[31]), (-16.0, 14.0, 14.0, -16.0));
    let q4_1 = decode(GgmlType::Q4_1, &[&two, &minus_one, &codes]);
    assert_eq!((q4_1[1], q4_1[17]), (2.0 - 1.0, 28.0 - 1.0));
    // The fifth bits of columns 0 and 31.
    let q5_0 = decode(GgmlType::Q5_0, &[&two, &[1, 0, 0, 0x80], &codes]);
    assert_eq!((q5_0[0], q5_0[1], q5_0[31]), (0.0, 2.0 * (1.0 - 16.0), 0.0));
    let q5_1 = decode(GgmlType::Q5_1, &[&two, &minus_one, &[1, 0, 0, 0x80], &codes]);
    assert_eq!((q5_1[0], q5_1[1], q5_1[31]), (31.0, 1.0, 31.0));
    let bytes: Vec<u8> = (0..32).map(|i| (i - 16) as i8 as u8).collect();
    assert_eq!(decode(GgmlType::Q8_0, &[&two, &bytes])[..2], [-32.0, -30.0]);
    let iq4 = decode(GgmlType::Iq4Nl, &[&two, &codes]);
    assert_eq!((iq4[0], iq4[8], iq4[16]), (-254.0, 2.0, 226.0));
    // Exponent 128 is a factor of two.
    let mxfp4 = decode(GgmlType::Mxfp4, &[&[128], &codes]);
    assert_eq!((mxfp4[1], mxfp4[7], mxfp4[15], mxfp4[16]), (1.0, 12.0, -12.0, -12.0));
}

#[test]
fn a_scale_that_is_no_number_is_found() {
    for kind in GgmlType::ALL {
        let mut blocks = ggml_blocks(kind, 5, 3);
        assert_eq!(kind.first_non_finite(&blocks), None, "{kind}");
        let all = reference::decode_ggml(kind, &blocks);
        assert!(all.iter().all(|v| v.is_finite()), "{kind}");
        // The last scale of block 3: half precision in the last two bytes of some formats, the first of others.
        let size = kind.block_bytes();
        let at = match kind {
            GgmlType::Mxfp4 => 0,
            GgmlType::Q2K | GgmlType::Q3K | GgmlType::Q6K => size - 1,
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => 3,
            _ => 1,
        };
        blocks[3 * size + at] = if kind == GgmlType::Mxfp4 { 0xFF } else { 0x7E };
        assert_eq!(kind.first_non_finite(&blocks), Some(3), "{kind}");
        assert!(reference::decode_ggml(kind, &blocks[3 * size..4 * size]).iter().all(|v| !v.is_finite()));
    }
}

#[test]
fn a_row_is_whole_blocks() {
    let data = |bytes: usize| {
        Tensor::from_bytes(&Device::Cpu, DType::U8, &[2, bytes], AlignedBytes::zeroed(2 * bytes)).unwrap()
    };
    let weight = Weight::with_format(data(2 * 144), WeightFormat::Ggml(GgmlType::Q4K)).unwrap();
    assert_eq!((weight.shape(), weight.len(), weight.size_bytes()), ([1, 2, 512], 1024, 576));
    for bytes in [1, 143, 145] {
        assert!(Weight::with_format(data(bytes), WeightFormat::Ggml(GgmlType::Q4K)).is_err(), "{bytes}");
    }
    let floats = Tensor::from_f32(&Device::Cpu, &[1, 36], &[0.0; 36]).unwrap();
    assert!(Weight::with_format(floats, WeightFormat::Ggml(GgmlType::Q4K)).is_err());
}

/// More columns than a panel has, so that a row is decoded in parts; alone and in a batch the same bits.
#[test]
fn linear_decodes_blocks() {
    for kind in GgmlType::ALL {
        for [n, k] in [[37, 256], [9, 2304]] {
            let weight = weight(Form::Ggml(kind), [1, n, k], 11);
            let dense = weight.to_vec_f32();
            let tokens = 14;
            let x = values(12, tokens * k);
            let want = reference::linear(&x, &dense, None, k, n);
            let magnitude = reference::linear(&abs(&x), &abs(&dense), None, k, n);
            for level in Level::available() {
                let mut got = vec![0.0; tokens * n];
                cpu::linear(level, &x, &weight, None, &mut got);
                let bound = |i: usize| 2.0 * (k + 8) as f32 * ROUND * magnitude[i];
                close_by(&format!("{kind} {n}x{k} {level:?}"), &got, &want, bound);
                let mut alone = vec![0.0; n];
                cpu::linear(level, &x[k..2 * k], &weight, None, &mut alone);
                assert_eq!(alone, got[n..2 * n], "{kind} {level:?}");
            }
        }
    }
}

#[test]
fn a_token_table_of_blocks() {
    for kind in GgmlType::ALL {
        let table = weight(Form::Ggml(kind), [1, 6, 512], 13);
        let rows = ops::embedding(&table, &ids(&[2], &[5, 1])).unwrap().to_vec_f32();
        let dense = table.to_vec_f32();
        let want = [&dense[5 * 512..], &dense[512..1024]].concat();
        close_by(&kind.to_string(), &rows, &want, |i| 1e-6 * want[i].abs() + 1e-6);
    }
}

/// A GPU has no blocks: MXFP4 keeps every value in FP4, the others are floats of the operand's dtype.
#[test]
fn on_a_gpu_blocks_become_fp4_or_floats() {
    let gpu = soft_gpu();
    for (precision, dtype) in [(Precision::F32, DType::F32), (Precision::Bf16, DType::BF16)] {
        let device = gpu.open(CudaOptions { precision, ..CudaOptions::default() });
        for kind in GgmlType::ALL {
            let here = weight(Form::Ggml(kind), [2, 3, 512], 5);
            let there = here.to_device(&device).unwrap();
            assert_eq!(there.shape(), here.shape());
            let back = there.to_device(&Device::Cpu).unwrap();
            match back.format() {
                WeightFormat::Fp4(_) => assert_eq!(kind, GgmlType::Mxfp4),
                WeightFormat::Float => assert_eq!(back.dtype(), dtype),
                other => panic!("{kind} became {other:?}"),
            }
            for (got, want) in back.to_vec_f32().iter().zip(here.to_vec_f32()) {
                let step = if dtype == DType::F32 { 1e-6 } else { 1.0 / 256.0 };
                assert!((got - want).abs() <= step * want.abs() + 1e-7, "{kind}: {got} for {want}");
            }
        }
    }
}
