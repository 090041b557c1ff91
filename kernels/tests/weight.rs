//! `Weight`: every stored form decoded by its formula, and what a weight refuses. Catches: swapped halves of a byte, a
//! shifted group, scales of another expert, a forgotten zero point.

use kernels::cpu::AlignedBytes;
use kernels::{BlockScales, DType, Device, GroupScales, KernelError, Result, Tensor, Weight, WeightFormat};

use crate::common::{FORMS, packed, tensor, values, weight};

fn raw(dtype: DType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::from_bytes(&Device::Cpu, dtype, shape, AlignedBytes::copy_of(bytes)).unwrap()
}

fn scales(shape: &[usize], dtype: DType) -> Tensor {
    packed(dtype, shape, &values(1, shape.iter().product()))
}

#[test]
fn fp4_is_low_half_first_with_an_exponent_per_32_columns() {
    // Two experts of one row of 34 columns: the second group has two columns.
    let mut codes = [0x21_u8; 34];
    codes[16] = 0xF3;
    let exponents = raw(DType::F8E8M0, &[2, 1, 2], &[127, 128, 126, 130]);
    let weight =
        Weight::with_format(raw(DType::U8, &[2, 1, 17], &codes), WeightFormat::Fp4(exponents)).unwrap();
    let got = weight.to_vec_f32();
    assert_eq!((weight.shape(), weight.len(), weight.size_bytes()), ([2, 1, 34], 68, 38));
    assert_eq!(got[..2], [0.5, 1.0]);
    assert_eq!(got[30..36], [0.5, 1.0, 1.5 * 2.0, -6.0 * 2.0, 0.25, 0.5]);
    assert_eq!(got[66..], [0.5 * 8.0, 8.0]);
}

#[test]
fn int4_takes_the_zero_point_off() {
    let groups = GroupScales {
        scales: tensor(&[1, 2, 2], &[1.0, 10.0, 100.0, 1000.0]),
        zeros: raw(DType::U8, &[1, 2, 2], &[8, 0, 15, 1]),
        group: 32,
    };
    let weight =
        Weight::with_format(raw(DType::U8, &[2, 17], &[0xF2; 34]), WeightFormat::Int4(groups)).unwrap();
    let got = weight.to_vec_f32();
    assert_eq!(got[..2], [-6.0, 7.0]);
    assert_eq!(got[32..36], [20.0, 150.0, -1300.0, 0.0]);
    assert_eq!(got[66..], [1000.0, 14000.0]);
}

#[test]
fn int8_is_scaled_by_row_or_by_block() {
    let data = raw(DType::I8, &[3, 2], &[1, 255, 127, 128, 2, 3]);
    let blocks = |scales: Tensor, [block_rows, block_cols]: [usize; 2]| {
        Weight::new(data.clone(), Some(BlockScales { scales, block_rows, block_cols })).unwrap().to_vec_f32()
    };
    assert_eq!(blocks(tensor(&[1, 3, 1], &[1.0, 2.0, 3.0]), [1, 2]), [1.0, -1.0, 254.0, -256.0, 6.0, 9.0]);
    assert_eq!(
        blocks(tensor(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), [2, 1]),
        [1.0, -2.0, 127.0, -256.0, 6.0, 12.0]
    );
}

#[test]
fn a_format_maps_onto_its_copy() {
    for form in FORMS {
        let weight = weight(form, [2, 3, 70], 9);
        let format = weight.format().try_map(|t| Ok::<_, KernelError>(t.clone())).unwrap();
        let copy = Weight::with_format(weight.data().clone(), format).unwrap();
        assert_eq!(
            (copy.to_vec_f32(), copy.size_bytes()),
            (weight.to_vec_f32(), weight.size_bytes()),
            "{form:?}"
        );
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let shape = |w: Result<Weight>| matches!(w, Err(KernelError::Shape { .. }));
    let dtype = |w: Result<Weight>| matches!(w, Err(KernelError::DType { .. }));
    let value = |w: Result<Weight>| matches!(w, Err(KernelError::Value { .. }));
    let nibbles = || raw(DType::U8, &[2, 17], &[0; 34]);
    let blocks = |scales| Some(BlockScales { scales, block_rows: 1, block_cols: 34 });
    let int8 = || raw(DType::I8, &[2, 34], &[0; 68]);
    assert!(value(Weight::new(int8(), None)));
    assert!(shape(Weight::new(int8(), blocks(scales(&[1, 1, 2], DType::F32)))));
    assert!(dtype(Weight::new(int8(), blocks(scales(&[1, 2, 1], DType::BF16)))));
    assert!(value(Weight::new(
        packed(DType::BF16, &[2, 34], &[0.0; 68]),
        blocks(scales(&[1, 2, 1], DType::F32))
    )));
    assert!(dtype(Weight::new(nibbles(), None)));
    let fp4 = |exponents| Weight::with_format(nibbles(), WeightFormat::Fp4(exponents));
    assert!(fp4(raw(DType::F8E8M0, &[1, 2, 2], &[0; 4])).is_ok());
    assert!(shape(fp4(raw(DType::F8E8M0, &[1, 2, 1], &[0; 2]))));
    assert!(dtype(fp4(scales(&[1, 2, 2], DType::F32))));
    let int4 = |scales, zeros, group| {
        Weight::with_format(nibbles(), WeightFormat::Int4(GroupScales { scales, zeros, group }))
    };
    let zeros = |groups| raw(DType::U8, &[1, 2, groups], &vec![8; 2 * groups]);
    assert!(int4(scales(&[1, 2, 2], DType::BF16), zeros(2), 32).is_ok());
    assert!(shape(int4(scales(&[1, 2, 2], DType::BF16), zeros(1), 32)));
    assert!(shape(int4(scales(&[1, 2, 2], DType::BF16), zeros(2), 64)));
    assert!(value(int4(scales(&[1, 2, 3], DType::BF16), zeros(3), 16)));
    assert!(dtype(int4(scales(&[1, 2, 2], DType::F16), zeros(2), 32)));
}
