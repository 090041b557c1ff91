//! The indexer of V3.2 as released, rotated and in FP8: its selection against plain loops and against exact maths, in any
//! chunks, over ranks, in copied blocks; and who has no such indexer.
//!
//! Catches: a query or a key without the rotation, a scale left out or taken from another row, packed rows of the wrong
//! size, an option that does not reach the layers.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "support/latent.rs"]
mod latent;

#[path = "support/random_model.rs"]
mod random_model;

use std::sync::Arc;

use checkpoint::Checkpoint;
use comm::{Communicator, Solo};
use kernels::{DType, Device, RopeLayout, Tensor, Weight, reference};
use latent::{DIM, DIMS, Q_RANK, apply, linear, norm, poisoned, query_latent, rotate, scattered, step};
use models::layers::{IndexShape, Indexer, LayerNorm, Linear, Mla};
use models::{
    Footprint, IndexFormat, LayerKv, Model, ModelError, ModelOptions, Probe, StepContext, load_with,
};
use random_model::{awkward_v32, random_model};
use serde_json::{Value, json};
use support::{Pool, Sequence, prompt_logits};
use testkit::{Fixture, Random, assert_close};

const SHAPE: IndexShape = IndexShape { num_heads: 4, head_dim: 16, topk: 6 };
const KV: LayerKv = LayerKv::SparseMla {
    kv_lora_rank: DIMS.kv_lora_rank,
    qk_rope_head_dim: DIMS.qk_rope_head_dim,
    index_head_dim: SHAPE.head_dim,
    index: IndexFormat::Fp8,
};
const TOKENS: usize = 37;

/// Heads of growing magnitude: their scales differ.
fn indexer(random: &mut Random, mla: &Mla) -> Indexer {
    let [heads, dim] = [SHAPE.num_heads, SHAPE.head_dim];
    let rows = random.normals(heads * dim * Q_RANK, 0.1);
    let rows: Vec<f32> =
        rows.iter().enumerate().map(|(i, v)| v * 3f32.powi((i / (dim * Q_RANK)) as i32)).collect();
    let query = Tensor::from_f32(&Device::Cpu, &[heads * dim, Q_RANK], &rows).unwrap();
    let bias = random.normals(dim, 1.0);
    Indexer {
        layer_idx: 0,
        query: Linear { weight: Weight::new(query, None).unwrap(), bias: None },
        key: linear(random, dim, DIM),
        key_norm: LayerNorm {
            weight: norm(random, dim).weight,
            bias: Tensor::from_f32(&Device::Cpu, &[dim], &bias).unwrap(),
            eps: 1e-6,
        },
        weights: linear(random, heads, DIM),
        shape: SHAPE,
        rope: mla.rope.clone(),
        format: IndexFormat::Fp8,
    }
}

/// The scores of each token's keys, by plain loops.
fn scores(mla: &Mla, indexer: &Indexer, x: &[f32]) -> Vec<Vec<f32>> {
    let treated = |t: usize, vector: &mut [f32]| {
        rotate(&mla.rope, t, &mut vector[..DIMS.qk_rope_head_dim], RopeLayout::HalfSplit);
        let (rounded, scale) = reference::fp8_power_of_two(&reference::hadamard(vector));
        vector.copy_from_slice(&rounded);
        scale
    };
    let mut q = apply(&query_latent(mla, x), &indexer.query.weight);
    let mut weights = apply(x, &indexer.weights.weight);
    for (i, head) in q.chunks_exact_mut(SHAPE.head_dim).enumerate() {
        weights[i] *= treated(i / SHAPE.num_heads, head);
    }
    let LayerNorm { weight, bias, eps } = &indexer.key_norm;
    let keys = apply(x, &indexer.key.weight);
    let mut keys = reference::layer_norm(&keys, &weight.to_vec_f32(), &bias.to_vec_f32(), *eps);
    let heads = keys.chunks_exact_mut(SHAPE.head_dim).enumerate();
    let scales: Vec<f32> = heads.map(|(t, key)| treated(t, key)).collect();
    let sizes = [SHAPE.num_heads, SHAPE.head_dim];
    let mut scores = reference::index_scores(&q, &weights, &keys, &latent::causal(x.len() / DIM), sizes, 1.0);
    scores.iter_mut().for_each(|keys| keys.iter_mut().zip(&scales).for_each(|(v, scale)| *v *= scale));
    scores
}

#[test]
fn the_best_of_the_released_scores_are_selected() {
    for seed in [51, 52, 53] {
        let mut random = Random::new(seed);
        let mla = latent::layer(&mut random, true);
        let indexer = indexer(&mut random, &mla);
        let x = random.normals(TOKENS * DIM, 1.0);
        let scores = scores(&mla, &indexer, &x);
        let (mut cache, blocks) = (poisoned(KV), scattered());
        for start in (0..TOKENS).step_by(9) {
            let (end, mut lists) = ((start + 9).min(TOKENS), Vec::new());
            step(&x, [start, end], &blocks, |ctx, batch, x| {
                let [_, keys] = cache.tensors_mut()?;
                let latent = mla.query.latent(x)?;
                let selected = indexer.forward(ctx, batch, [x, &latent], keys)?;
                lists = selected.expect("more than it may select").to_vec_u32()?;
                Ok(x.clone())
            });
            for (t, list) in (start..end).zip(lists.chunks_exact(SHAPE.topk)) {
                let (chosen, rest): (Vec<usize>, Vec<usize>) =
                    (0..=t).partition(|key| list.contains(&(*key as u32)));
                assert_eq!(chosen.len(), SHAPE.topk.min(t + 1), "token {t}");
                let least = chosen.iter().map(|&key| scores[t][key]).fold(f32::INFINITY, f32::min);
                let most = rest.iter().map(|&key| scores[t][key]).fold(f32::NEG_INFINITY, f32::max);
                let largest = scores[t].iter().fold(0.0, |a: f32, v| a.max(v.abs()));
                // Sums in another order may round a channel to the next of its 8 bits.
                assert!(least >= most - 0.01 * largest, "seed {seed}, token {t}: {least} chosen, {most} not");
            }
        }
    }
}

fn load(checkpoint: &Checkpoint, comm: Arc<dyn Communicator>, index: IndexFormat) -> Box<dyn Model> {
    let options = ModelOptions { index, ..Default::default() };
    load_with(checkpoint, &Device::Cpu, comm, options, &mut |_| {}).unwrap()
}

/// Sizes that divide nothing but for the index keys.
fn awkward() -> Value {
    let mut config = awkward_v32();
    config["index_head_dim"] = json!(16);
    config
}

fn prompt(count: usize, vocab: usize) -> Vec<u32> {
    let mut random = Random::new(5);
    (0..count).map(|_| random.below(vocab) as u32).collect()
}

/// What every layer's indexer selected, by token.
#[derive(Default)]
struct Selections(Vec<Vec<Vec<u32>>>);

impl Probe for Selections {
    fn selection(&mut self, _: usize, _: &Tensor, selected: Option<&Tensor>) {
        let selected = selected.expect("more than it may select");
        let lists = selected.to_vec_u32().unwrap();
        self.0.push(lists.chunks_exact(selected.dim(1)).map(<[u32]>::to_vec).collect());
    }
}

fn selections(model: &dyn Model, tokens: &[u32]) -> Vec<Vec<Vec<u32>>> {
    let mut selections = Selections::default();
    let mut ctx = StepContext::with_probe(&Device::Cpu, &mut selections);
    let work = &mut [(&mut Sequence::new(tokens), tokens.len())];
    Pool::for_tokens(model, tokens.len(), 16).step(model, &mut ctx, work);
    drop(ctx);
    selections.0
}

/// The fixture's 16 of up to 128 keys, over all tokens that have to choose. The first layer sees the same input; the layers
/// above it, of a model whose random weights make the most of any difference, see what the selections below made of it.
#[test]
fn most_keys_are_those_of_exact_maths() {
    let checkpoint = Fixture::open("deepseek_v32").checkpoint();
    let tokens = prompt(128, 256);
    let [exact, fp8] = [IndexFormat::Exact, IndexFormat::Fp8]
        .map(|format| selections(&*load(&checkpoint, Arc::new(Solo), format), &tokens));
    for (layer, (exact, fp8)) in exact.iter().zip(&fp8).enumerate() {
        let (mut same, mut all) = (0, 0);
        for (exact, fp8) in exact.iter().zip(fp8).skip(16) {
            same += exact.iter().filter(|key| fp8.contains(key)).count();
            all += exact.len();
        }
        let share = same as f64 / all as f64;
        println!("layer {layer}: {same} of {all} keys, {:.1} %", 100.0 * share);
        let least = if layer == 0 { 0.95 } else { 0.5 };
        assert!((least..1.0).contains(&share), "layer {layer}: {share}");
    }
}

#[test]
fn chunks_give_the_same_logits() {
    let fixture = Fixture::open("deepseek_v32");
    let (_dir, random) = random_model(&awkward(), 6).open();
    for (checkpoint, vocab) in [(&fixture.checkpoint(), 256), (&random, 101)] {
        let model = load(checkpoint, Arc::new(Solo), IndexFormat::Fp8);
        let tokens = prompt(70, vocab);
        let whole = prompt_logits(&*model, &tokens);
        for (block_size, chunk) in [(1, 1), (4, 7), (5, 64), (16, 1)] {
            let mut pool = Pool::for_tokens(&*model, 70, block_size);
            let logits = pool.prefill(&*model, &mut Sequence::new(&tokens), chunk);
            assert_close(&format!("chunks of {chunk}"), &logits, &whole, vocab, 0.0);
        }
        let exact = load(checkpoint, Arc::new(Solo), IndexFormat::Exact);
        assert!(testkit::max_abs_diff(&prompt_logits(&*exact, &tokens), &whole) > 1e-4, "another choice");
    }
}

/// A block is copied with its packed index keys: the sequence goes on in the copy.
#[test]
fn a_copied_block_is_whole() {
    let (_dir, checkpoint) = random_model(&awkward(), 6).open();
    let model = load(&checkpoint, Arc::new(Solo), IndexFormat::Fp8);
    let tokens = prompt(41, 101);
    let whole = prompt_logits(&*model, &tokens);
    for dtype in [DType::F32, DType::F8E4M3] {
        let mut pool = Pool::new(&*model, dtype, 24, 4, 9);
        let mut sequence = Sequence::new(&tokens);
        let straight = pool.prefill(&*model, &mut sequence, 41);
        let mut pool = Pool::new(&*model, dtype, 24, 4, 9);
        let mut sequence = Sequence::new(&tokens[..38]);
        pool.prefill(&*model, &mut sequence, 38);
        let mut other = Sequence::new(&tokens[..1]);
        pool.prefill(&*model, &mut other, 1);
        let (shared, own) = (sequence.blocks[9], other.blocks[0]);
        pool.kv.copy_blocks(&[(shared, own)]).unwrap();
        sequence.blocks[9] = own;
        sequence.tokens.clone_from(&tokens);
        let logits = pool.prefill(&*model, &mut sequence, 1);
        assert_close(&format!("{dtype}"), &logits, &straight[38 * 101..], 101, 0.0);
        if dtype == DType::F32 {
            assert_close("in one step", &straight, &whole, 101, 0.0);
        }
    }
}

#[test]
fn ranks_select_alike() {
    let checkpoint = Fixture::open("deepseek_v32").checkpoint();
    let tokens = prompt(60, 256);
    let solo = load(&checkpoint, Arc::new(Solo), IndexFormat::Fp8);
    let (logits, lists) = (prompt_logits(&*solo, &tokens), selections(&*solo, &tokens));
    let found = testkit::ranks(2, |comm| {
        let model = load(&checkpoint, comm, IndexFormat::Fp8);
        (prompt_logits(&*model, &tokens), selections(&*model, &tokens))
    });
    assert_eq!(found[0], found[1], "the same bits on both");
    assert_eq!(found[0].1[0], lists[0], "the first layer's input is replicated");
    assert_close("two ranks", &found[0].0, &logits, 256, 1e-3);
}

#[test]
fn the_cache_is_as_large_as_planned() {
    let (_dir, checkpoint) = random_model(&awkward(), 6).open();
    let options = ModelOptions { index: IndexFormat::Fp8, ..Default::default() };
    let model = load(&checkpoint, Arc::new(Solo), IndexFormat::Fp8);
    assert_eq!(*model.kv_layout(), models::kv_layout(model.config()).with_index(IndexFormat::Fp8));
    let mtp = model.mtp().unwrap().kv_layout();
    assert_eq!(*mtp, models::mtp_kv_layout(model.config()).with_index(IndexFormat::Fp8));
    // Latent rows of 27 + 10; 16 channels and their scale.
    assert_eq!(mtp.bytes_per_token(DType::F32).unwrap(), 37 * 4 + 20);
    let planned = Footprint::new(&checkpoint, 1, DType::BF16, 0, 8, options).unwrap().kv_bytes_per_token;
    assert_eq!(planned, 5 * (37 * 2 + 20));
    let pool = Pool::new(&*model, DType::BF16, 6, 4, 1);
    assert_eq!(pool.kv.size_bytes(), 6 * 4 * 5 * (37 * 2 + 20));
}

#[test]
fn models_without_such_an_indexer_are_refused() {
    let refused = |checkpoint: &Checkpoint, index| {
        let options = ModelOptions { index, ..Default::default() };
        load_with(checkpoint, &Device::Cpu, Arc::new(Solo), options, &mut |_| panic!("something was read"))
            .err()
            .expect("a refusal")
    };
    for (name, index, families) in [
        ("deepseek_v3", IndexFormat::Fp8, "FP8 is what deepseek_v32 and deepseek_v4 can have"),
        ("qwen2_distill", IndexFormat::Fp8, "FP8 is what deepseek_v32 and deepseek_v4 can have"),
        ("deepseek_v32", IndexFormat::Fp4, "FP4 is what deepseek_v4 can have; deepseek_v32 has no such"),
        ("qwen2_distill", IndexFormat::Fp4, "FP4 is what deepseek_v4 can have"),
    ] {
        let error = refused(&Fixture::open(name).checkpoint(), index);
        assert!(matches!(error, ModelError::IndexFormat { .. }), "{name}: {error}");
        assert!(error.to_string().contains(families), "{error}");
    }
    let (_dir, fifteen) = random_model(&awkward_v32(), 6).open();
    let error = refused(&fifteen, IndexFormat::Fp8);
    assert!(matches!(error, ModelError::Config { key: "index_head_dim", .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "config: index_head_dim is 15, expected a power of two, for an indexer in FP8"
    );
}
