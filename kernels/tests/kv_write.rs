//! `mla_kv_write`, `gqa_kv_write` and `index_key_write`. Catches: the norm taken over the rope columns too, values or the
//! wrong end of an index key rotated, a bias left out, the wrong slot, a packed index key without its Hadamard rotation or its
//! scale.

use half::bf16;
use kernels::cpu::{self, AlignedBytes, CacheMut, Level};
use kernels::{
    DType, Device, Fp8Row, IndexKeyRow, KernelError, Precision, RopeLayout, RopeTable, Tensor, ops, reference,
};
use testkit::soft_gpu;

use crate::common::{close, close_by, ids, tensor, values};

const SLOTS: [u32; 4] = [9, 0, 3, 7];

fn table(half: usize) -> RopeTable {
    let freq: Vec<f32> = (0..half).map(|i| 1.0 / (1 + i) as f32).collect();
    RopeTable::new(&ids(&[4], &[3, 4, 5, 100]), &freq, 1.0).unwrap()
}

/// Rows `SLOTS` of a cache that was NaN before hold `want`; all others are still NaN.
#[track_caller]
fn check_rows(what: &str, cache: &[f32], want: &[f32], width: usize, tolerance: f32) {
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
            check_rows("f32", &cache, &want, width, 1e-5);
            let mut cache = vec![bf16::NAN; 10 * width];
            let to = &mut CacheMut::Bf16(&mut cache);
            cpu::mla_kv_write(level, to, &kv_a, (&weight, 1e-6), (&cos, &sin), &SLOTS);
            let cache: Vec<f32> = cache.iter().map(|v| v.to_f32()).collect();
            // Half a unit in the last of eight bits, for values below 4.
            check_rows("bf16", &cache, &want, width, 4.0 / 256.0);
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
                check_rows("f32", &cache, &want, 2 * width, 1e-6);
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

/// Eight values of a packed group span at most its largest one: a step of e4m3 there is 1/16 of the value or
/// 2^-9 * 448 of the scale.
fn fp8_close(what: &str, got: &[f32], want: &[f32], latent: usize) {
    let most = |i: usize| {
        let group = i / 128 * 128..latent.min((i / 128 + 1) * 128);
        want[group].iter().fold(0.0f32, |most, v| most.max(v.abs()))
    };
    // Half a step each, and one ulp of another order of sums in the norm that may tip the rounding.
    let tolerance = |i: usize| match i < latent {
        true => (want[i].abs() / 16.0 + 1e-6).max(most(i) / 448.0 / 512.0),
        false => want[i].abs() / 256.0,
    };
    close_by(what, got, want, tolerance);
}

fn on(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(device, shape, values).unwrap()
}

/// The table of [`table`] on a device.
fn table_on(device: &Device, half: usize) -> RopeTable {
    let table = table(half);
    RopeTable { cos: table.cos.to_device(device).unwrap(), sin: table.sin.to_device(device).unwrap() }
}

/// What `mla_kv_write` should leave in the rows of `SLOTS`.
fn mla_rows(kv_a: &[f32], weight: &[f32], half: usize) -> Vec<f32> {
    let (latent, table) = (weight.len(), table(half));
    let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
    let mut rows = kv_a.to_vec();
    for (t, row) in rows.chunks_exact_mut(latent + 2 * half).enumerate() {
        let normed = reference::rms_norm(&row[..latent], weight, latent, 1e-6);
        row[..latent].copy_from_slice(&normed);
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        reference::rope(&mut row[latent..], angles.0, angles.1, RopeLayout::Interleaved);
    }
    rows
}

#[test]
fn mla_rows_on_every_device_and_in_every_format() {
    let gpu = soft_gpu();
    let check = |device: &Device| {
        for (latent, half) in [(1, 1), (35, 3), (130, 8), (512, 32)] {
            let (width, row) =
                (latent + 2 * half, Fp8Row { kv_lora_rank: latent, qk_rope_head_dim: 2 * half });
            let (kv_a, weight) = (values(1, 4 * width), values(2, latent));
            let want = mla_rows(&kv_a, &weight, half);
            for dtype in [DType::F32, DType::BF16, DType::U8] {
                let columns = if dtype == DType::U8 { row.bytes() } else { width };
                let mut cache = Tensor::filled(device, dtype, &[2, 5, columns], 0xFF).unwrap();
                let (kv_a, weight) = (on(device, &[4, width], &kv_a), on(device, &[latent], &weight));
                let slots = Tensor::from_u32(device, &[4], &SLOTS).unwrap();
                ops::mla_kv_write(&mut cache, &kv_a, &weight, 1e-6, &table_on(device, half), &slots).unwrap();
                let what = format!("{device} {dtype} {latent}+{}", 2 * half);
                match dtype {
                    DType::F32 => check_rows(&what, &cache.to_vec_f32(), &want, width, 1e-5),
                    DType::BF16 => check_rows(&what, &cache.to_vec_f32(), &want, width, 4.0 / 256.0),
                    _ => {
                        let bytes = cache.host_bytes().unwrap();
                        for (slot, bytes) in bytes.chunks_exact(row.bytes()).enumerate() {
                            let Some(t) = SLOTS.iter().position(|&s| s as usize == slot) else {
                                assert!(bytes.iter().all(|b| *b == 0xFF), "{what}: row {slot} was written");
                                continue;
                            };
                            let mut got = vec![f32::NAN; width];
                            row.decode(bytes, &mut got);
                            fp8_close(&what, &got, &want[t * width..][..width], latent);
                        }
                    }
                }
            }
        }
    };
    check(&Device::Cpu);
    gpu.under_all_schedules(Precision::Bf16, check);
}

#[test]
fn gqa_rows_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::F32, |device| {
        for (heads, half) in [(1, 1), (3, 12), (8, 64)] {
            let (dim, table) = (2 * half, table(half));
            let shape = [4, heads, dim];
            let (k, v) = (values(1, shape.iter().product()), values(2, shape.iter().product()));
            for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
                let mut here =
                    Tensor::filled(&Device::Cpu, DType::F32, &[2, 5, 2 * heads * dim], 0xFF).unwrap();
                let (kt, vt) = (tensor(&shape, &k), tensor(&shape, &v));
                ops::gqa_kv_write(&mut here, &kt, &vt, &table, layout, &ids(&[4], &SLOTS)).unwrap();
                for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::BF16, 2.0 / 256.0)] {
                    let mut cache = Tensor::filled(device, dtype, here.shape(), 0xFF).unwrap();
                    let (k, v) = (on(device, &shape, &k), on(device, &shape, &v));
                    let slots = Tensor::from_u32(device, &[4], &SLOTS).unwrap();
                    ops::gqa_kv_write(&mut cache, &k, &v, &table_on(device, half), layout, &slots).unwrap();
                    let row = 2 * heads * dim;
                    let here = here.to_vec_f32();
                    let want: Vec<f32> =
                        SLOTS.iter().flat_map(|&s| here[s as usize * row..][..row].to_vec()).collect();
                    check_rows(
                        &format!("{dtype} {shape:?} {layout:?}"),
                        &cache.to_vec_f32(),
                        &want,
                        row,
                        tolerance,
                    );
                }
            }
        }
    });
}

#[test]
fn index_keys_on_every_device() {
    let gpu = soft_gpu();
    let check = |device: &Device| {
        for (dim, half) in [(2, 1), (35, 3), (64, 32), (128, 32)] {
            let table = table(half);
            let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
            let (k, weight, bias) = (values(1, 4 * dim), values(2, dim), values(3, dim));
            let mut want = reference::layer_norm(&k, &weight, &bias, 1e-6);
            for (t, row) in want.chunks_exact_mut(dim).enumerate() {
                let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
                reference::rope(&mut row[..2 * half], angles.0, angles.1, RopeLayout::HalfSplit);
            }
            // Half a unit in the last of bf16's eight bits, for values below 4; f32: sums in another order.
            for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::BF16, 4.0 / 256.0)] {
                let mut cache = Tensor::filled(device, dtype, &[2, 5, dim], 0xFF).unwrap();
                let k = on(device, &[4, dim], &k);
                let (weight, bias) = (on(device, &[dim], &weight), on(device, &[dim], &bias));
                let slots = Tensor::from_u32(device, &[4], &SLOTS).unwrap();
                let table = table_on(device, half);
                ops::index_key_write(&mut cache, &k, (&weight, &bias, 1e-6), &table, &slots).unwrap();
                check_rows(&format!("{device} {dtype} {dim}"), &cache.to_vec_f32(), &want, dim, tolerance);
            }
        }
    };
    check(&Device::Cpu);
    gpu.under_all_schedules(Precision::Bf16, check);
}

#[test]
fn packed_index_keys_on_every_device() {
    let gpu = soft_gpu();
    let check = |device: &Device| {
        for (dim, half) in [(2, 1), (16, 3), (64, 32), (128, 32)] {
            let (table, format) = (table(half), IndexKeyRow { index_head_dim: dim });
            let (cos, sin) = (table.cos.to_vec_f32(), table.sin.to_vec_f32());
            let (k, weight, bias) = (values(1, 4 * dim), values(2, dim), values(3, dim));
            let mut want = reference::layer_norm(&k, &weight, &bias, 1e-6);
            for (t, row) in want.chunks_exact_mut(dim).enumerate() {
                let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
                reference::rope(&mut row[..2 * half], angles.0, angles.1, RopeLayout::HalfSplit);
                let rotated = reference::hadamard(row);
                row.copy_from_slice(&rotated);
            }
            let mut cache = Tensor::filled(device, DType::U8, &[2, 5, format.bytes()], 0xFF).unwrap();
            let k = on(device, &[4, dim], &k);
            let (weight, bias) = (on(device, &[dim], &weight), on(device, &[dim], &bias));
            let slots = Tensor::from_u32(device, &[4], &SLOTS).unwrap();
            let table = table_on(device, half);
            ops::index_key_write(&mut cache, &k, (&weight, &bias, 1e-6), &table, &slots).unwrap();
            let bytes = cache.host_bytes().unwrap();
            for (slot, bytes) in bytes.chunks_exact(format.bytes()).enumerate() {
                let Some(t) = SLOTS.iter().position(|&s| s as usize == slot) else {
                    assert!(bytes.iter().all(|b| *b == 0xFF), "{device} {dim}: row {slot} was written");
                    continue;
                };
                let want = &want[t * dim..][..dim];
                let scale = f32::from_le_bytes(bytes[format.scale_at()..].try_into().unwrap());
                assert_eq!(scale, reference::fp8_power_of_two(want).1, "{device} {dim}: scale of row {slot}");
                let mut got = vec![f32::NAN; dim];
                format.decode(bytes, &mut got);
                // Half a step of e4m3: 1/16 of the value, or 2^-10 of the scale; sums in another order.
                let tolerance = |i: usize| (want[i].abs() / 16.0).max(scale / 1024.0) + 2e-5;
                close_by(&format!("{device} packed {dim}"), &got, want, tolerance);
            }
        }
    };
    check(&Device::Cpu);
    gpu.under_all_schedules(Precision::Bf16, check);
}

#[test]
fn index_keys_that_do_not_fit_are_refused() {
    let (k, weight) = (tensor(&[4, 12], &[1.0; 48]), tensor(&[12], &[1.0; 12]));
    let mut cache = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 5, 12]).unwrap();
    let slots = ids(&[4], &SLOTS);
    let mut write = |weight: &Tensor, bias: &Tensor, half: usize| {
        ops::index_key_write(&mut cache, &k, (weight, bias, 1e-6), &table(half), &slots)
    };
    assert!(write(&weight, &weight, 6).is_ok());
    let short = tensor(&[11], &[1.0; 11]);
    assert!(matches!(write(&short, &weight, 6), Err(KernelError::Shape { arg: "weight", .. })));
    assert!(matches!(write(&weight, &short, 6), Err(KernelError::Shape { arg: "bias", .. })));
    assert!(matches!(write(&weight, &weight, 7), Err(KernelError::Shape { arg: "table", .. })));
    let mut narrow = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 5, 11]).unwrap();
    let refused = ops::index_key_write(&mut narrow, &k, (&weight, &weight, 1e-6), &table(6), &slots);
    assert!(matches!(refused, Err(KernelError::Shape { arg: "cache", .. })), "{refused:?}");
    let mut packed = Tensor::zeros(&Device::Cpu, DType::U8, &[2, 5, 16]).unwrap();
    let refused = ops::index_key_write(&mut packed, &k, (&weight, &weight, 1e-6), &table(6), &slots);
    assert!(refused.unwrap_err().to_string().contains("a power of two"), "12 channels");
    let (gpu, wide) = (soft_gpu(), [1.0; 2048]);
    let device = gpu.device(Precision::F32);
    let (k, weight) = (on(&device, &[1, 2048], &wide), on(&device, &[2048], &wide));
    let mut packed = Tensor::zeros(&device, DType::U8, &[2, 5, 2052]).unwrap();
    let slot = Tensor::from_u32(&device, &[1], &[0]).unwrap();
    let table = RopeTable::new(&slot, &[1.0], 1.0).unwrap();
    let refused = ops::index_key_write(&mut packed, &k, (&weight, &weight, 1e-6), &table, &slot);
    assert!(refused.unwrap_err().to_string().contains("at most 1024 channels"), "2048 channels");
}

#[test]
fn a_slot_that_only_the_gpu_knows_is_checked_there() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let bytes: Vec<u8> = [9, 10, 3, u32::MAX].into_iter().flat_map(u32::to_le_bytes).collect();
    let slots = Tensor::from_bytes(&device, DType::U32, &[4], AlignedBytes::copy_of(&bytes)).unwrap();
    let mut cache = Tensor::filled(&device, DType::F32, &[2, 5, 12], 0xFF).unwrap();
    let (kv_a, weight) = (on(&device, &[4, 12], &[1.0; 48]), on(&device, &[8], &[1.0; 8]));
    ops::mla_kv_write(&mut cache, &kv_a, &weight, 1e-6, &table_on(&device, 2), &slots).unwrap();
    let fault = device.synchronize().unwrap_err();
    assert!(matches!(fault, KernelError::Value { arg: "slot_mapping", .. }), "{fault}");
    let rows = cache.to_vec_f32();
    let written: Vec<usize> = (0..10).filter(|row| !rows[row * 12].is_nan()).collect();
    assert_eq!(written, [3, 9], "the sound slots are written, nothing else");
    let here = tensor(&[4, 12], &[1.0; 48]);
    let refused = ops::mla_kv_write(&mut cache, &here, &weight, 1e-6, &table_on(&device, 2), &slots);
    assert!(matches!(refused, Err(KernelError::Placement { arg: "kv_a", .. })), "{refused:?}");
}
