//! `copy_blocks`, `swap_out`, `swap_in`. Catches: source and target exchanged, the size of another dtype, a block too
//! many, copies that overtake the work before them.

use kernels::{DType, Device, HostBlocks, KernelError, Precision, Tensor, ops, reference};
use testkit::soft_gpu;

use crate::common::{packed, tensor, values};

/// Blocks, block size, width: units of 2, 4 and 16 bytes, and a block beyond one block of threads.
const SHAPES: [[usize; 3]; 4] = [[5, 3, 1], [6, 1, 5], [9, 16, 36], [4, 64, 576]];

fn cache(device: &Device, dtype: DType, shape: [usize; 3], seed: u64) -> Tensor {
    packed(dtype, &shape, &values(seed, shape.iter().product())).to_device(device).unwrap()
}

fn check_copies(device: &Device) {
    for dtype in [DType::F32, DType::BF16] {
        for shape in SHAPES {
            let size = shape[1] * shape[2];
            for pairs in [&[][..], &[(1, 3)], &[(3, 0), (3, 2)], &[(0, 3), (1, 2)]] {
                let mut cache = cache(device, dtype, shape, 8);
                let before = cache.to_vec_f32();
                ops::copy_blocks(&mut cache, pairs).unwrap();
                let want = reference::copy_blocks(&before, &before, pairs, size);
                assert_eq!(cache.to_vec_f32(), want, "{dtype} {shape:?} {pairs:?}");
            }
        }
    }
}

fn check_swaps(device: &Device) {
    for dtype in [DType::F32, DType::BF16] {
        for shape in SHAPES {
            let size = shape[1] * shape[2];
            let mut cache = cache(device, dtype, shape, 8);
            let before = cache.to_vec_f32();
            let mut host = HostBlocks::for_cache(&cache, 3).unwrap();
            assert_eq!((host.slots(), host.size_bytes()), (3, 3 * size * dtype.size()));
            // The same block twice, and a slot that nothing is written to.
            let out = [(3, 0), (1, 2), (3, 2)];
            assert!(matches!(ops::swap_out(&cache, &out, &mut host), Err(KernelError::Value { .. })));
            let out = [(3, 0), (1, 2)];
            ops::swap_out(&cache, &out, &mut host).unwrap();
            let slots = reference::copy_blocks(&before, &vec![0.0; 3 * size], &out, size);
            // The blocks go on to another use before they come back elsewhere.
            ops::copy_blocks(&mut cache, &[(0, 3), (2, 1)]).unwrap();
            let other = reference::copy_blocks(&before, &before, &[(0, 3), (2, 1)], size);
            let back = [(2, 0), (0, 1), (1, 2)];
            ops::swap_in(&mut cache, &back, &host).unwrap();
            drop(host);
            let want = reference::copy_blocks(&slots, &other, &back, size);
            assert_eq!(cache.to_vec_f32(), want, "{dtype} {shape:?}");
        }
    }
}

#[test]
fn blocks_are_copied_and_swapped() {
    check_copies(&Device::Cpu);
    check_swaps(&Device::Cpu);
}

#[test]
fn blocks_are_copied_and_swapped_on_a_gpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        check_copies(device);
        check_swaps(device);
    });
}

#[test]
fn refusals_write_nothing() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let mut cache = cache(&device, DType::F32, SHAPES[1], 1);
        let before = cache.to_vec_f32();
        let mut host = HostBlocks::for_cache(&cache, 2).unwrap();
        let refused = |result: kernels::Result<()>, expected: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(ops::copy_blocks(&mut cache, &[(0, 1), (6, 2)]), "holds 6, expected blocks below 6");
        refused(ops::copy_blocks(&mut cache, &[(0, 6)]), "holds 6, expected blocks below 6");
        refused(ops::copy_blocks(&mut cache, &[(0, 2), (1, 2)]), "holds 2 twice, expected each target once");
        refused(
            ops::copy_blocks(&mut cache, &[(0, 1), (1, 2)]),
            "holds 1, expected targets that are no pair's",
        );
        refused(ops::copy_blocks(&mut cache, &[(3, 3)]), "holds 3, expected targets that are no pair's");
        refused(
            ops::swap_out(&cache, &[(0, 2)], &mut host),
            "swap_out: pairs holds 2, expected slots below 2",
        );
        refused(ops::swap_in(&mut cache, &[(2, 0)], &host), "swap_in: pairs holds 2, expected slots below 2");
        refused(ops::swap_in(&mut cache, &[(0, 6)], &host), "expected blocks below 6");
        refused(ops::swap_in(&mut cache, &[(0, 1), (1, 1)], &host), "1 twice");
        let shared = cache.clone();
        assert!(matches!(ops::copy_blocks(&mut cache, &[(0, 1)]), Err(KernelError::Aliased { .. })));
        assert!(matches!(ops::swap_in(&mut cache, &[(0, 1)], &host), Err(KernelError::Aliased { .. })));
        assert_eq!(shared.to_vec_f32(), before);
    }
}

#[test]
fn host_blocks_belong_to_one_kind_of_cache() {
    let gpu = soft_gpu();
    let here = cache(&Device::Cpu, DType::F32, SHAPES[1], 1);
    let there = cache(&gpu.device(Precision::F32), DType::F32, SHAPES[1], 1);
    let mut host = HostBlocks::for_cache(&here, 2).unwrap();
    assert!(matches!(ops::swap_out(&there, &[], &mut host), Err(KernelError::Placement { .. })));
    let wide = cache(&Device::Cpu, DType::F32, SHAPES[2], 1);
    assert!(matches!(ops::swap_out(&wide, &[], &mut host), Err(KernelError::Shape { .. })));
    let half = cache(&Device::Cpu, DType::BF16, SHAPES[1], 1);
    assert!(matches!(ops::swap_out(&half, &[], &mut host), Err(KernelError::DType { .. })));
    assert!(matches!(HostBlocks::for_cache(&tensor(&[2], &[0.0; 2]), 1), Err(KernelError::Shape { .. })));
}
