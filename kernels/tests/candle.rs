//! A second, independent oracle: candle's matmul, norm, rotary embedding and softmax, where their conventions meet ours.

#![allow(clippy::unwrap_used, reason = "also in the functions that tests share")]

mod common;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{Device, Tensor};
use common::{ROUND, close, ggml_blocks, ids, odd_scales, packed, tensor, values};
use kernels::cpu::{self, AlignedBytes};
use kernels::ops::{GateConfig, GroupScore, Scoring};
use kernels::{DType, GgmlType, RopeLayout, RopeTable, Weight, ops};

fn theirs(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn linear_is_a_matmul_with_the_transpose() {
    let (tokens, n, k) = (19, 45, 333);
    let (x, w) = (values(1, tokens * k), values(2, n * k));
    let want = theirs(&x, &[tokens, k]).matmul(&theirs(&w, &[n, k]).t().unwrap()).unwrap();
    let weight = Weight::new(packed(DType::F32, &[n, k], &w), None).unwrap();
    let got = ops::linear(&tensor(&[tokens, k], &x), &weight, None).unwrap();
    // |x . w| sums 333 products below 1.
    close("linear", &got.to_vec_f32(), &flat(&want), 333.0 * 100.0 * ROUND);
}

#[test]
fn rms_norm_agrees() {
    let (tokens, dim) = (7, 100);
    let (x, weight) = (values(1, tokens * dim), values(2, dim));
    let want = candle_nn::ops::rms_norm(&theirs(&x, &[tokens, dim]), &theirs(&weight, &[dim]), 1e-5);
    let got = ops::rms_norm(&tensor(&[tokens, dim], &x), &tensor(&[dim], &weight), 1e-5).unwrap();
    close("rms_norm", &got.to_vec_f32(), &flat(&want.unwrap()), 2e-5);
}

#[test]
fn both_rope_layouts_agree() {
    let (tokens, heads, dim) = (6, 4, 32);
    let freq: Vec<f32> = (0..dim / 2).map(|i| 1.0 / (1 + i) as f32).collect();
    let table = RopeTable::new(&ids(&[tokens], &[0, 1, 2, 30, 4, 500]), &freq, 1.0).unwrap();
    let x = values(8, tokens * heads * dim);
    // candle wants [batch, heads, tokens, dim].
    let by_head = theirs(&x, &[1, tokens, heads, dim]).transpose(1, 2).unwrap().contiguous().unwrap();
    let part = |t: &kernels::Tensor| theirs(&t.to_vec_f32(), &[tokens, dim / 2]);
    let (cos, sin) = (part(&table.cos), part(&table.sin));
    for (layout, want) in [
        (RopeLayout::HalfSplit, candle_nn::rotary_emb::rope(&by_head, &cos, &sin).unwrap()),
        (RopeLayout::Interleaved, candle_nn::rotary_emb::rope_i(&by_head, &cos, &sin).unwrap()),
    ] {
        let mut got = tensor(&[tokens, heads, dim], &x);
        ops::rope_assign(&mut got, 0, &table, layout).unwrap();
        close(&format!("{layout:?}"), &got.to_vec_f32(), &flat(&want.transpose(1, 2).unwrap()), 3e-7);
    }
}

#[test]
fn softmax_scores_agree() {
    // All experts chosen and weights left alone: the routing is the softmax, sorted.
    let (tokens, experts) = (5, 24);
    let config = GateConfig {
        scoring: Scoring::Softmax,
        top_k: experts,
        n_group: 1,
        topk_group: 1,
        group_score: GroupScore::Max,
        norm_topk_prob: false,
        routed_scaling_factor: 1.0,
    };
    let logits: Vec<f32> = values(3, tokens * experts).iter().map(|v| 8.0 * v).collect();
    let want = candle_nn::ops::softmax_last_dim(&theirs(&logits, &[tokens, experts])).unwrap();
    let want = flat(&want);
    let got = ops::route(&tensor(&[tokens, experts], &logits), None, &config).unwrap();
    let ids = got.experts.to_vec_u32().unwrap();
    for (slot, (weight, id)) in got.weights.to_vec_f32().iter().zip(ids).enumerate() {
        close("softmax", &[*weight], &[want[slot / experts * experts + id as usize]], 5e-7);
    }
}

/// Bit for bit, whatever the scale: subnormal, negative, zero, the largest.
#[test]
fn blocks_of_ggml_agree() {
    let formats = [
        (GgmlType::Q4_0, GgmlDType::Q4_0),
        (GgmlType::Q4_1, GgmlDType::Q4_1),
        (GgmlType::Q5_0, GgmlDType::Q5_0),
        (GgmlType::Q5_1, GgmlDType::Q5_1),
        (GgmlType::Q8_0, GgmlDType::Q8_0),
        (GgmlType::Q2K, GgmlDType::Q2K),
        (GgmlType::Q3K, GgmlDType::Q3K),
        (GgmlType::Q4K, GgmlDType::Q4K),
        (GgmlType::Q5K, GgmlDType::Q5K),
        (GgmlType::Q6K, GgmlDType::Q6K),
    ];
    for (kind, theirs) in formats {
        let count = 300;
        let mut blocks = ggml_blocks(kind, count, 17);
        odd_scales(kind, &mut blocks);
        let columns = count * kind.block_len();
        let tensor = qtensor_from_ggml(theirs, &blocks, vec![columns], &Device::Cpu).unwrap();
        let want = flat(&tensor.dequantize(&Device::Cpu).unwrap());
        let mut got = vec![0.0; columns];
        cpu::decode_ggml(kind, &AlignedBytes::copy_of(&blocks), &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got.to_bits() == want.to_bits(), "{kind} column {i}: {got} for {want}");
        }
    }
}
