//! A latent attention layer of sizes that divide nothing, the form in which the papers first write it, and a run of a layer
//! over a poisoned cache in chunks.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use checkpoint::RopeScaling;
use kernels::ops::{MlaDims, PagedBatch};
use kernels::{DType, Device, RopeLayout, Tensor, Weight, reference};
use models::layers::{LatentQuery, Linear, Mla, RmsNorm, RopeFrequencies, RowLinear, mla_softmax_scale};
use models::{Batch, KvCache, KvLayout, LayerCache, LayerKv, StepContext};
use testkit::Random;

pub(crate) const DIM: usize = 83;
pub(crate) const DIMS: MlaDims =
    MlaDims { num_heads: 3, qk_nope_head_dim: 21, qk_rope_head_dim: 14, v_head_dim: 27, kv_lora_rank: 45 };
pub(crate) const Q_RANK: usize = 31;
pub(crate) const BLOCK_SIZE: usize = 5;
/// Blocks of a run's cache.
const BLOCKS: usize = 12;

fn weight(random: &mut Random, n: usize, k: usize) -> Weight {
    let values = random.normals(n * k, 1.5 * (k as f32).powf(-0.5));
    Weight::new(Tensor::from_f32(&Device::Cpu, &[n, k], &values).unwrap(), None).unwrap()
}

pub(crate) fn linear(random: &mut Random, n: usize, k: usize) -> Linear {
    Linear { weight: weight(random, n, k), bias: None }
}

pub(crate) fn norm(random: &mut Random, n: usize) -> RmsNorm {
    let values: Vec<f32> = random.normals(n, 0.2).iter().map(|v| v + 1.0).collect();
    RmsNorm { weight: Tensor::from_f32(&Device::Cpu, &[n], &values).unwrap(), eps: 1e-6 }
}

pub(crate) fn layer(random: &mut Random, low_rank: bool) -> Mla {
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 8.0,
        beta_slow: 1.0,
        mscale: 1.0,
        mscale_all_dim: 0.7,
    };
    let q_dim = DIMS.num_heads * DIMS.qk_head_dim();
    let query = if low_rank {
        let (a, norm) = (linear(random, Q_RANK, DIM), norm(random, Q_RANK));
        LatentQuery::LowRank { a, norm, b: linear(random, q_dim, Q_RANK) }
    } else {
        LatentQuery::Full(linear(random, q_dim, DIM))
    };
    Mla {
        query,
        kv_a: linear(random, DIMS.row_width(), DIM),
        kv_a_norm: norm(random, DIMS.kv_lora_rank),
        kv_b: weight(random, DIMS.num_heads * (DIMS.qk_nope_head_dim + DIMS.v_head_dim), DIMS.kv_lora_rank),
        o: RowLinear {
            weight: weight(random, DIM, DIMS.num_heads * DIMS.v_head_dim),
            bias: None,
            comm: Arc::new(comm::Solo),
        },
        dims: DIMS,
        rope: Arc::new(RopeFrequencies::new(1e4, DIMS.qk_rope_head_dim, &scaling)),
        softmax_scale: mla_softmax_scale(DIMS.qk_head_dim(), &scaling),
    }
}

/// `x` `[T, K]` by a weight.
pub(crate) fn apply(x: &[f32], weight: &Weight) -> Vec<f32> {
    reference::linear(x, &weight.to_vec_f32(), None, weight.cols(), weight.rows())
}

/// Rotates the channels of a token at position `t`.
pub(crate) fn rotate(rope: &RopeFrequencies, t: usize, channels: &mut [f32], layout: RopeLayout) {
    let angles: Vec<f32> = rope.inv_freq.iter().map(|f| t as f32 * f).collect();
    let cos: Vec<f32> = angles.iter().map(|a| a.cos() * rope.attention_factor).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin() * rope.attention_factor).collect();
    reference::rope(channels, &cos, &sin, layout);
}

fn normed(x: &[f32], norm: &RmsNorm) -> Vec<f32> {
    reference::rms_norm(x, &norm.weight.to_vec_f32(), norm.weight.len(), norm.eps)
}

/// The normed latent of a low-rank query.
pub(crate) fn query_latent(layer: &Mla, x: &[f32]) -> Vec<f32> {
    match &layer.query {
        LatentQuery::Full(_) => x.to_vec(),
        LatentQuery::LowRank { a, norm, .. } => normed(&apply(x, &a.weight), norm),
    }
}

/// Every token sees itself and those before it.
pub(crate) fn causal(tokens: usize) -> Vec<Vec<u32>> {
    (0..tokens).map(|t| (0..=t as u32).collect()).collect()
}

/// Keys and values expanded per head, plain loops throughout; token `t` attends to the tokens `visible[t]`.
pub(crate) fn naive(layer: &Mla, x: &[f32], visible: &[Vec<u32>]) -> Vec<f32> {
    let mut q = match &layer.query {
        LatentQuery::Full(q) => apply(x, &q.weight),
        LatentQuery::LowRank { b, .. } => apply(&query_latent(layer, x), &b.weight),
    };
    for (i, head) in q.chunks_exact_mut(DIMS.qk_head_dim()).enumerate() {
        let rope = &mut head[DIMS.qk_nope_head_dim..];
        rotate(&layer.rope, i / DIMS.num_heads, rope, RopeLayout::Interleaved);
    }
    let mut rows = apply(x, &layer.kv_a.weight);
    for (t, row) in rows.chunks_exact_mut(DIMS.row_width()).enumerate() {
        let (latent, rope_key) = row.split_at_mut(DIMS.kv_lora_rank);
        let values = normed(latent, &layer.kv_a_norm);
        latent.copy_from_slice(&values);
        rotate(&layer.rope, t, rope_key, RopeLayout::Interleaved);
    }
    let kv_b = layer.kv_b.to_vec_f32();
    let attended = reference::mla_naive(&q, &rows, &kv_b, visible, &DIMS, layer.softmax_scale);
    apply(&attended, &layer.o.weight)
}

/// A layer's part of a cache of its own, all NaN.
pub(crate) fn poisoned(kv: LayerKv) -> LayerCache {
    let layout = KvLayout { layers: vec![kv] };
    let kv = KvCache::poisoned(&Device::Cpu, &layout, BLOCKS, BLOCK_SIZE, DType::F32).unwrap();
    kv.into_layers().remove(0)
}

/// Scattered blocks of that cache.
pub(crate) fn scattered() -> Vec<u32> {
    Random::new(29).permutation(BLOCKS)
}

/// Runs tokens `start .. end` of `x` `[T, DIM]` through `forward`.
pub(crate) fn step(
    x: &[f32],
    [start, end]: [usize; 2],
    blocks: &[u32],
    forward: impl FnOnce(&mut StepContext<'_>, &Batch, &Tensor) -> models::Result<Tensor>,
) -> Vec<f32> {
    let paged = PagedBatch::new(&Device::Cpu, BLOCK_SIZE, &[(end - start, end, blocks)]).unwrap();
    let positions: Vec<u32> = (start as u32..end as u32).collect();
    let batch = Batch::new(&positions, &positions, paged).unwrap();
    let rows = &x[start * DIM..end * DIM];
    let rows = Tensor::from_f32(&Device::Cpu, &[end - start, DIM], rows).unwrap();
    let mut ctx = StepContext::new(&Device::Cpu);
    ctx.begin(&batch).unwrap();
    forward(&mut ctx, &batch, &rows).unwrap().to_vec_f32()
}
