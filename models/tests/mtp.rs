//! Multi-token prediction: logits of the draft layer, through its own paged cache.

#![allow(clippy::unwrap_used)]

mod support;

use kernels::{DType, Device, Tensor, ops};
use models::{KvCache, LayerKv, Model, StepContext};
use support::{Pool, Sequence, load};
use testkit::{Fixture, assert_close};

const TOLERANCE: f32 = 3e-4;

/// MTP logits at positions `0 .. n - 1` of a prompt, in chunks; the main model runs first, in one step.
fn mtp_logits(model: &dyn Model, tokens: &[u32], block_size: usize, chunk: usize) -> Vec<f32> {
    let mtp = model.mtp().expect("an MTP layer");
    let mut pool = Pool::for_tokens(model, tokens.len(), block_size);
    let mut ctx = StepContext::new(&Device::Cpu);
    let hidden = pool.step(model, &mut ctx, &mut [(&mut Sequence::new(tokens), tokens.len())]);
    // The draft layer sees the following token under this position.
    let mut draft = Sequence::new(&tokens[1..]);
    let mut logits = Vec::new();
    while draft.cached < draft.tokens.len() {
        let new = chunk.min(draft.tokens.len() - draft.cached);
        let rows: Vec<u32> = (draft.cached..draft.cached + new).map(|r| r as u32).collect();
        let rows = Tensor::from_u32(&Device::Cpu, &[new], &rows).unwrap();
        let hidden = ops::gather_rows(&hidden, &rows).unwrap();
        let batch = pool.batch(&mut [(&mut draft, new)]);
        let kv = pool.mtp_kv.as_mut().expect("an MTP cache");
        let drafted = mtp.forward(&mut ctx, 0, &batch, &hidden, kv).unwrap();
        draft.cached += new;
        logits.extend(mtp.logits(0, &drafted).unwrap().to_vec_f32());
    }
    logits
}

#[test]
fn logits_match_in_every_chunking() {
    for name in ["deepseek_v3_mtp", "deepseek_v4"] {
        match_in_every_chunking(name);
    }
}

fn match_in_every_chunking(name: &str) {
    let fixture = Fixture::open(name);
    let (model, golden) = (load(&fixture), fixture.golden());
    let expected = golden.f32s("p33.mtp_logits");
    let vocab = model.config().common().vocab_size;
    for block_size in [1, 4, 16] {
        for chunk in [1, 7, 32] {
            let logits = mtp_logits(&*model, &golden.u32s("p33.ids"), block_size, chunk);
            let what = format!("{name}: MTP in chunks of {chunk}, blocks of {block_size}");
            assert_close(&what, &logits, &expected, vocab, TOLERANCE);
        }
    }
}

#[test]
fn the_layer_counts_as_its_own() {
    let model = load(&Fixture::open("deepseek_v3_mtp"));
    let mtp = model.mtp().expect("an MTP layer");
    assert_eq!(mtp.num_layers(), 1);
    assert_eq!(model.kv_layout().layers.len(), 2);
    assert_eq!(mtp.kv_layout().layers, [LayerKv::Mla { kv_lora_rank: 32, qk_rope_head_dim: 16 }]);
    assert_eq!(*mtp.kv_layout(), models::mtp_kv_layout(model.config()));
    assert!(model.unknown_tensors().is_empty(), "{:?}", model.unknown_tensors());
    let kv = &mut KvCache::new(&Device::Cpu, mtp.kv_layout(), 1, 4, DType::F32).unwrap();
    let batch = Pool::for_tokens(&*model, 1, 4).batch(&mut [(&mut Sequence::new(&[1]), 1)]);
    let hidden = Tensor::zeros(&Device::Cpu, DType::F32, &[1, 64]).unwrap();
    let error = mtp.forward(&mut StepContext::new(&Device::Cpu), 1, &batch, &hidden, kv).unwrap_err();
    assert_eq!(error.to_string(), "depth has 1, expected below 1");
}

#[test]
fn models_without_the_layer_have_none() {
    assert!(load(&Fixture::open("deepseek_v3")).mtp().is_none());
}
