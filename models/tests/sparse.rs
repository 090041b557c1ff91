//! Sparse attention (V3.2): a layer against plain loops on sizes that divide nothing, whole models of other sizes than the
//! fixture's, and what a token costs at growing contexts.
//!
//! Catches: the index rope interleaved or on the wrong channels, a norm without its bias, a scale or a head's weight left
//! out, a key too many, index keys in the wrong rows, attention that reads rows which were not selected.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "support/latent.rs"]
mod latent;

#[path = "support/random_model.rs"]
mod random_model;

use std::sync::Arc;

use kernels::ops::{CacheReads, PagedBatch};
use kernels::{DType, Device, RopeLayout, Tensor, ops, reference};
use latent::{
    DIM, DIMS, Q_RANK, apply, linear, naive, norm, poisoned, query_latent, rotate, scattered, step,
};
use models::layers::{IndexShape, Indexer, LayerNorm, Mla, SparseMla};
use models::{Batch, IndexFormat, KvCache, LayerKv, Model, StepContext};
use random_model::{awkward_v3, awkward_v32, random_model};
use serde_json::{Value, json};
use support::{Pool, Sequence, load_rank, prompt_logits};
use testkit::{Fixture, Random, assert_close};

const SHAPE: IndexShape = IndexShape { num_heads: 4, head_dim: 19, topk: 6 };
const KV: LayerKv = LayerKv::SparseMla {
    kv_lora_rank: DIMS.kv_lora_rank,
    qk_rope_head_dim: DIMS.qk_rope_head_dim,
    index_head_dim: SHAPE.head_dim,
    index: IndexFormat::Exact,
};
const TOKENS: usize = 37;

fn indexer(random: &mut Random, mla: &Mla) -> Indexer {
    let bias = random.normals(SHAPE.head_dim, 1.0);
    Indexer {
        layer_idx: 0,
        query: linear(random, SHAPE.num_heads * SHAPE.head_dim, Q_RANK),
        key: linear(random, SHAPE.head_dim, DIM),
        key_norm: LayerNorm {
            weight: norm(random, SHAPE.head_dim).weight,
            bias: Tensor::from_f32(&Device::Cpu, &[SHAPE.head_dim], &bias).unwrap(),
            eps: 1e-6,
        },
        weights: linear(random, SHAPE.num_heads, DIM),
        shape: SHAPE,
        rope: mla.rope.clone(),
        format: IndexFormat::Exact,
    }
}

/// The tokens that each token attends to, by plain loops.
fn selected(layer: &SparseMla, x: &[f32]) -> Vec<Vec<u32>> {
    let SparseMla { mla, indexer } = layer;
    let rotated = |t: usize, head: &mut [f32]| {
        rotate(&mla.rope, t, &mut head[..DIMS.qk_rope_head_dim], RopeLayout::HalfSplit);
    };
    let mut q = apply(&query_latent(mla, x), &indexer.query.weight);
    let heads = q.chunks_exact_mut(SHAPE.head_dim).enumerate();
    heads.for_each(|(i, head)| rotated(i / SHAPE.num_heads, head));
    let LayerNorm { weight, bias, eps } = &indexer.key_norm;
    let keys = apply(x, &indexer.key.weight);
    let mut keys = reference::layer_norm(&keys, &weight.to_vec_f32(), &bias.to_vec_f32(), *eps);
    keys.chunks_exact_mut(SHAPE.head_dim).enumerate().for_each(|(t, key)| rotated(t, key));
    let weights = apply(x, &indexer.weights.weight);
    let visible = latent::causal(x.len() / DIM);
    let sizes = [SHAPE.num_heads, SHAPE.head_dim];
    let scores = reference::index_scores(&q, &weights, &keys, &visible, sizes, 1.0);
    let lists = scores.iter().map(|scores| reference::index_topk(scores, SHAPE.topk));
    lists.map(|list| list.into_iter().filter(|&key| key != u32::MAX).collect()).collect()
}

fn sparse_layer(random: &mut Random) -> SparseMla {
    let mla = latent::layer(random, true);
    let indexer = indexer(random, &mla);
    SparseMla { mla, indexer }
}

#[test]
fn a_sparse_layer_equals_plain_loops() {
    for seed in [41, 42, 43] {
        let mut random = Random::new(seed);
        let layer = sparse_layer(&mut random);
        let x = random.normals(TOKENS * DIM, 1.0);
        let lists = selected(&layer, &x);
        assert!(lists[..6].iter().enumerate().all(|(t, list)| list.len() == t + 1));
        assert!(lists[6..].iter().all(|list| list.len() == SHAPE.topk));
        let expected = naive(&layer.mla, &x, &lists);
        for chunk in [1, 5, 8, TOKENS] {
            let (mut cache, blocks) = (poisoned(KV), scattered());
            let starts = (0..TOKENS).step_by(chunk).map(|start| [start, (start + chunk).min(TOKENS)]);
            let found: Vec<f32> = starts
                .flat_map(|range| {
                    step(&x, range, &blocks, |ctx, batch, x| layer.forward(ctx, batch, x, &mut cache))
                })
                .collect();
            assert_close(&format!("seed {seed}, chunks of {chunk}"), &found, &expected, DIM, 2e-5);
        }
    }
}

/// A row that is not selected is not even read: with all of those NaN, the last token gets the same.
#[test]
fn attention_reads_selected_rows_only() {
    let mut random = Random::new(47);
    let layer = sparse_layer(&mut random);
    let x = random.normals(TOKENS * DIM, 1.0);
    let lists = selected(&layer, &x);
    let (mut cache, blocks) = (poisoned(KV), scattered());
    let last = TOKENS - 1;
    step(&x, [0, last], &blocks, |ctx, batch, x| layer.forward(ctx, batch, x, &mut cache));
    let [rows, _] = cache.tensors_mut().unwrap();
    let mut values = rows.to_vec_f32();
    for token in (0..last).filter(|&token| !lists[last].contains(&(token as u32))) {
        let row =
            blocks[token / latent::BLOCK_SIZE] as usize * latent::BLOCK_SIZE + token % latent::BLOCK_SIZE;
        values[row * DIMS.row_width()..][..DIMS.row_width()].fill(f32::NAN);
    }
    let poisoned = Tensor::from_f32(&Device::Cpu, rows.shape(), &values).unwrap();
    *rows = poisoned;
    let found = step(&x, [last, TOKENS], &blocks, |ctx, batch, x| layer.forward(ctx, batch, x, &mut cache));
    assert_close("last token", &found, &naive(&layer.mla, &x, &lists)[last * DIM..], DIM, 2e-5);
}

fn load(config: &Value) -> Box<dyn Model> {
    let (_dir, checkpoint) = random_model(config, 6).open();
    load_rank(&checkpoint, Arc::new(comm::Solo)).unwrap()
}

fn prompt(count: usize) -> Vec<u32> {
    let mut random = Random::new(5);
    (0..count).map(|_| random.below(101) as u32).collect()
}

#[test]
fn a_model_of_awkward_sizes_in_every_chunking() {
    let model = load(&awkward_v32());
    assert!(model.unknown_tensors().is_empty(), "{:?}", model.unknown_tensors());
    let tokens = prompt(41);
    let whole = prompt_logits(&*model, &tokens);
    for (block_size, chunk) in [(1, 1), (4, 7), (5, 40), (64, 13)] {
        let mut pool = Pool::for_tokens(&*model, 41, block_size);
        let logits = pool.prefill(&*model, &mut Sequence::new(&tokens), chunk);
        assert_close(&format!("blocks of {block_size}, chunks of {chunk}"), &logits, &whole, 101, 1e-5);
    }
    // With room for all keys in a list, it is V3: another choice, other logits.
    let mut dense = awkward_v32();
    dense["index_topk"] = json!(64);
    let dense = prompt_logits(&*load(&dense), &tokens);
    assert_close("before anything is left out", &dense[..6 * 101], &whole[..6 * 101], 101, 0.0);
    assert!(testkit::max_abs_diff(&dense[6 * 101..], &whole[6 * 101..]) > 1e-2);
}

/// A block is copied with its index keys: the sequence goes on in the copy.
#[test]
fn a_copied_block_is_whole() {
    let model = load(&awkward_v32());
    let tokens = prompt(41);
    let whole = prompt_logits(&*model, &tokens);
    let mut pool = Pool::for_tokens(&*model, 41, 4);
    let mut sequence = Sequence::new(&tokens[..38]);
    pool.prefill(&*model, &mut sequence, 38);
    let mut other = Sequence::new(&tokens[..1]);
    pool.prefill(&*model, &mut other, 1);
    let (shared, own) = (sequence.blocks[9], other.blocks[0]);
    pool.kv.copy_blocks(&[(shared, own)]).unwrap();
    sequence.blocks[9] = own;
    sequence.tokens = tokens;
    let logits = pool.prefill(&*model, &mut sequence, 1);
    assert_close("in the copy", &logits, &whole[38 * 101..], 101, 1e-5);
}

#[test]
fn the_draft_layer_has_an_indexer_of_its_own() {
    let model = load(&awkward_v32());
    let mtp = model.mtp().expect("an MTP layer");
    let kv = LayerKv::SparseMla {
        kv_lora_rank: 27,
        qk_rope_head_dim: 10,
        index_head_dim: 15,
        index: IndexFormat::Exact,
    };
    assert_eq!(mtp.kv_layout().layers, [kv]);
    assert_eq!(*mtp.kv_layout(), models::mtp_kv_layout(model.config()));
    let tokens = prompt(30);
    let draft = |chunk: usize| {
        let mut pool = Pool::for_tokens(&*model, 30, 4);
        let mut ctx = StepContext::new(&Device::Cpu);
        let hidden = pool.step(&*model, &mut ctx, &mut [(&mut Sequence::new(&tokens), 30)]);
        let mut draft = Sequence::new(&tokens[1..]);
        let mut found = Vec::new();
        while draft.cached < 29 {
            let new = chunk.min(29 - draft.cached);
            let rows: Vec<u32> = (draft.cached as u32..(draft.cached + new) as u32).collect();
            let rows = Tensor::from_u32(&Device::Cpu, &[new], &rows).unwrap();
            let hidden = ops::gather_rows(&hidden, &rows).unwrap();
            let batch = pool.batch(&mut [(&mut draft, new)]);
            let kv = pool.mtp_kv.as_mut().unwrap();
            found.extend(mtp.forward(&mut ctx, 0, &batch, &hidden, kv).unwrap().to_vec_f32());
            draft.cached += new;
        }
        found
    };
    let whole = draft(29);
    assert!(whole.iter().all(|v| v.is_finite()));
    assert_close("in chunks of 7", &draft(7), &whole, 52, 1e-5);
}

/// Rows of attention and of the indexer that one new token behind `context - 1` others reads.
fn reads_at(model: &dyn Model, context: usize) -> [u64; 2] {
    let block_size = 16_usize.next_multiple_of(model.kv_layout().block_tokens());
    let blocks: Vec<u32> = (0..context.div_ceil(block_size) as u32).collect();
    let kv = KvCache::new(&Device::Cpu, model.kv_layout(), blocks.len(), block_size, DType::F32).unwrap();
    let mut kv = kv.with_state_slots(1, 0).unwrap();
    let paged = PagedBatch::new(&Device::Cpu, block_size, &[(1, context, &blocks)]).unwrap();
    let mut paged = paged.with_state_slots(&[0]).unwrap();
    let reads = Arc::new(CacheReads::default());
    paged.reads = Some(reads.clone());
    let batch = Batch::new(&[7], &[context as u32 - 1], paged).unwrap();
    model.forward(&mut StepContext::new(&Device::Cpu), &batch, &mut kv).unwrap();
    [reads.attention(), reads.index()]
}

/// Decode at a long context: attention costs what is selected, and only the indexer, whose keys are few channels of one
/// head, walks the context.
#[test]
fn attention_costs_what_is_selected_whatever_the_context() {
    const TOPK: usize = 64;
    let mut config = awkward_v32();
    config["index_topk"] = json!(TOPK);
    let (sparse, dense) = (load(&config), load(&awkward_v3()));
    let layers = sparse.kv_layout().layers.len() as u64;
    for context in [48, 1 << 10, 4 << 10, 16 << 10, 64 << 10] {
        let [attention, index] = reads_at(&*sparse, context);
        let [dense_attention, _] = reads_at(&*dense, context);
        println!(
            "context {context}: {attention} rows of attention for {dense_attention}, {index} index keys"
        );
        assert_eq!(attention, layers * context.min(TOPK) as u64);
        assert_eq!(index, if context > TOPK { layers * context as u64 } else { 0 });
        assert_eq!(dense_attention, layers * context as u64);
    }
}

/// V4: a window, what the indexer selects, and a row for 128 tokens in the layers that see all of them. The index keys
/// are one for 4 tokens.
#[test]
fn v4_costs_its_window_and_what_is_selected() {
    let model = support::load(&Fixture::open("deepseek_v4"));
    let layers: Vec<_> = model.kv_layout().layers.clone();
    for context in [1 << 10, 4 << 10, 16 << 10, 64 << 10] {
        let [attention, index] = reads_at(&*model, context);
        let (mut rows, mut keys) = (0, 0);
        for layer in &layers {
            let LayerKv::Window { sliding_window, ratio, index_head_dim, .. } = *layer else { panic!() };
            rows += sliding_window;
            match (ratio, index_head_dim) {
                (0, _) => {}
                (ratio, Some(_)) => (rows, keys) = (rows + 6, keys + context / ratio),
                (ratio, None) => rows += context / ratio,
            }
        }
        println!("context {context}: {attention} rows of attention, {index} index keys");
        assert_eq!((attention, index), (rows as u64, keys as u64));
    }
    let growth = |context| reads_at(&*model, context)[0] - reads_at(&*model, 1 << 10)[0];
    assert_eq!(growth(64 << 10), 63 * 1024 / 128, "only the layer that compresses 128 tokens grows");
}
