//! The absorbed form of latent attention against the form the papers first write, on sizes that divide nothing.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use checkpoint::RopeScaling;
use kernels::ops::{MlaDims, PagedBatch};
use kernels::{DType, Device, RopeLayout, Tensor, Weight, reference};
use models::layers::{LatentQuery, Linear, Mla, RmsNorm, RopeFrequencies, RowLinear, mla_softmax_scale};
use models::{Batch, KvCache, KvLayout, LayerKv, StepContext};
use testkit::{Random, assert_close};

const DIM: usize = 83;
const DIMS: MlaDims =
    MlaDims { num_heads: 3, qk_nope_head_dim: 21, qk_rope_head_dim: 14, v_head_dim: 27, kv_lora_rank: 45 };
const Q_RANK: usize = 31;

fn weight(random: &mut Random, n: usize, k: usize) -> Weight {
    let values = random.normals(n * k, 1.5 * (k as f32).powf(-0.5));
    Weight::new(Tensor::from_f32(&Device::Cpu, &[n, k], &values).unwrap(), None).unwrap()
}

fn linear(random: &mut Random, n: usize, k: usize) -> Linear {
    Linear { weight: weight(random, n, k), bias: None }
}

fn norm(random: &mut Random, n: usize) -> RmsNorm {
    let values: Vec<f32> = random.normals(n, 0.2).iter().map(|v| v + 1.0).collect();
    RmsNorm { weight: Tensor::from_f32(&Device::Cpu, &[n], &values).unwrap(), eps: 1e-6 }
}

fn layer(random: &mut Random, low_rank: bool) -> Mla {
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

/// Keys and values expanded per head, plain loops throughout; every token sees itself and those before it.
fn naive(layer: &Mla, x: &[f32], tokens: usize) -> Vec<f32> {
    let apply = |x: &[f32], weight: &Weight| {
        let (k, n) = (weight.cols(), weight.rows());
        reference::linear(x, &weight.to_vec_f32(), None, k, n)
    };
    let normed = |x: &[f32], norm: &RmsNorm| {
        reference::rms_norm(x, &norm.weight.to_vec_f32(), norm.weight.len(), norm.eps)
    };
    let angle = |t: usize, f: &f32| (t as f32 * f, layer.rope.attention_factor);
    let rotate = |t: usize, channels: &mut [f32]| {
        let cos: Vec<f32> =
            layer.rope.inv_freq.iter().map(|f| angle(t, f)).map(|(a, m)| a.cos() * m).collect();
        let sin: Vec<f32> =
            layer.rope.inv_freq.iter().map(|f| angle(t, f)).map(|(a, m)| a.sin() * m).collect();
        reference::rope(channels, &cos, &sin, RopeLayout::Interleaved);
    };
    let mut q = match &layer.query {
        LatentQuery::Full(q) => apply(x, &q.weight),
        LatentQuery::LowRank { a, norm, b } => apply(&normed(&apply(x, &a.weight), norm), &b.weight),
    };
    let heads = q.chunks_exact_mut(DIMS.qk_head_dim()).enumerate();
    heads.for_each(|(i, head)| rotate(i / DIMS.num_heads, &mut head[DIMS.qk_nope_head_dim..]));
    let mut rows = apply(x, &layer.kv_a.weight);
    for (t, row) in rows.chunks_exact_mut(DIMS.row_width()).enumerate() {
        let (latent, rope_key) = row.split_at_mut(DIMS.kv_lora_rank);
        let values = normed(latent, &layer.kv_a_norm);
        latent.copy_from_slice(&values);
        rotate(t, rope_key);
    }
    let visible: Vec<Vec<u32>> = (0..tokens).map(|t| (0..=t as u32).collect()).collect();
    let kv_b = layer.kv_b.to_vec_f32();
    let attended = reference::mla_naive(&q, &rows, &kv_b, &visible, &DIMS, layer.softmax_scale);
    apply(&attended, &layer.o.weight)
}

#[test]
fn absorbed_equals_naive() {
    const TOKENS: usize = 37;
    const BLOCK_SIZE: usize = 5;
    for low_rank in [false, true] {
        let mut random = Random::new(23);
        let layer = layer(&mut random, low_rank);
        let x = random.normals(TOKENS * DIM, 1.0);
        let expected = naive(&layer, &x, TOKENS);
        let layout = KvLayout {
            layers: vec![LayerKv::Mla {
                kv_lora_rank: DIMS.kv_lora_rank,
                qk_rope_head_dim: DIMS.qk_rope_head_dim,
            }],
        };
        let blocks = random.permutation(12);
        for chunk in [1, 6, TOKENS] {
            let kv = KvCache::poisoned(&Device::Cpu, &layout, 12, BLOCK_SIZE, DType::F32).unwrap();
            let mut cache = kv.into_layers().remove(0);
            let mut ctx = StepContext::new(&Device::Cpu);
            let mut found = Vec::new();
            for start in (0..TOKENS).step_by(chunk) {
                let end = (start + chunk).min(TOKENS);
                let paging = [(end - start, end, blocks.as_slice())];
                let paged = PagedBatch::new(&Device::Cpu, BLOCK_SIZE, &paging).unwrap();
                let positions: Vec<u32> = (start as u32..end as u32).collect();
                let batch = Batch::new(&positions, &positions, paged).unwrap();
                let rows = &x[start * DIM..end * DIM];
                let rows = Tensor::from_f32(&Device::Cpu, &[end - start, DIM], rows).unwrap();
                ctx.begin(&batch).unwrap();
                found.extend(layer.forward(&mut ctx, &batch, &rows, &mut cache).unwrap().to_vec_f32());
            }
            let what = format!("low rank {low_rank}, chunks of {chunk}");
            let diff = assert_close(&what, &found, &expected, DIM, 2e-5);
            println!("{what}: {diff:.1e}");
        }
    }
}
