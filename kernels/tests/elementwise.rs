//! `add_assign`, `gather_rows`, `concat_cols`.

use kernels::{DType, KernelError, Precision, Tensor, ops};
use testkit::soft_gpu;

use crate::common::{ids, packed, tensor, values};

#[test]
fn rows_are_added_gathered_and_joined() {
    let mut x = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    ops::add_assign(&mut x, &tensor(&[2, 2], &[10.0, 20.0, 30.0, 40.0])).unwrap();
    assert_eq!(x.to_vec_f32(), [11.0, 22.0, 33.0, 44.0]);
    let gathered = ops::gather_rows(&x, &ids(&[3], &[1, 0, 1])).unwrap();
    assert_eq!(gathered.to_vec_f32(), [33.0, 44.0, 11.0, 22.0, 33.0, 44.0]);
    let joined = ops::concat_cols(&x, &tensor(&[2, 1], &[7.0, 8.0])).unwrap();
    assert_eq!((joined.shape(), joined.to_vec_f32()), (&[2, 3][..], vec![11.0, 22.0, 7.0, 33.0, 44.0, 8.0]));
}

#[test]
fn refusals_write_nothing() {
    let mut x = tensor(&[2, 2], &[1.0; 4]);
    assert!(matches!(ops::add_assign(&mut x, &tensor(&[4], &[1.0; 4])), Err(KernelError::Shape { .. })));
    assert!(matches!(ops::gather_rows(&x, &ids(&[1], &[2])), Err(KernelError::Value { .. })));
    assert!(matches!(ops::concat_cols(&x, &tensor(&[1, 2], &[1.0; 2])), Err(KernelError::Shape { .. })));
    assert_eq!(x.to_vec_f32(), [1.0; 4]);
}

#[test]
fn add_assign_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::F32, |device| {
        for n in [0, 1, 255, 256, 1000] {
            let [x, y] = [0.5, 3.0].map(|scale| (0..n).map(|i| i as f32 * scale).collect::<Vec<_>>());
            let mut sum = Tensor::from_f32(device, &[n], &x).unwrap();
            ops::add_assign(&mut sum, &Tensor::from_f32(device, &[n], &y).unwrap()).unwrap();
            assert_eq!(sum.to_vec_f32(), (0..n).map(|i| i as f32 * 3.5).collect::<Vec<_>>());
        }
        let mut x = Tensor::from_f32(device, &[2], &[1.0; 2]).unwrap();
        let error = ops::add_assign(&mut x, &tensor(&[2], &[1.0; 2])).unwrap_err();
        assert_eq!(error.to_string(), "add_assign: y lives on cpu, expected cuda:0");
    });
}

#[test]
fn rows_are_gathered_and_joined_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for dtype in [DType::F32, DType::BF16] {
            // Rows of 2, 4 and 16 bytes and more, within a block of threads and beyond it.
            for (tokens, left, right) in
                [(3, 1, 2), (2, 7, 4), (1, 64, 24), (5, 1040, 33), (2, 4, 0), (0, 3, 5)]
            {
                let [a, b] =
                    [left, right].map(|w| packed(dtype, &[tokens, w], &values(w as u64, tokens * w)));
                let (rows_of_a, rows_of_b) = (a.to_vec_f32(), b.to_vec_f32());
                let joined: Vec<f32> = (0..tokens)
                    .flat_map(|t| [&rows_of_a[t * left..][..left], &rows_of_b[t * right..][..right]].concat())
                    .collect();
                let [a, b] = [a, b].map(|x| x.to_device(device).unwrap());
                let got = ops::concat_cols(&a, &b).unwrap();
                assert_eq!((got.dtype(), got.shape()), (dtype, &[tokens, left + right][..]));
                assert_eq!(got.to_vec_f32(), joined, "{dtype} {tokens} {left} {right}");
                let rows: Vec<u32> = (0..tokens as u32).rev().chain(0..tokens as u32).collect();
                let rows_on_gpu = Tensor::from_u32(device, &[rows.len()], &rows).unwrap();
                let want: Vec<f32> =
                    rows.iter().flat_map(|&r| &rows_of_a[r as usize * left..][..left]).copied().collect();
                let got = ops::gather_rows(&a, &rows_on_gpu).unwrap();
                assert_eq!((got.dtype(), got.to_vec_f32()), (dtype, want), "{dtype} {tokens} {left}");
            }
        }
    });
}

#[test]
fn columns_of_two_dtypes_are_joined_as_activations() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let a = tensor(&[1, 2], &[1.0, 1.001]).to_device(&device).unwrap();
    let b = packed(DType::BF16, &[1, 1], &[3.0]).to_device(&device).unwrap();
    for joined in [ops::concat_cols(&a, &b).unwrap(), ops::concat_cols(&b, &a).unwrap()] {
        assert_eq!(joined.dtype(), DType::BF16);
        let mut values = joined.to_vec_f32();
        values.sort_by(f32::total_cmp);
        assert_eq!(values, [1.0, 1.0, 3.0]);
    }
    let ids = Tensor::from_u32(&device, &[1, 1], &[3]).unwrap();
    assert!(matches!(ops::concat_cols(&a, &ids), Err(KernelError::DType { arg: "b", .. })));
}

/// What the host has not seen is checked by the kernel.
#[test]
fn a_row_past_the_end_is_reported_by_the_gpu() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let x = tensor(&[2, 3], &[1.0; 6]).to_device(&device).unwrap();
    let seen = Tensor::from_u32(&device, &[1], &[2]).unwrap();
    assert!(matches!(ops::gather_rows(&x, &seen), Err(KernelError::Value { .. })));
    let unseen = ids(&[3], &[1, 2, 0]).to_device(&device).unwrap();
    let error = ops::gather_rows(&x, &unseen).unwrap().read_f32().unwrap_err();
    assert!(error.to_string().contains("gather_rows: rows holds 2, expected values below 2"), "{error}");
    device.synchronize().unwrap();
}
