//! `embedding`: exact in every form.

use kernels::cpu::{self, Level};
use kernels::{DType, Device, KernelError, Precision, Tensor, Weight, ops, reference};
use testkit::soft_gpu;

use crate::common::{F32, FORMS, FP8, ids, weight};

#[test]
fn rows_are_exact() {
    for form in FORMS {
        for dim in [1, 16, 50, 200].into_iter().filter(|k| form.fits(*k)) {
            let table = weight(form, [1, 40, dim], 3);
            let chosen = [39, 0, 7, 7, 12];
            let want = reference::embedding(&table.to_vec_f32(), dim, &chosen);
            for level in Level::available() {
                let mut got = vec![0.0; chosen.len() * dim];
                cpu::embedding(level, &table, &chosen, 0, &mut got);
                assert_eq!(got, want, "{form:?} {dim} {level:?}");
            }
        }
    }
}

/// The parts of a table, whose sum is the whole one's answer.
#[test]
fn parts_of_the_table_have_their_own_rows_and_zeros() {
    let whole = weight(FORMS[0], [1, 40, 24], 3);
    let chosen = [39, 0, 7, 12, 13, 30];
    let want = ops::embedding(&whole, &ids(&[6], &chosen)).unwrap().to_vec_f32();
    let mut sum = vec![0.0; want.len()];
    for (first, rows) in [(0, 13), (13, 0), (13, 17), (30, 10)] {
        let values = &whole.to_vec_f32()[first * 24..(first + rows) * 24];
        let table = Tensor::from_f32(&Device::Cpu, &[rows, 24], values).unwrap();
        let part = Weight::new(table, None).unwrap();
        let got = ops::embedding_shard(&part, &ids(&[6], &chosen), first, 40).unwrap().to_vec_f32();
        for (t, id) in chosen.iter().enumerate() {
            let is_here = (first..first + rows).contains(&(*id as usize));
            let row = t * 24..(t + 1) * 24;
            assert!(is_here || got[row.clone()].iter().all(|v| *v == 0.0), "token {id} from {first}");
            assert!(!is_here || got[row.clone()] == want[row], "token {id} from {first}");
        }
        sum.iter_mut().zip(&got).for_each(|(sum, v)| *sum += v);
    }
    assert_eq!(sum, want);
    let part = weight(FORMS[0], [1, 13, 24], 3);
    assert!(matches!(ops::embedding_shard(&part, &ids(&[1], &[40]), 0, 40), Err(KernelError::Value { .. })));
    assert!(matches!(ops::embedding_shard(&part, &ids(&[1], &[0]), 28, 40), Err(KernelError::Shape { .. })));
}

#[test]
fn refuses_ids_past_the_table() {
    let table = weight(F32, [1, 4, 8], 1);
    assert!(matches!(ops::embedding(&table, &ids(&[2], &[3, 4])), Err(KernelError::Value { .. })));
    assert!(matches!(
        ops::embedding(&weight(F32, [2, 4, 8], 1), &ids(&[1], &[0])),
        Err(KernelError::Shape { .. })
    ));
}

#[test]
fn rows_are_exact_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for form in &FORMS[..3] {
            for dim in [1, 16, 50, 1100] {
                let whole = weight(*form, [1, 40, dim], 3);
                let chosen = [39, 0, 7, 7, 12, 20];
                let want = reference::embedding(&whole.to_vec_f32(), dim, &chosen);
                let table = whole.to_device(device).unwrap();
                let on_gpu = |ids: &[u32]| Tensor::from_u32(device, &[ids.len()], ids).unwrap();
                let got = ops::embedding(&table, &on_gpu(&chosen)).unwrap();
                assert_eq!((got.dtype(), got.to_vec_f32()), (DType::F32, want.clone()), "{form:?} {dim}");
                assert!(ops::embedding(&table, &on_gpu(&[])).unwrap().is_empty());
                // The same rows as tokens 100 to 139 of 160, asked for with some that lie before and after.
                let mut shifted: Vec<u32> = chosen.iter().map(|id| id + 100).collect();
                shifted.extend([99, 140, 0]);
                let got = ops::embedding_shard(&table, &on_gpu(&shifted), 100, 160).unwrap().to_vec_f32();
                assert_eq!(got[..want.len()], want, "{form:?} {dim}");
                assert!(got[want.len()..].iter().all(|v| *v == 0.0), "{form:?} {dim}");
            }
        }
    });
}

#[test]
fn a_gpu_refuses_ids_past_the_vocabulary() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let table = weight(FORMS[0], [1, 4, 8], 1).to_device(&device).unwrap();
    let seen = Tensor::from_u32(&device, &[2], &[3, 4]).unwrap();
    assert!(matches!(ops::embedding(&table, &seen), Err(KernelError::Value { .. })));
    // Only the device knows ids that were not made from a list of the host.
    let unseen = ids(&[2], &[3, 4]).to_device(&device).unwrap();
    let error = ops::embedding(&table, &unseen).unwrap().read_f32().unwrap_err();
    assert!(error.to_string().contains("embedding: ids holds 4, expected values below 4"), "{error}");
    let fp8 = weight(FP8, [1, 4, 8], 1).to_device(&device).unwrap();
    assert!(matches!(ops::embedding(&fp8, &seen), Err(KernelError::Value { .. })));
    let seen = Tensor::from_u32(&device, &[1], &[3]).unwrap();
    assert!(matches!(ops::embedding(&fp8, &seen), Err(KernelError::DType { .. })));
    assert!(matches!(ops::embedding(&table, &ids(&[1], &[0])), Err(KernelError::Placement { .. })));
}
