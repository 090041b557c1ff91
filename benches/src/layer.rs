//! One decoder layer of DeepSeek-V3's shape with random weights, run op by op through a [`Profile`].
//!
//! Eight routed experts of the 256 stand in, all chosen, so that a step reads what one token of the real layer reads.
//! The weights together are several times any cache, and a pass walks through all of them, so every op finds its own in
//! memory, as in a real model.

use kernels::ops::{self, Experts, GateConfig, GroupScore, MlaDims, PagedBatch, Scoring};
use kernels::{DType, Device, Result, RopeTable, Tensor, Weight};

use crate::profile::{Cost, Profile};
use crate::weights::{activations, weight};

const HIDDEN: usize = 7168;
const Q_LORA: usize = 1536;
const EXPERTS: usize = 8;
const INTER: usize = 2048;
const DIMS: MlaDims = MlaDims {
    num_heads: 128,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    kv_lora_rank: 512,
};
const BLOCK_SIZE: usize = 64;
const EPS: f32 = 1e-6;

/// The weights of the layer.
pub struct Layer {
    ones: Tensor,
    q_norm: Tensor,
    kv_norm: Tensor,
    q_a: Weight,
    q_b: Weight,
    kv_a: Weight,
    kv_b: Weight,
    o: Weight,
    gate: Weight,
    experts: Experts,
    shared: [Weight; 3],
}

/// The shape of a step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// New tokens.
    pub tokens: usize,
    /// Whether each token is its own sequence (decode) or all are one sequence's (prefill).
    pub decode: bool,
    /// Keys per sequence after the step, at least the sequence's new tokens.
    pub context: usize,
}

/// What a step needs beside the weights.
pub struct Inputs {
    hidden: Tensor,
    cache: Tensor,
    batch: PagedBatch,
    table: RopeTable,
    pairs: usize,
    keys: usize,
}

impl Layer {
    /// Random weights in `dtype` (`F8_E4M3` or `BF16`); the router stays `F32`.
    pub fn new(dtype: DType) -> Result<Self> {
        let make = |seed, n, k| weight(seed, dtype, [1, n, k]);
        let ones = |n: usize| Tensor::from_f32(&Device::Cpu, &[n], &vec![1.0; n]);
        let heads = DIMS.num_heads;
        Ok(Self {
            ones: ones(HIDDEN)?,
            q_norm: ones(Q_LORA)?,
            kv_norm: ones(DIMS.kv_lora_rank)?,
            q_a: make(1, Q_LORA, HIDDEN)?,
            q_b: make(2, heads * DIMS.qk_head_dim(), Q_LORA)?,
            kv_a: make(3, DIMS.row_width(), HIDDEN)?,
            kv_b: make(4, heads * (DIMS.qk_nope_head_dim + DIMS.v_head_dim), DIMS.kv_lora_rank)?,
            o: make(5, HIDDEN, heads * DIMS.v_head_dim)?,
            gate: weight(6, DType::F32, [1, EXPERTS, HIDDEN])?,
            experts: Experts {
                gate: weight(7, dtype, [EXPERTS, INTER, HIDDEN])?,
                up: weight(8, dtype, [EXPERTS, INTER, HIDDEN])?,
                down: weight(9, dtype, [EXPERTS, HIDDEN, INTER])?,
                swiglu_limit: None,
            },
            shared: [make(10, INTER, HIDDEN)?, make(11, INTER, HIDDEN)?, make(12, HIDDEN, INTER)?],
        })
    }

    /// Bytes of all weights.
    pub fn size_bytes(&self) -> usize {
        let Experts { gate, up, down, .. } = &self.experts;
        let attention = [&self.q_a, &self.q_b, &self.kv_a, &self.kv_b, &self.o, &self.gate];
        attention.into_iter().chain([gate, up, down]).chain(&self.shared).map(Weight::size_bytes).sum()
    }

    /// Runs the layer once, each op timed.
    pub fn pass(&self, inputs: &mut Inputs, profile: &mut Profile) -> Result<()> {
        let attended = self.attention(inputs, profile)?;
        // A copy of its own: the op writes in place.
        let mut residual = detach(&inputs.hidden)?;
        let x = profile.time("add_rms_norm", Cost::default(), || {
            ops::add_rms_norm(&mut residual, &attended, &self.ones, EPS)
        })?;
        self.feed_forward(&x, profile)
    }

    fn attention(&self, inputs: &mut Inputs, profile: &mut Profile) -> Result<Tensor> {
        let tokens = inputs.hidden.dim(0);
        let heads = DIMS.num_heads;
        let none = Cost::default();
        let x = profile.time("rms_norm", none, || ops::rms_norm(&inputs.hidden, &self.ones, EPS))?;
        let q = profile.time("q_a", dense(&self.q_a, tokens), || ops::linear(&x, &self.q_a, None))?;
        let q = profile.time("q_norm", none, || ops::rms_norm(&q, &self.q_norm, EPS))?;
        let q = profile.time("q_b", dense(&self.q_b, tokens), || ops::linear(&q, &self.q_b, None))?;
        let mut q = q.reshape(&[tokens, heads, DIMS.qk_head_dim()])?;
        let layout = kernels::RopeLayout::Interleaved;
        profile
            .time("rope", none, || ops::rope_assign(&mut q, DIMS.qk_nope_head_dim, &inputs.table, layout))?;
        let kv = profile.time("kv_a", dense(&self.kv_a, tokens), || ops::linear(&x, &self.kv_a, None))?;
        profile.time("mla_kv_write", none, || {
            let slots = &inputs.batch.slot_mapping;
            ops::mla_kv_write(&mut inputs.cache, &kv, &self.kv_norm, EPS, &inputs.table, slots)
        })?;
        // Half of kv_b each.
        let half = Cost {
            bytes: self.kv_b.size_bytes() / 2,
            flop: 2 * tokens * heads * DIMS.qk_nope_head_dim * DIMS.kv_lora_rank,
        };
        let q = profile.time("mla_absorb_query", half, || ops::mla_absorb_query(&q, &self.kv_b, &DIMS))?;
        let width = DIMS.row_width();
        let attention = Cost {
            bytes: inputs.keys * width * inputs.cache.dtype().size(),
            flop: 2 * inputs.pairs * heads * (width + DIMS.kv_lora_rank),
        };
        let latent = profile.time("paged_mla", attention, || {
            ops::paged_mla(&q, &inputs.cache, &inputs.batch, None, 0.07, DIMS.kv_lora_rank)
        })?;
        let o =
            profile.time("mla_project_value", half, || ops::mla_project_value(&latent, &self.kv_b, &DIMS))?;
        profile.time("o", dense(&self.o, tokens), || ops::linear(&o, &self.o, None))
    }

    fn feed_forward(&self, x: &Tensor, profile: &mut Profile) -> Result<()> {
        let tokens = x.dim(0);
        let gate = GateConfig {
            scoring: Scoring::Sigmoid,
            top_k: EXPERTS,
            n_group: 1,
            topk_group: 1,
            group_score: GroupScore::TopTwoSum,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
        };
        let logits = profile.time("gate", dense(&self.gate, tokens), || ops::linear(x, &self.gate, None))?;
        let routing = profile.time("route", Cost::default(), || ops::route(&logits, None, &gate))?;
        let Experts { gate, up, down, .. } = &self.experts;
        let cost = Cost {
            bytes: gate.size_bytes() + up.size_bytes() + down.size_bytes(),
            flop: 2 * tokens * EXPERTS * 3 * INTER * HIDDEN,
        };
        let routed = profile.time("moe_experts", cost, || ops::moe_experts(x, &routing, &self.experts))?;
        let [gate, up, down] = &self.shared;
        let cost = Cost { bytes: gate.size_bytes() + up.size_bytes(), flop: 2 * tokens * 2 * INTER * HIDDEN };
        let hidden = profile.time("shared swiglu", cost, || ops::swiglu(x, gate, up, None))?;
        let mut out =
            profile.time("shared down", dense(down, tokens), || ops::linear(&hidden, down, None))?;
        profile.time("add_assign", Cost::default(), || ops::add_assign(&mut out, &routed))
    }
}

impl Inputs {
    /// Random hidden states and a random `BF16` cache.
    pub fn new(step: Step) -> Result<Self> {
        let Step { tokens, decode, context } = step;
        let (sequences, new) = if decode { (tokens, 1) } else { (1, tokens) };
        let context = context.max(new);
        let blocks = context.div_ceil(BLOCK_SIZE);
        let tables: Vec<Vec<u32>> =
            (0..sequences).map(|s| (0..blocks).rev().map(|b| (s * blocks + b) as u32).collect()).collect();
        let lists: Vec<(usize, usize, &[u32])> = tables.iter().map(|t| (new, context, &t[..])).collect();
        let batch = PagedBatch::new(&Device::Cpu, BLOCK_SIZE, &lists)?;
        let cache = weight(20, DType::BF16, [sequences * blocks, BLOCK_SIZE, DIMS.row_width()])?;
        let positions: Vec<u32> = (0..tokens).map(|t| (context - new + t % new) as u32).collect();
        let positions = Tensor::from_u32(&Device::Cpu, &[tokens], &positions)?;
        let freq: Vec<f32> = (0..DIMS.qk_rope_head_dim / 2).map(|i| 0.75_f32.powi(i as i32)).collect();
        Ok(Self {
            hidden: activations(21, &[tokens, HIDDEN])?,
            cache: detach(cache.data())?,
            batch,
            table: RopeTable::new(&positions, &freq, 1.0)?,
            pairs: sequences * (0..new).map(|i| context - new + i + 1).sum::<usize>(),
            keys: sequences * context,
        })
    }
}

/// A copy of an `F32` or `BF16` tensor that shares nothing.
fn detach(tensor: &Tensor) -> Result<Tensor> {
    let values = tensor.to_vec_f32();
    if tensor.dtype() == DType::F32 {
        return Tensor::from_f32(&Device::Cpu, tensor.shape(), &values);
    }
    let bits: Vec<half::bf16> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
    let bytes = kernels::cpu::AlignedBytes::copy_of(bytemuck::cast_slice(&bits));
    Tensor::from_bytes(&Device::Cpu, tensor.dtype(), tensor.shape(), bytes)
}

/// The cost of a linear layer.
fn dense(weight: &Weight, tokens: usize) -> Cost {
    Cost { bytes: weight.size_bytes(), flop: 2 * tokens * weight.rows() * weight.cols() }
}
