//! `shared_kv`. Catches: the norm over a part of the row, the first columns rotated in place of the last; of packed rows a
//! scale of other channels or another power, rotated channels rounded like the others, a last group left out.

use kernels::{
    DType, Device, KernelError, Precision, RopeLayout, RopeTable, SharedKvRow, Tensor, ops, reference,
};
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

/// Packed rows hold what those in single precision do, rounded as the reference rounds. Neighbouring groups are of other
/// magnitudes, some below the least that a scale is made for.
fn check_packed(device: &Device) {
    let on = |tensor: Tensor| tensor.to_device(device).unwrap();
    for (dim, half) in [(600, 32), (512, 32), (200, 4), (75, 3), (24, 4), (8, 4)] {
        let format = SharedKvRow { head_dim: dim, qk_rope_head_dim: 2 * half };
        let weight: Vec<f32> = values(6, dim)
            .iter()
            .enumerate()
            .map(|(c, v)| v * [1.0, 3e-3, 500.0, 1e-6, 40.0, 1e-4, 0.02][c / 64 % 7])
            .collect();
        let (kv, weight) = (on(tensor(&[4, dim], &values(5, 4 * dim))), on(tensor(&[dim], &weight)));
        let table = table(half);
        let table = RopeTable { cos: on(table.cos), sin: on(table.sin) };
        let exact = ops::shared_kv(&kv, &weight, 1e-3, &table, DType::F32).unwrap().to_vec_f32();
        let packed = ops::shared_kv(&kv, &weight, 1e-3, &table, DType::U8).unwrap();
        assert_eq!((packed.dtype(), packed.shape()), (DType::U8, &[4, format.bytes()][..]));
        let packed = packed.host_bytes().unwrap();
        for (exact, bytes) in exact.chunks_exact(dim).zip(packed.chunks_exact(format.bytes())) {
            let mut found = vec![f32::NAN; dim];
            format.decode(bytes, &mut found);
            assert_eq!(found, reference::shared_kv_row(exact, 2 * half), "{device} {dim}");
        }
    }
}

#[test]
fn packed_rows_are_the_rounded_ones() {
    check_packed(&Device::Cpu);
    soft_gpu().under_all_schedules(Precision::Bf16, check_packed);
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

#[test]
fn sizes_of_packed_rows() {
    let row = SharedKvRow { head_dim: 512, qk_rope_head_dim: 64 };
    assert_eq!((row.num_packed(), row.rope_at(), row.bytes()), (448, 456, 584));
    let odd = SharedKvRow { head_dim: 75, qk_rope_head_dim: 6 };
    assert_eq!((odd.num_packed(), odd.rope_at(), odd.bytes()), (69, 72, 88));
    let all_rope = SharedKvRow { head_dim: 8, qk_rope_head_dim: 8 };
    assert_eq!((all_rope.num_packed(), all_rope.rope_at(), all_rope.bytes()), (0, 0, 16));
}

#[test]
fn groups_have_scales_of_their_own() {
    let row = SharedKvRow { head_dim: 75, qk_rope_head_dim: 6 };
    let mut values = vec![0.0; 75];
    // Exact in their group's scale: 448 in 2^0, 449 and above in 2^1; below 1e-4 the scale is that of 1e-4, 2^-22.
    (values[0], values[63]) = (448.0, 1.0 / 512.0);
    (values[64], values[68]) = (3.0 * 2f32.powi(-24), -(2f32.powi(-22)));
    (values[69], values[74]) = (0.15625, -1000.0);
    let mut bytes = vec![0xFF; row.bytes()];
    row.encode(&values, &mut bytes);
    assert_eq!(bytes[69..72], [127, 105, 0]);
    assert_eq!(bytes[84..], [0; 4]);
    let mut back = vec![f32::NAN; 75];
    row.decode(&bytes, &mut back);
    assert_eq!(back, values);
    values[1] = 449.0;
    row.encode(&values, &mut bytes);
    assert_eq!(bytes[69..71], [128, 105]);
}
