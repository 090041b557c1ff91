//! `add_assign`, `gather_rows`, `concat_cols`.

use kernels::{KernelError, Precision, Tensor, ops};
use testkit::soft_gpu;

use crate::common::{ids, tensor};

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
