//! `mla_kv_write` and `gqa_kv_write`. Catches: the norm taken over the rope columns too, values rotated, the wrong slot.

use half::bf16;
use kernels::cpu::{self, CacheMut, Level};
use kernels::{DType, Device, KernelError, RopeLayout, RopeTable, Tensor, ops, reference};

use crate::common::{close, ids, tensor, values};

const SLOTS: [u32; 4] = [9, 0, 3, 7];

fn table(half: usize) -> RopeTable {
    let freq: Vec<f32> = (0..half).map(|i| 1.0 / (1 + i) as f32).collect();
    RopeTable::new(&ids(&[4], &[3, 4, 5, 100]), &freq, 1.0).unwrap()
}

/// Rows `SLOTS` of a cache that was NaN before hold `want`; all others are still NaN.
#[track_caller]
fn check(what: &str, cache: &[f32], want: &[f32], width: usize, tolerance: f32) {
    for (slot, row) in cache.chunks_exact(width).enumerate() {
        match SLOTS.iter().position(|&s| s as usize == slot) {
            Some(t) => close(what, row, &want[t * width..][..width], tolerance),
            None => assert!(row.iter().all(|v| v.is_nan()), "{what}: row {slot} was written"),
        }
    }
}

#[test]
fn mla_rows_match_the_reference() {
    for (latent, half) in [(32, 8), (35, 3), (512, 32)] {
        let (width, table) = (latent + 2 * half, table(half));
        let (kv_a, weight) = (values(1, 4 * width), values(2, latent));
        let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
        let mut want = kv_a.clone();
        for (t, row) in want.chunks_exact_mut(width).enumerate() {
            let normed = reference::rms_norm(&row[..latent], &weight, latent, 1e-6);
            row[..latent].copy_from_slice(&normed);
            let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
            reference::rope(&mut row[latent..], angles.0, angles.1, RopeLayout::Interleaved);
        }
        for level in Level::available() {
            let mut cache = vec![f32::NAN; 10 * width];
            let to = &mut CacheMut::F32(&mut cache);
            cpu::mla_kv_write(level, to, &kv_a, (&weight, 1e-6), (&cos, &sin), &SLOTS);
            check("f32", &cache, &want, width, 1e-5);
            let mut cache = vec![bf16::NAN; 10 * width];
            let to = &mut CacheMut::Bf16(&mut cache);
            cpu::mla_kv_write(level, to, &kv_a, (&weight, 1e-6), (&cos, &sin), &SLOTS);
            let cache: Vec<f32> = cache.iter().map(|v| v.to_f32()).collect();
            // Half a unit in the last of eight bits, for values below 4.
            check("bf16", &cache, &want, width, 4.0 / 256.0);
        }
    }
}

#[test]
fn gqa_rows_match_the_reference() {
    for (heads, half) in [(1, 1), (3, 12), (2, 32)] {
        let (dim, table) = (2 * half, table(half));
        let width = heads * dim;
        let (k, v) = (values(1, 4 * width), values(2, 4 * width));
        let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
        for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
            let mut want = Vec::new();
            for t in 0..4 {
                let mut keys = k[t * width..][..width].to_vec();
                for head in keys.chunks_exact_mut(dim) {
                    reference::rope(head, &cos[t * half..][..half], &sin[t * half..][..half], layout);
                }
                want.extend_from_slice(&keys);
                want.extend_from_slice(&v[t * width..][..width]);
            }
            for level in Level::available() {
                let mut cache = vec![f32::NAN; 10 * 2 * width];
                let to = &mut CacheMut::F32(&mut cache);
                cpu::gqa_kv_write(level, to, (&k, &v, dim), (&cos, &sin), layout, &SLOTS);
                check("f32", &cache, &want, 2 * width, 1e-6);
            }
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    // Through the whole op with angles of zero: 1 + 2^-8 is a tie and goes to 1, the next value up does not; NaN stays.
    let ties: Vec<f32> = [0x3F80_8000, 0x3F80_8001, 0x3F81_8000, 0x7F80_0001, 0x7F7F_FFFF, 0xFF80_0000]
        .into_iter()
        .cycle()
        .take(32)
        .map(f32::from_bits)
        .collect();
    let table = RopeTable::new(&ids(&[1], &[0]), &[1.0; 16], 1.0).unwrap();
    let mut cache = Tensor::zeros(&Device::Cpu, DType::BF16, &[1, 1, 64]).unwrap();
    let (k, v) = (tensor(&[1, 1, 32], &[0.0; 32]), tensor(&[1, 1, 32], &ties));
    ops::gqa_kv_write(&mut cache, &k, &v, &table, RopeLayout::HalfSplit, &ids(&[1], &[0])).unwrap();
    for (got, value) in cache.to_vec_f32()[32..].iter().zip(&ties) {
        let want = bf16::from_f32(*value).to_f32();
        assert!(*got == want || (got.is_nan() && want.is_nan()), "{value}: {got} for {want}");
    }
}

#[test]
fn refusals_write_nothing() {
    let table = table(2);
    let kv_a = tensor(&[4, 12], &[1.0; 48]);
    let weight = tensor(&[8], &[1.0; 8]);
    let mut cache = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 5, 12]).unwrap();
    let write = |cache: &mut Tensor, slots: &[u32]| {
        ops::mla_kv_write(cache, &kv_a, &weight, 1e-6, &table, &ids(&[slots.len()], slots))
    };
    assert!(matches!(write(&mut cache, &[0, 1, 2, 10]), Err(KernelError::Value { arg: "slot_mapping", .. })));
    assert!(matches!(write(&mut cache, &[0, 1, 2, u32::MAX]), Err(KernelError::Value { .. })));
    assert!(matches!(write(&mut cache, &[0, 1, 2]), Err(KernelError::Shape { arg: "slot_mapping", .. })));
    assert!(cache.to_vec_f32().iter().all(|v| *v == 0.0));
    let held = cache.clone();
    assert!(matches!(write(&mut cache, &SLOTS), Err(KernelError::Aliased { arg: "cache", .. })));
    drop(held);
    assert!(write(&mut cache, &SLOTS).is_ok());
    let mut narrow = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 5, 11]).unwrap();
    assert!(matches!(write(&mut narrow, &SLOTS), Err(KernelError::Shape { arg: "cache", .. })));
    let mut half = Tensor::zeros(&Device::Cpu, DType::F16, &[2, 5, 12]).unwrap();
    assert!(matches!(write(&mut half, &SLOTS), Err(KernelError::DType { arg: "cache", .. })));
}
