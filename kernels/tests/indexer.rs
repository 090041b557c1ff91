//! `index_topk`. Catches: a key too many or too few, ties the wrong way, a wrong head, weight or block, keys of another
//! sequence, rows that nobody wrote, a choice that depends on the rest of the batch.
//!
//! Small whole numbers have no rounding: sums in any order are equal, in bf16 too, so every device and instruction level
//! must make exactly the reference's choice, and there are ties by the dozen.

use kernels::cpu::{self, AlignedBytes, CacheRows, IndexTopk, Level};
use kernels::ops::{self, PagedBatch};
use kernels::{DType, Device, Fp4KeyRow, IndexKeyRow, KernelError, PackedRow, Precision, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{ids, packed, tensor, values};
use crate::paged::{Paged, STEPS};

/// A power of two, so that it rounds nothing either.
const SCALE: f32 = 0.25;
/// Heads and channels; the last are those of the release.
const SIZES: [[usize; 2]; 5] = [[1, 1], [3, 10], [8, 32], [65, 70], [64, 128]];

/// Whole numbers from `-most` to `most`.
fn whole(seed: u64, count: usize, most: f32) -> Vec<f32> {
    values(seed, count).iter().map(|v| (v * (most + 0.49)).round()).collect()
}

/// The packed keys of `dim` channels.
fn forms(dim: usize) -> [PackedRow; 2] {
    [
        PackedRow::IndexKey(IndexKeyRow { index_head_dim: dim }),
        PackedRow::Fp4Key(Fp4KeyRow { index_head_dim: dim }),
    ]
}

/// A step over index keys, and what it asks of them.
struct Case {
    paged: Paged,
    q: Vec<f32>,
    weights: Vec<f32>,
    /// The keys as numbers.
    rows: Vec<f32>,
    /// Packed keys, and what they are.
    bytes: Vec<u8>,
    format: Option<PackedRow>,
    heads: usize,
    dim: usize,
}

impl Case {
    /// All whole numbers, or any.
    fn new(
        is_whole: bool,
        dtype: DType,
        [heads, dim]: [usize; 2],
        block_size: usize,
        step: &[(usize, usize)],
    ) -> Self {
        let mut paged = Paged::new(dtype, block_size, dim, step);
        let tokens = paged.tokens();
        if !is_whole {
            let (q, weights) = (values(1, tokens * heads * dim), values(2, tokens * heads));
            let rows = paged.rows();
            return Self { paged, q, weights, rows, bytes: Vec::new(), format: None, heads, dim };
        }
        // What nobody owns stays NaN.
        let rows: Vec<f32> = paged.cache.to_vec_f32().iter().map(|v| (v * 2.49).round()).collect();
        paged.cache = packed(dtype, paged.cache.shape(), &rows);
        let (q, weights) = (whole(1, tokens * heads * dim, 2.0), whole(2, tokens * heads, 3.0));
        Self { paged, q, weights, rows, bytes: Vec::new(), format: None, heads, dim }
    }

    /// Packed keys, whole numbers times a power of two of each row's and every 32 channels' own; rows that nobody owns are NaN in every channel and
    /// in their scale.
    fn packed(format: PackedRow, heads: usize, block_size: usize, step: &[(usize, usize)]) -> Self {
        let dim = format.width();
        let mut case = Self::new(true, DType::F32, [heads, dim], block_size, step);
        case.format = Some(format);
        let mut bytes = vec![0xFF; case.rows.len() / dim * format.bytes()];
        let rows = case.rows.chunks_exact_mut(dim).zip(bytes.chunks_exact_mut(format.bytes())).enumerate();
        for (i, (row, to)) in rows.filter(|(_, (row, _))| !row[0].is_nan()) {
            let scales = |c: usize| [1.0, 0.25, 4.0, 0.5, 2.0][i % 5] * [1.0, 0.5, 2.0][c / 32 % 3];
            row.iter_mut().enumerate().for_each(|(c, v)| *v *= scales(c));
            format.encode(row, to);
            let mut back = vec![f32::NAN; dim];
            format.decode(to, 0, &mut back);
            assert_eq!(back, row, "whole numbers lose nothing");
        }
        let shape = [case.paged.cache.dim(0), block_size, format.bytes()];
        let aligned = AlignedBytes::copy_of(&bytes);
        case.paged.cache = Tensor::from_bytes(&Device::Cpu, DType::U8, &shape, aligned).unwrap();
        case.bytes = bytes;
        case
    }

    /// The keys as the CPU takes them; `store` keeps copies alive.
    fn keys<'a>(&'a self, store: &'a mut (Vec<f32>, Vec<half::bf16>)) -> CacheRows<'a> {
        match self.format {
            None => self.paged.typed(store),
            Some(format) => CacheRows::Packed(&self.bytes, format),
        }
    }

    /// What the CPU chooses at `level`.
    fn at(&self, level: Level, topk: usize) -> Vec<u32> {
        let mut store = Default::default();
        let args = IndexTopk {
            q: &self.q,
            weights: &self.weights,
            keys: self.keys(&mut store),
            heads: self.heads,
            dim: self.dim,
            rows_per_block: self.paged.batch.block_size,
            tokens_per_key: 1,
            sequences: self.paged.walk(),
            topk,
            scale: SCALE,
        };
        let mut lists = vec![7; self.paged.tokens() * topk];
        cpu::index_topk(level, &args, &mut lists);
        lists
    }

    fn scores(&self) -> Vec<Vec<f32>> {
        let sizes = [self.heads, self.dim];
        reference::index_scores(&self.q, &self.weights, &self.rows, &self.paged.visible, sizes, SCALE)
    }

    fn want(&self, topk: usize) -> Vec<u32> {
        self.scores().iter().flat_map(|scores| reference::index_topk(scores, topk)).collect()
    }

    fn on(&self, device: &Device, topk: usize) -> Vec<u32> {
        let (keys, batch) = self.paged.on(device);
        let tokens = self.paged.tokens();
        let q = Tensor::from_f32(device, &[tokens, self.heads, self.dim], &self.q).unwrap();
        let weights = Tensor::from_f32(device, &[tokens, self.heads], &self.weights).unwrap();
        let lists = ops::index_topk(&q, &weights, &keys, &batch, topk, SCALE).unwrap();
        assert_eq!(lists.shape(), [tokens, topk]);
        lists.to_vec_u32().unwrap()
    }
}

#[test]
fn every_level_chooses_as_the_reference() {
    for dtype in [DType::F32, DType::BF16] {
        for (i, step) in STEPS.into_iter().enumerate() {
            for sizes in [SIZES[i % 2], SIZES[2 + i % 2]] {
                let case = Case::new(true, dtype, sizes, [16, 5][i % 2], step);
                for topk in [1, 5, 16, 100] {
                    let want = case.want(topk);
                    for level in Level::available() {
                        let got = case.at(level, topk);
                        assert_eq!(got, want, "{dtype} {sizes:?} {step:?} {level:?} top {topk}");
                    }
                    assert_eq!(case.on(&Device::Cpu, topk), want, "the op: {dtype} {sizes:?} {step:?}");
                }
            }
        }
    }
}

#[test]
fn a_gpu_chooses_as_the_reference() {
    let gpu = soft_gpu();
    let steps = [&[(1, 1)][..], &[(7, 7), (0, 5), (1, 33), (5, 16)], &[(3, 300), (1, 513)], &[(1, 1100)]];
    for precision in [Precision::F32, Precision::Bf16] {
        let device = gpu.device(precision);
        for dtype in [DType::F32, DType::BF16] {
            for (i, step) in steps.into_iter().enumerate() {
                for sizes in [SIZES[i % 3], SIZES[3 + i % 2]] {
                    let case = Case::new(true, dtype, sizes, [16, 5][i % 2], step);
                    for topk in [3, 64] {
                        let what = format!("{precision:?} {dtype} {sizes:?} {step:?} top {topk}");
                        assert_eq!(case.on(&device, topk), case.want(topk), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn packed_keys_are_chosen_as_the_reference_does() {
    let gpu = soft_gpu();
    let devices = [Device::Cpu, gpu.device(Precision::F32), gpu.device(Precision::Bf16)];
    for (i, step) in [&[(7, 7), (0, 5), (1, 33), (5, 16)][..], &[(3, 300), (1, 513)]].into_iter().enumerate()
    {
        let sizes = [[3, [2, 4][i]], [9, [16, 8][i]], [[65, 64][i], 128]];
        for (heads, format) in sizes.into_iter().flat_map(|[heads, dim]| forms(dim).map(|form| (heads, form)))
        {
            let case = Case::packed(format, heads, [16, 5][i], step);
            for topk in [3, 64] {
                let (want, what) = (case.want(topk), format!("{heads} of {format:?} {step:?} top {topk}"));
                for level in Level::available() {
                    assert_eq!(case.at(level, topk), want, "{what} {level:?}");
                }
                for device in &devices {
                    assert_eq!(case.on(device, topk), want, "{what} on {device}");
                }
            }
        }
    }
}

#[test]
fn every_schedule_makes_the_same_choice() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        for format in forms(64) {
            let case = Case::packed(format, 9, 16, &[(2, 90), (1, 300)]);
            let want = case.want(20);
            gpu.under_all_schedules(precision, |device| assert_eq!(case.on(device, 20), want));
        }
        let case = Case::new(true, DType::BF16, [9, 72], 16, &[(2, 90), (1, 300)]);
        let want = case.want(20);
        gpu.under_all_schedules(precision, |device| assert_eq!(case.on(device, 20), want));
    }
}

/// With rounding, the chosen scores are the largest but for those within it.
#[test]
fn real_numbers_are_chosen_within_rounding() {
    let gpu = soft_gpu();
    let case = Case::new(false, DType::F32, [64, 128], 16, &[(2, 70), (1, 300)]);
    let scores = case.scores();
    // Sums of 64 heads of 128 products below 1; bf16 rounds both operands of a product.
    for (device, tolerance) in
        [(Device::Cpu, 1e-4), (gpu.device(Precision::F32), 1e-4), (gpu.device(Precision::Bf16), 0.1)]
    {
        for (scores, list) in scores.iter().zip(case.on(&device, 32).chunks(32)) {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
            let (chosen, rest): (Vec<u32>, Vec<u32>) =
                (0..scores.len() as u32).partition(|key| list.contains(key));
            let least = chosen.iter().map(|&key| scores[key as usize]).fold(f32::INFINITY, f32::min);
            let most = rest.iter().map(|&key| scores[key as usize]).fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(chosen.len(), 32);
            assert!(least >= most - tolerance, "{device}: {least} chosen, {most} not");
        }
    }
}

#[test]
fn a_choice_does_not_depend_on_the_rest_of_the_batch() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32), gpu.device(Precision::Bf16)] {
        let (alone, together) = ([(2, 90)], [(2, 90), (1, 400), (9, 33)]);
        let one = Case::new(false, DType::BF16, [8, 32], 16, &alone).on(&device, 12);
        let all = Case::new(false, DType::BF16, [8, 32], 16, &together).on(&device, 12);
        assert_eq!(one, all[..one.len()], "{device}");
    }
}

/// More queries than scores are kept at a time.
#[test]
fn a_long_step_is_taken_in_turns() {
    let case = Case::new(true, DType::F32, [1, 2], 64, &[(90, 50_000)]);
    assert_eq!(case.on(&Device::Cpu, 9), case.want(9));
}

/// Keys that each stand for four tokens: seen once the last of the four is.
#[test]
fn a_key_may_stand_for_several_tokens() {
    const RATIO: usize = 4;
    let gpu = soft_gpu();
    let (heads, dim, block_size, topk) = (3, 12, 16, 5);
    let sizes = [(9, 61), (1, 130), (2, 3)];
    let tokens = Case::new(true, DType::F32, [heads, dim], block_size, &sizes);
    let keys_per_block = block_size / RATIO;
    let rows = whole(5, tokens.paged.cache.dim(0) * keys_per_block * dim, 2.0);
    let keys = tensor(&[tokens.paged.cache.dim(0), keys_per_block, dim], &rows);
    let mut visible = Vec::new();
    for (new, context, table) in &tokens.paged.sequences {
        for seen in context - new + 1..=*context {
            let row = |key: usize| {
                table[key / keys_per_block] * keys_per_block as u32 + (key % keys_per_block) as u32
            };
            visible.push((0..seen / RATIO).map(row).collect::<Vec<u32>>());
        }
    }
    let scores = reference::index_scores(&tokens.q, &tokens.weights, &rows, &visible, [heads, dim], SCALE);
    let want: Vec<u32> = scores.iter().flat_map(|scores| reference::index_topk(scores, topk)).collect();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let (_, batch) = tokens.paged.on(&device);
        let q = Tensor::from_f32(&device, &[12, heads, dim], &tokens.q).unwrap();
        let weights = Tensor::from_f32(&device, &[12, heads], &tokens.weights).unwrap();
        let keys = keys.to_device(&device).unwrap();
        let lists = ops::index_topk(&q, &weights, &keys, &batch, topk, SCALE).unwrap();
        assert_eq!(lists.to_vec_u32().unwrap(), want, "{device}");
    }
}

#[test]
fn the_lists_are_what_attention_takes() {
    let case = Case::new(true, DType::F32, [2, 8], 4, &[(3, 11), (1, 2)]);
    let lists = ids(&[4, 5], &case.on(&Device::Cpu, 5));
    let latent = Paged::new(DType::F32, 4, 24, &[(3, 11), (1, 2)]);
    let q = values(3, 4 * 2 * 24);
    let narrowed: Vec<Vec<u32>> = latent
        .visible
        .iter()
        .zip(lists.to_vec_u32().unwrap().chunks(5))
        .map(|(rows, list)| list.iter().filter(|&&i| i != u32::MAX).map(|&i| rows[i as usize]).collect())
        .collect();
    let want = reference::mqa(&q, &latent.rows(), &narrowed, [2, 24, 16], 0.2);
    let q = tensor(&[4, 2, 24], &q);
    let got = ops::paged_mla(&q, &latent.cache, &latent.batch, Some(&lists), 0.2, 16).unwrap();
    crate::common::close("sparse", &got.to_vec_f32(), &want, 1e-5);
}

#[test]
fn nothing_to_do_is_fine() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::Bf16)] {
        for step in [&[][..], &[(0, 5)]] {
            assert!(Case::new(true, DType::F32, [2, 8], 4, step).on(&device, 3).is_empty());
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let case = Case::new(true, DType::F32, [2, 8], 4, &[(1, 6)]);
    let (keys, batch) = (&case.paged.cache, &case.paged.batch);
    let (q, weights) = (tensor(&[1, 2, 8], &case.q), tensor(&[1, 2], &case.weights));
    let refused = |q: &Tensor, weights: &Tensor, keys: &Tensor, batch: &PagedBatch, topk| {
        ops::index_topk(q, weights, keys, batch, topk, SCALE).unwrap_err().to_string()
    };
    assert!(
        refused(&tensor(&[2, 1, 8], &case.q), &weights, keys, batch, 1).contains("q has shape [2, 1, 8]")
    );
    assert!(
        refused(&q, &tensor(&[2, 1], &case.weights), keys, batch, 1).contains("weights has shape [2, 1]")
    );
    assert!(refused(&q, &weights, keys, batch, 0).contains("topk holds 0"));
    let narrow = tensor(&[1, 4, 7], &[0.0; 28]);
    assert!(refused(&q, &weights, &narrow, batch, 1).contains("keys has shape [1, 4, 7]"));
    let uneven = tensor(&[9, 3, 8], &[0.0; 216]);
    assert!(refused(&q, &weights, &uneven, batch, 1).contains("a divisor of 4"));
    let unpacked = Tensor::zeros(&Device::Cpu, DType::U8, &[9, 4, 10]).unwrap();
    assert!(refused(&q, &weights, &unpacked, batch, 1).contains("a divisor of 4, 12]"));
    let half = packed(DType::F16, keys.shape(), &vec![0.0; keys.len()]);
    assert!(refused(&q, &weights, &half, batch, 1).contains("is F16, expected F32 or BF16"));
}

#[test]
fn a_gpu_reports_blocks_out_of_range() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let case = Case::new(true, DType::F32, [2, 8], 4, &[(1, 6)]);
    let (keys, mut batch) = case.paged.on(&device);
    let table: Vec<u8> = [1u32, 99, u32::MAX].into_iter().flat_map(u32::to_le_bytes).collect();
    let table = AlignedBytes::copy_of(&table);
    batch.block_tables = Tensor::from_bytes(&device, DType::U32, &[1, 3], table).unwrap();
    let q = Tensor::from_f32(&device, &[1, 2, 8], &case.q).unwrap();
    let weights = Tensor::from_f32(&device, &[1, 2], &case.weights).unwrap();
    ops::index_topk(&q, &weights, &keys, &batch, 3, SCALE).unwrap();
    let fault = device.synchronize().unwrap_err();
    assert!(matches!(fault, KernelError::Value { arg: "block_tables", .. }), "{fault}");
    let here = tensor(&[1, 2, 8], &case.q);
    let refused = ops::index_topk(&here, &weights, &keys, &batch, 3, SCALE);
    assert!(matches!(refused, Err(KernelError::Placement { arg: "q", .. })), "{refused:?}");
    let wide = Tensor::zeros(&device, DType::F32, &[1, 1, 1024]).unwrap();
    let wide_keys = Tensor::zeros(&device, DType::F32, &[8, 4, 1024]).unwrap();
    let one = Tensor::from_f32(&device, &[1, 1], &[1.0]).unwrap();
    let (_, batch) = case.paged.on(&device);
    let refused = ops::index_topk(&wide, &one, &wide_keys, &batch, 3, SCALE);
    assert!(matches!(refused, Err(KernelError::Value { arg: "q", .. })), "{refused:?}");
}
