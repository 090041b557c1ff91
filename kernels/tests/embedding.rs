//! `embedding`: exact in every form.

use kernels::cpu::{self, Level};
use kernels::{KernelError, ops, reference};

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
                cpu::embedding(level, &table, &chosen, &mut got);
                assert_eq!(got, want, "{form:?} {dim} {level:?}");
            }
        }
    }
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
