//! INT8 weights and activations on a GPU's integer tensor cores. Catches: activations rounded away from zero, a scale of
//! another row or token, halves of a fragment exchanged, a tile narrower than its threads that is copied past its end,
//! sums that are not integers.

use kernels::{DType, Device, Precision, Tensor, Weight, ops, reference};
use testkit::soft_gpu;

use crate::common::{Form, ROUND, abs, close_by, packed, tensor, values, weight};

const PER_ROW: Form = Form::Int8(None);
const PER_BLOCK: Form = Form::Int8(Some([128, 128]));

fn codes(weight: &Weight) -> Vec<i8> {
    weight.data().host_bytes().unwrap().iter().map(|&b| b as i8).collect()
}

/// The result by integer sums.
fn exact(x: &[f32], weight: &Weight) -> Vec<f32> {
    let scales = weight.scales().unwrap();
    let (codes, factors) = (codes(weight), scales.scales.to_vec_f32());
    let (x, x_scales) = reference::quantize_rows(x, weight.cols());
    let block = [scales.block_rows, scales.block_cols];
    reference::linear_w8a8((&x, &x_scales), (&codes, &factors), block, [weight.cols(), weight.rows()])
}

fn run(device: &Device, x: &Tensor, weight: &Weight) -> Vec<f32> {
    ops::linear(&x.to_device(device).unwrap(), &weight.to_device(device).unwrap(), None).unwrap().to_vec_f32()
}

/// What sums of a few parts in another order may differ by.
fn check(device: &Device, form: Form, [n, k]: [usize; 2], tokens: usize) {
    let weight = weight(form, [1, n, k], 7);
    let x = packed(DType::BF16, &[tokens, k], &values(tokens as u64, tokens * k));
    let (got, want) = (run(device, &x, &weight), exact(&x.to_vec_f32(), &weight));
    let what = format!("{form:?} {n}x{k} T={tokens}");
    // One sum in one part: nothing but integers and two products.
    if form == PER_ROW && tokens > 16 && k < 1024 {
        assert_eq!(got, want, "{what}");
        return;
    }
    let magnitude = reference::linear(&abs(&x.to_vec_f32()), &abs(&weight.to_vec_f32()), None, k, n);
    close_by(&what, &got, &want, |i| 64.0 * ROUND * magnitude[i]);
}

#[test]
fn equals_integer_sums() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    for form in [PER_ROW, PER_BLOCK, Form::Int8(Some([32, 32])), Form::Int8(Some([1, 64]))] {
        for [n, k] in [[1, 1], [1, 7], [37, 50], [136, 192], [66, 2100], [9, 16], [130, 1008], [65, 72]] {
            for tokens in [1, 2, 16, 17, 65] {
                // One scale must cover 32 columns, or all.
                check(&device, form, [n, k], tokens);
            }
        }
    }
}

#[test]
fn of_real_sizes() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    // V2-Lite's experts, a slice of V3's, both of V4's sides, and enough columns for the largest tile.
    for ([n, k], tokens) in
        [([1408, 2048], 1), ([256, 7168], 3), ([2048, 4096], 1), ([512, 2048], 18), ([13_900, 72], 70)]
    {
        check(&device, PER_ROW, [n, k], tokens);
    }
}

#[test]
fn under_all_schedules() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for (form, [n, k], tokens) in [
            (PER_ROW, [20, 272], 3),
            (PER_ROW, [70, 1043], 17),
            (PER_BLOCK, [40, 400], 2),
            (PER_BLOCK, [33, 130], 66),
        ] {
            check(device, form, [n, k], tokens);
        }
    });
}

/// A weight that hands the codes of its activations through: one, scaled by one.
fn identity(k: usize) -> Weight {
    let ones: Vec<f32> = (0..k * k).map(|i| if i / k == i % k { 127.0 } else { 0.0 }).collect();
    let weight = Weight::new(tensor(&[k, k], &ones), None).unwrap();
    let (weight, errors) = ops::requantize_int8(&weight, ops::Int8Scales::PerRow).unwrap();
    assert!(errors[0].is_lossless());
    weight
}

/// Codes times scale times 127.
fn handed_through(x: &[f32], k: usize) -> Vec<f32> {
    let (codes, scales) = reference::quantize_rows(x, k);
    codes.iter().enumerate().map(|(i, &code)| f32::from(code) * 127.0 * scales[i / k]).collect()
}

#[test]
fn activations_are_rounded_to_the_nearest_step_of_their_row() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for k in [1, 7, 32, 130, 264] {
            let identity = identity(k);
            for dtype in [DType::F32, DType::BF16] {
                // Rows of unlike sizes.
                let x: Vec<f32> =
                    values(5, 3 * k).iter().enumerate().map(|(i, v)| v * [1.0, 1e-3, 1e4][i / k]).collect();
                let x = packed(dtype, &[3, k], &x);
                assert_eq!(run(device, &x, &identity), handed_through(&x.to_vec_f32(), k), "{dtype} {k}");
            }
        }
    });
}

#[test]
fn ties_zeros_and_nan() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let identity = identity(8);
    let ties = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0];
    let mut x = ties.to_vec();
    x.extend([0.0; 8]);
    x.extend([1.0, f32::NAN, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    x.extend([1.0, f32::INFINITY, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    x.extend(ties);
    let got = run(&device, &tensor(&[5, 8], &x), &identity);
    let want = [127.0, 0.0, 2.0, 2.0, 0.0, -2.0, -2.0, -127.0].map(|v| v * 127.0);
    assert_eq!(got[..8], want);
    assert_eq!(got[8..16], [0.0; 8]);
    assert!(got[16..32].iter().all(|v| v.is_nan()), "{got:?}");
    assert_eq!(got[32..], want);
}

#[test]
fn blocks_that_32_columns_do_not_divide_into_are_multiplied_as_floats() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let weight = weight(Form::Int8(Some([5, 7])), [1, 20, 60], 3);
    let x = packed(DType::BF16, &[2, 60], &values(1, 120));
    let want = reference::linear(&x.to_vec_f32(), &weight.to_vec_f32(), None, 60, 20);
    close_by("floats", &run(&device, &x, &weight), &want, |_| 1e-4);
}
