//! `paged_mla` and `paged_gqa` on a GPU. Catches: a key too many or too few, a wrong block, head or scale, stray reads
//! of the cache, missing barriers and waits, splits that do not add up, a result that depends on the rest of the batch.

use half::bf16;
use kernels::cpu::AlignedBytes;
use kernels::ops::{self, PagedBatch};
use kernels::{DType, Device, Fp8Row, KernelError, Precision, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, values};
use crate::paged::Paged;

const SCALE: f32 = 0.2;

/// Sequences that start, go on, decode, add nothing, and end on a block's edge.
const STEPS: [&[(usize, usize)]; 4] =
    [&[(1, 1)], &[(2, 6), (1, 3)], &[(7, 7), (0, 5), (1, 33), (5, 16)], &[(3, 300), (1, 513), (9, 70)]];

/// Values that bf16 holds exactly where the device computes with bf16.
fn operands(precision: Precision, seed: u64, count: usize) -> Vec<f32> {
    let mut values = values(seed, count);
    if precision == Precision::Bf16 {
        values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
    }
    values
}

/// How far means of values below 1 may be off. In f32: sums in another order. In bf16: exponentials and results are
/// each rounded by at most 2^-9 of themselves, decoded or f32 cache values too.
fn tolerance(precision: Precision, cache: DType) -> f32 {
    match (precision, cache) {
        (Precision::F32, _) => 2e-5,
        (Precision::Bf16, DType::BF16) => 2.0 / 512.0,
        (Precision::Bf16, _) => 4.0 / 512.0,
    }
}

#[derive(Debug, Clone, Copy)]
struct Mla {
    heads: usize,
    row: Fp8Row,
    cache: DType,
    block_size: usize,
}

const fn mla(heads: usize, [latent, rope]: [usize; 2], cache: DType, block_size: usize) -> Mla {
    Mla { heads, row: Fp8Row { kv_lora_rank: latent, qk_rope_head_dim: rope }, cache, block_size }
}

impl Mla {
    fn paged(&self, sizes: &[(usize, usize)]) -> Paged {
        match self.cache {
            DType::U8 => Paged::fp8(self.row, self.block_size, sizes),
            dtype => Paged::new(dtype, self.block_size, self.row.width(), sizes),
        }
    }

    fn queries(&self, device: &Device, precision: Precision, tokens: usize) -> (Vec<f32>, Tensor) {
        let q = operands(precision, 99, tokens * self.heads * self.row.width());
        let tensor = activations(device, precision, &[tokens, self.heads, self.row.width()], &q);
        (q, tensor)
    }

    fn run(&self, device: &Device, q: &Tensor, paged: &Paged, indices: Option<&Tensor>) -> Vec<f32> {
        let (cache, batch) = paged.on(device);
        let out = ops::paged_mla(q, &cache, &batch, indices, SCALE, self.row.kv_lora_rank).unwrap();
        assert_eq!(out.shape(), [paged.tokens(), self.heads, self.row.kv_lora_rank]);
        assert_eq!(out.dtype(), device.activation_dtype());
        out.to_vec_f32()
    }

    fn check(&self, device: &Device, precision: Precision, sizes: &[(usize, usize)]) {
        let paged = self.paged(sizes);
        let (q, tensor) = self.queries(device, precision, paged.tokens());
        let dims = [self.heads, self.row.width(), self.row.kv_lora_rank];
        let want = reference::mqa(&q, &paged.rows(), &paged.visible, dims, SCALE);
        let got = self.run(device, &tensor, &paged, None);
        close(&format!("{precision:?} {self:?} {sizes:?}"), &got, &want, tolerance(precision, self.cache));
    }
}

/// `values` in the device's activation dtype.
fn activations(device: &Device, precision: Precision, shape: &[usize], values: &[f32]) -> Tensor {
    match precision {
        Precision::F32 => Tensor::from_f32(device, shape, values).unwrap(),
        Precision::Bf16 => crate::common::packed(DType::BF16, shape, values).to_device(device).unwrap(),
    }
}

fn check_gqa(device: &Device, precision: Precision, dims: [usize; 3], dtype: DType, step: &[(usize, usize)]) {
    let [heads, kv_heads, dim] = dims;
    let paged = Paged::new(dtype, [16, 5][heads % 2], 2 * kv_heads * dim, step);
    let q = operands(precision, 98, paged.tokens() * heads * dim);
    let want = reference::gqa(&q, &paged.rows(), &paged.visible, dims, SCALE);
    let (cache, batch) = paged.on(device);
    // Straight from a linear layer: F32 on every device.
    let q = Tensor::from_f32(device, &[paged.tokens(), heads, dim], &q).unwrap();
    let got = ops::paged_gqa(&q, &cache, &batch, SCALE, kv_heads).unwrap();
    assert_eq!(got.shape(), [paged.tokens(), heads * dim]);
    let what = format!("{precision:?} {dims:?} {dtype} {step:?}");
    close(&what, &got.to_vec_f32(), &want, tolerance(precision, dtype));
}

#[test]
fn small_heads_match_the_reference() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        let device = gpu.device(precision);
        for step in STEPS {
            for dtype in [DType::F32, DType::BF16, DType::U8] {
                mla(3, [24, 6], dtype, 4).check(&device, precision, step);
                mla(9, [40, 8], dtype, 1).check(&device, precision, step);
                mla(5, [131, 16], dtype, 16).check(&device, precision, step);
            }
            for dtype in [DType::F32, DType::BF16] {
                for dims in [[1, 1, 16], [6, 2, 24], [9, 3, 64], [2, 2, 7], [40, 1, 16], [3, 1, 200]] {
                    check_gqa(&device, precision, dims, dtype, step);
                }
            }
        }
    }
}

#[test]
fn real_heads_match_the_reference() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    for (heads, cache, block_size, step) in [
        (16, DType::BF16, 16, &[(1, 37), (1, 1)][..]),
        (16, DType::U8, 64, &[(1, 70)]),
        (64, DType::BF16, 64, &[(1, 65)]),
        (64, DType::U8, 1, &[(1, 40)]),
        (128, DType::BF16, 16, &[(2, 41)]),
        (128, DType::U8, 16, &[(1, 33)]),
    ] {
        mla(heads, [512, 64], cache, block_size).check(&device, Precision::Bf16, step);
    }
    check_gqa(&device, Precision::Bf16, [32, 8, 128], DType::BF16, &[(9, 41), (1, 70)]);
    let device = gpu.device(Precision::F32);
    for cache in [DType::F32, DType::BF16, DType::U8] {
        mla(16, [512, 64], cache, 16).check(&device, Precision::F32, &[(1, 37)]);
    }
    check_gqa(&device, Precision::F32, [32, 8, 128], DType::F32, &[(2, 41), (1, 3)]);
}

#[test]
fn every_schedule_gives_the_same_result() {
    let gpu = soft_gpu();
    // Both tiles; rows copied, packed and gathered; keys split and in one go.
    let step = [(1, 300), (6, 75)];
    gpu.under_all_schedules(Precision::Bf16, |device| {
        mla(8, [64, 16], DType::BF16, 16).check(device, Precision::Bf16, &step);
        mla(8, [64, 16], DType::BF16, 16).check(device, Precision::Bf16, &[(1, 80)]);
        mla(8, [64, 16], DType::U8, 16).check(device, Precision::Bf16, &step);
        mla(3, [35, 6], DType::BF16, 5).check(device, Precision::Bf16, &[(2, 70)]);
        check_gqa(device, Precision::Bf16, [4, 2, 64], DType::BF16, &step);
    });
    gpu.under_all_schedules(Precision::F32, |device| {
        mla(4, [32, 16], DType::F32, 16).check(device, Precision::F32, &step);
        check_gqa(device, Precision::F32, [4, 2, 32], DType::F32, &[(3, 70)]);
    });
}

#[test]
fn index_lists_narrow_what_a_query_sees() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        let device = gpu.device(precision);
        for (case, topk, step) in [
            (mla(3, [24, 6], DType::BF16, 4), 5, &[(2, 6), (1, 3)][..]),
            (mla(20, [64, 16], DType::U8, 16), 40, &[(6, 60), (1, 400)]),
            // More entries than one split has keys.
            (mla(8, [64, 16], DType::BF16, 16), 530, &[(1, 700), (2, 9)]),
        ] {
            let mut paged = case.paged(step);
            let mut lists = Vec::new();
            for (t, visible) in paged.visible.iter_mut().enumerate() {
                let seen = visible.len();
                let list = (0..topk).map(|k| match (t * 7 + k * 13) % 5 {
                    // Unused entries anywhere, and a token with nothing else.
                    0 => u32::MAX,
                    _ if t == 1 => u32::MAX,
                    _ => ((k * 31 + t) % seen) as u32,
                });
                let list: Vec<u32> = list.collect();
                let used = list.iter().filter(|&&i| i != u32::MAX);
                *visible = used.map(|&i| visible[i as usize]).collect();
                lists.extend(list);
            }
            let (q, tensor) = case.queries(&device, precision, paged.tokens());
            let dims = [case.heads, case.row.width(), case.row.kv_lora_rank];
            let want = reference::mqa(&q, &paged.rows(), &paged.visible, dims, SCALE);
            let shape = [paged.tokens(), topk];
            let got =
                case.run(&device, &tensor, &paged, Some(&Tensor::from_u32(&device, &shape, &lists).unwrap()));
            close(&format!("{case:?} {precision:?}"), &got, &want, tolerance(precision, case.cache));
            let q = Tensor::from_f32(&Device::Cpu, tensor.shape(), &q).unwrap();
            let cpu = case.run(&Device::Cpu, &q, &paged, Some(&ids(&shape, &lists)));
            close(&format!("{case:?} on the CPU"), &cpu, &want, 2e-5);
        }
    }
}

#[test]
fn a_query_does_not_depend_on_the_rest_of_the_batch() {
    let gpu = soft_gpu();
    for (precision, case, context, others) in [
        // Alone in the small tile, then beside a longer one and a prefill, in the large one.
        (Precision::Bf16, mla(8, [64, 16], DType::BF16, 16), 600, &[(1, 1500), (40, 90)][..]),
        (Precision::Bf16, mla(8, [64, 16], DType::U8, 16), 600, &[(1, 1500), (40, 90)]),
        // So many heads that they alone nearly fill a GPU: few splits, which are wider than the least.
        (Precision::F32, mla(576, [16, 8], DType::F32, 16), 1000, &[(1, 1500)]),
    ] {
        let device = gpu.device(precision);
        let row = case.heads * case.row.kv_lora_rank;
        let alone = case.paged(&[(1, context)]);
        let together = case.paged(&[&[(1, context)], others].concat());
        let (q, all) = case.queries(&device, precision, together.tokens());
        let shape = [1, case.heads, case.row.width()];
        let first = activations(&device, precision, &shape, &q[..case.heads * case.row.width()]);
        let one = case.run(&device, &first, &alone, None);
        let all = case.run(&device, &all, &together, None);
        assert_eq!(one, all[..row], "{case:?}");
    }
}

#[test]
fn chunks_and_single_tokens_are_prefill_in_one_go() {
    let gpu = soft_gpu();
    for (precision, cache) in [(Precision::F32, DType::F32), (Precision::Bf16, DType::BF16)] {
        let device = gpu.device(precision);
        let (case, context) = (mla(8, [64, 16], cache, 16), 300);
        let row = case.heads * case.row.width();
        let (q, tensor) = case.queries(&device, precision, context);
        let whole = case.run(&device, &tensor, &case.paged(&[(context, context)]), None);
        let tail = |new: usize| &whole[(context - new) * case.heads * case.row.kv_lora_rank..];
        for new in [1, 3, 50] {
            let shape = [new, case.heads, case.row.width()];
            let q = activations(&device, precision, &shape, &q[(context - new) * row..]);
            let rest = case.run(&device, &q, &case.paged(&[(new, context)]), None);
            if new > 4 {
                assert_eq!(rest, tail(new), "a chunk of {new} sums as the whole does");
            }
            close(&format!("{precision:?} last {new}"), &rest, tail(new), tolerance(precision, cache));
        }
    }
}

#[test]
fn device_lists_out_of_range_are_reported() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let case = mla(3, [24, 6], DType::F32, 4);
    let paged = case.paged(&[(2, 6), (1, 3)]);
    let (_, q) = case.queries(&device, Precision::F32, 3);
    // Lists that the host has no copy of, as a kernel would make them.
    let list = |shape: &[usize], values: &[u32]| {
        let bytes = AlignedBytes::copy_of(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        Tensor::from_bytes(&device, DType::U32, shape, bytes).unwrap()
    };
    let broken = |change: &dyn Fn(&mut PagedBatch), indices: Option<&Tensor>| {
        let (cache, mut batch) = paged.on(&device);
        change(&mut batch);
        let out = ops::paged_mla(&q, &cache, &batch, indices, SCALE, 24).unwrap();
        let fault = device.synchronize().unwrap_err();
        drop(out);
        assert!(matches!(fault, KernelError::Value { .. }), "{fault}");
        fault.to_string()
    };
    let table =
        |b: &mut PagedBatch| b.block_tables = list(&[2, 3], &[5, 99, u32::MAX, 1, u32::MAX, u32::MAX]);
    assert!(broken(&table, None).contains("block_tables holds 99"), "a block that is not there");
    let lens = |b: &mut PagedBatch| b.context_lens = list(&[2], &[6, 13]);
    assert!(broken(&lens, None).contains("context_lens holds 13"), "more keys than the table has");
    let lists = list(&[3, 2], &[0, 5, 0, 1, 2, u32::MAX]);
    assert!(broken(&|_| {}, Some(&lists)).contains("indices holds 5"), "token 0 sees 5 keys");
    assert!(device.synchronize().is_ok(), "a fault is reported once");
}

#[test]
fn nothing_to_do_is_fine() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let case = mla(3, [24, 6], DType::BF16, 4);
    for step in [&[][..], &[(0, 5)]] {
        let paged = case.paged(step);
        let (_, q) = case.queries(&device, Precision::Bf16, 0);
        assert!(case.run(&device, &q, &paged, None).is_empty());
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let case = mla(3, [24, 6], DType::F32, 4);
    let paged = case.paged(&[(1, 6)]);
    let (cache, batch) = paged.on(&device);
    let (_, q) = case.queries(&device, Precision::F32, 1);
    let here = case.queries(&Device::Cpu, Precision::F32, 1).1;
    let placement = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Placement { .. }));
    assert!(placement(ops::paged_mla(&here, &cache, &batch, None, SCALE, 24)));
    assert!(placement(ops::paged_mla(&q, &cache, &paged.batch, None, SCALE, 24)));
    assert!(placement(ops::paged_mla(&q, &cache, &batch, Some(&ids(&[1, 2], &[0, 1])), SCALE, 24)));
    let lists = Tensor::from_u32(&device, &[2, 1], &[0, 0]).unwrap();
    let refused = ops::paged_mla(&q, &cache, &batch, Some(&lists), SCALE, 24).unwrap_err();
    assert!(matches!(refused, KernelError::Shape { arg: "indices", .. }), "{refused}");
    let half = activations(&device, Precision::Bf16, q.shape(), &q.to_vec_f32());
    let refused = ops::paged_mla(&half, &cache, &batch, None, SCALE, 24).unwrap_err();
    assert!(matches!(refused, KernelError::DType { arg: "q", .. }), "{refused}");
    let wide = mla(1, [1024, 0], DType::F32, 1);
    let (cache, batch) = wide.paged(&[(1, 1)]).on(&device);
    let refused =
        ops::paged_mla(&wide.queries(&device, Precision::F32, 1).1, &cache, &batch, None, SCALE, 1024);
    assert!(matches!(refused, Err(KernelError::Value { arg: "q", .. })), "{refused:?}");
}
