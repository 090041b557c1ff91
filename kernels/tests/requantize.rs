//! Re-quantisation to INT8. Catches: a scale of the neighbouring block or expert, rounding away from zero or of ties up,
//! a power of two too large by one (which costs a bit) or too small (which clips), errors that are not what happened.

use kernels::cpu::AlignedBytes;
use kernels::ops::{Int8Scales, Int8Stack, QuantError, requantize_int8};
use kernels::{DType, Device, KernelError, Tensor, Weight, WeightFormat, reference};

use crate::common::{F32, FORMS, Form, close, tensor, weight};

const MODES: [Int8Scales; 2] = [Int8Scales::PerRow, Int8Scales::PerBlock];

fn raw(dtype: DType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::from_bytes(&Device::Cpu, dtype, shape, AlignedBytes::copy_of(bytes)).unwrap()
}

fn codes(weight: &Weight) -> Vec<i8> {
    weight.data().host_bytes().unwrap().iter().map(|&b| b as i8).collect()
}

fn check_error(what: &str, got: &QuantError, want: &QuantError) {
    assert_eq!(got.inexact_rows, want.inexact_rows, "{what}");
    assert_eq!((got.max_abs, got.max_of_row), (want.max_abs, want.max_of_row), "{what}");
    close(what, &[got.relative_rms], &[want.relative_rms], 1e-6 * want.relative_rms);
}

#[test]
fn matches_the_reference() {
    for form in FORMS {
        for [e, n, k] in [[1, 1, 1], [2, 5, 50], [3, 130, 66], [1, 7, 576], [2, 257, 260]] {
            if !form.fits(k) {
                continue;
            }
            let weight = weight(form, [e, n, k], 11);
            let dense = weight.to_vec_f32();
            for mode in MODES {
                let (got, errors) = requantize_int8(&weight, mode).unwrap();
                let what = format!("{form:?} {:?} {mode:?}", [e, n, k]);
                assert_eq!((got.shape(), got.dtype(), errors.len()), ([e, n, k], DType::I8, e), "{what}");
                let (codes, kept) = (codes(&got), got.to_vec_f32());
                let scales = got.scales().unwrap().scales.to_vec_f32();
                for expert in 0..e {
                    let part = expert * n * k..(expert + 1) * n * k;
                    let dense = &dense[part.clone()];
                    let want = reference::requantize_int8(dense, [n, k], mode.block(k), form == Form::Fp4);
                    assert_eq!(codes[part.clone()], want.0, "{what}: codes of expert {expert}");
                    let count = want.1.len();
                    assert_eq!(
                        scales[expert * count..][..count],
                        want.1,
                        "{what}: scales of expert {expert}"
                    );
                    let error = reference::quant_error(dense, &kept[part], k);
                    check_error(&what, &errors[expert], &error);
                    if mode == Int8Scales::PerRow && form != Form::Fp4 {
                        // Half a step, and the roundings of the quotient and of the product.
                        assert!(errors[expert].max_of_row <= 1.00001 / 254.0, "{what}: {error:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_even_code() {
    let row = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 0.49];
    let weight = Weight::new(tensor(&[1, 8], &row), None).unwrap();
    let (got, errors) = requantize_int8(&weight, Int8Scales::PerRow).unwrap();
    assert_eq!(codes(&got), [127, 0, 2, 2, 0, -2, -126, 0]);
    assert_eq!((errors[0].max_abs, errors[0].inexact_rows, errors[0].is_lossless()), (0.5, 1, false));
}

/// One row of FP4 whose 32-column groups hold the codes `codes[group]` and have the exponents `exponents`.
fn fp4(codes: &[u8], exponents: &[u8]) -> Weight {
    let bytes: Vec<u8> = codes.iter().flat_map(|c| [c | c << 4; 16]).collect();
    let k = 32 * codes.len();
    let exponents = raw(DType::F8E8M0, &[1, 1, codes.len()], exponents);
    Weight::with_format(raw(DType::U8, &[1, k / 2], &bytes), WeightFormat::Fp4(exponents)).unwrap()
}

#[test]
fn fp4_whose_exponents_are_near_is_exact() {
    // 6 = 12 / 2 at the largest exponent becomes 12 << 3; 0.5 = 1 / 2 three exponents below stays 1.
    for mode in MODES {
        let (got, errors) = requantize_int8(&fp4(&[7, 1, 0x9], &[127, 124, 125]), mode).unwrap();
        assert!(errors[0].is_lossless(), "{errors:?}");
        let codes = codes(&got);
        assert_eq!([codes[0], codes[32], codes[64]], [96, 1, -2]);
        assert_eq!(got.scales().unwrap().scales.to_vec_f32(), [2f32.powi(-4)]);
    }
    // One exponent more, and the odd code falls between two integers: a tie, to the even 0.
    let (got, errors) = requantize_int8(&fp4(&[7, 1], &[127, 123]), Int8Scales::PerRow).unwrap();
    assert_eq!((codes(&got)[32], errors[0].max_abs, errors[0].inexact_rows), (0, 2f32.powi(-5), 1));
    // A group of zeros has no say, and small codes leave room below; neither does the least exponent break anything.
    for (codes, exponents) in [([7, 0], [127, 1]), ([1, 1], [127, 121]), ([7, 1], [3, 0])] {
        let weight = fp4(&codes, &exponents);
        let (got, errors) = requantize_int8(&weight, Int8Scales::PerRow).unwrap();
        assert!(errors[0].is_lossless(), "{codes:?} {exponents:?}: {errors:?}");
        assert_eq!(got.to_vec_f32(), weight.to_vec_f32());
    }
}

#[test]
fn zeros_stay_zeros() {
    for mode in MODES {
        let weight = Weight::new(tensor(&[3, 5], &[0.0; 15]), None).unwrap();
        let (got, errors) = requantize_int8(&weight, mode).unwrap();
        assert_eq!((got.to_vec_f32(), errors), (vec![0.0; 15], vec![QuantError::default()]));
    }
}

#[test]
fn a_stack_grows_expert_by_expert() {
    let all = weight(FORMS[3], [3, 130, 66], 21);
    let single = |expert: usize| {
        let part = &all.to_vec_f32()[expert * 130 * 66..][..130 * 66];
        Weight::new(tensor(&[130, 66], part), None).unwrap()
    };
    for mode in MODES {
        let (want, errors) = requantize_int8(&all, mode).unwrap();
        let mut stack = Int8Stack::new([3, 130, 66], mode);
        let pushed: Vec<_> = (0..3).flat_map(|expert| stack.push(&single(expert)).unwrap()).collect();
        let got = stack.finish().unwrap();
        assert_eq!((codes(&got), got.to_vec_f32(), pushed), (codes(&want), want.to_vec_f32(), errors));
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let weight = |shape: [usize; 3]| weight(F32, shape, 1);
    let mut stack = Int8Stack::new([2, 4, 8], Int8Scales::PerRow);
    for shape in [[1, 4, 7], [1, 5, 8], [3, 4, 8]] {
        assert!(matches!(stack.push(&weight(shape)), Err(KernelError::Shape { .. })), "{shape:?}");
    }
    stack.push(&weight([1, 4, 8])).unwrap();
    assert!(matches!(stack.push(&weight([2, 4, 8])), Err(KernelError::Shape { .. })));
    assert!(matches!(stack.finish(), Err(KernelError::Value { .. })));
    for value in [f32::NAN, f32::INFINITY] {
        let weight = Weight::new(tensor(&[1, 3], &[1.0, value, 2.0]), None).unwrap();
        let refused = requantize_int8(&weight, Int8Scales::PerRow);
        assert!(matches!(refused, Err(KernelError::Value { arg: "weight", .. })), "{value}");
    }
}
