//! `shared_kv`. Catches: the norm over a part of the row, the first columns rotated in place of the last.

use kernels::{DType, KernelError, Precision, RopeLayout, RopeTable, ops, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, tensor, values};

fn table(half: usize) -> RopeTable {
    let frequencies: Vec<f32> = (0..half).map(|i| 0.5_f32.powi(i as i32)).collect();
    RopeTable::new(&ids(&[4], &[3, 4, 5, 100]), &frequencies, 1.0).unwrap()
}

#[test]
fn a_shared_row_is_normed_whole_and_rotated_at_its_end() {
    for (dim, half) in [(32, 4), (13, 6), (8, 4)] {
        let (kv, weight) = (values(5, 4 * dim), values(6, dim));
        let table = table(half);
        let mut want = reference::rms_norm(&kv, &weight, dim, 1e-3);
        let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
        for (t, row) in want.chunks_exact_mut(dim).enumerate() {
            let angles = t * half..(t + 1) * half;
            let rotated = &mut row[dim - 2 * half..];
            reference::rope(rotated, &cos[angles.clone()], &sin[angles], RopeLayout::Interleaved);
        }
        for dtype in [DType::F32, DType::BF16] {
            let got = ops::shared_kv(&tensor(&[4, dim], &kv), &tensor(&[dim], &weight), 1e-3, &table, dtype)
                .unwrap();
            assert_eq!((got.dtype(), got.shape()), (dtype, &[4, dim][..]));
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 2e-2 };
            close(&format!("{dim} {dtype}"), &got.to_vec_f32(), &want, tolerance);
        }
    }
    let fails = |dim| {
        ops::shared_kv(
            &tensor(&[4, 7], &[0.0; 28]),
            &tensor(&[dim], &vec![0.0; dim]),
            1e-3,
            &table(4),
            DType::F32,
        )
    };
    assert!(matches!(fails(8), Err(KernelError::Shape { arg: "weight", .. })));
    assert!(matches!(fails(7), Err(KernelError::Shape { arg: "table", .. })));
}

#[test]
fn a_gpu_matches_the_cpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for (dim, half) in [(32, 4), (13, 6), (600, 32)] {
            let (kv, weight) = (tensor(&[4, dim], &values(5, 4 * dim)), tensor(&[dim], &values(6, dim)));
            let on_cpu = table(half);
            let on_gpu = RopeTable {
                cos: on_cpu.cos.to_device(device).unwrap(),
                sin: on_cpu.sin.to_device(device).unwrap(),
            };
            let [kv_gpu, weight_gpu] = [&kv, &weight].map(|t| t.to_device(device).unwrap());
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
                let want = ops::shared_kv(&kv, &weight, 1e-3, &on_cpu, dtype).unwrap();
                let got = ops::shared_kv(&kv_gpu, &weight_gpu, 1e-3, &on_gpu, dtype).unwrap();
                assert_eq!(got.dtype(), dtype);
                close(&format!("{dim} {dtype}"), &got.to_vec_f32(), &want.to_vec_f32(), tolerance);
            }
        }
    });
}
