//! `embedding`: exact in every form.

use kernels::cpu::{self, Level};
use kernels::{Device, KernelError, Tensor, Weight, ops, reference};

use crate::common::{F32, FORMS, ids, weight};

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
