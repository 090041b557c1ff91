//! The paged cache: greedy decoding through it, sequences that share a batch and a pool, and what a step may touch.

#![allow(clippy::unwrap_used)]

mod support;

use kernels::{DType, Device, Tensor, ops};
use models::{KvCache, LayerCache, Model, StepContext};
use support::{Pool, Sequence, argmax, load, prompt_logits, tolerance};
use testkit::{Fixture, Random, assert_close};

/// Logits of the last row of `hidden`.
fn last_logits(model: &dyn Model, hidden: &Tensor) -> Vec<f32> {
    let last = Tensor::from_u32(&Device::Cpu, &[1], &[hidden.dim(0) as u32 - 1]).unwrap();
    model.logits(&ops::gather_rows(hidden, &last).unwrap()).unwrap().to_vec_f32()
}

/// Prefills the greedy prompt in chunks and decodes; the tokens, and the logits that chose each.
fn decode(
    model: &dyn Model,
    prompt: &[u32],
    steps: usize,
    pool: &mut Pool,
    chunk: usize,
) -> (Vec<u32>, Vec<f32>) {
    let mut ctx = StepContext::new(&Device::Cpu);
    let mut sequence = Sequence::new(prompt);
    let (mut tokens, mut all_logits) = (Vec::new(), Vec::new());
    while tokens.len() < steps {
        let new = chunk.min(sequence.tokens.len() - sequence.cached);
        let hidden = pool.step(model, &mut ctx, &mut [(&mut sequence, new)]);
        if sequence.cached == sequence.tokens.len() {
            let logits = last_logits(model, &hidden);
            tokens.push(argmax(&logits));
            sequence.tokens.extend(tokens.last());
            all_logits.extend(logits);
        }
    }
    (tokens, all_logits)
}

#[test]
fn greedy_tokens_are_exact() {
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let (prompt, expected) = (golden.u32s("greedy.prompt"), golden.u32s("greedy.tokens"));
        let vocab = model.config().common().vocab_size;
        for (block_size, chunk) in [(1, 33), (4, 7), (16, 33)] {
            let what = format!("{} greedy, blocks of {block_size}, chunks of {chunk}", fixture.name());
            let mut pool = Pool::for_tokens(&*model, prompt.len() + expected.len(), block_size);
            let (tokens, logits) = decode(&*model, &prompt, expected.len(), &mut pool, chunk);
            assert_eq!(tokens, expected, "{what}");
            if golden.contains("greedy.logits") {
                let diff = assert_close(&what, &logits, &golden.f32s("greedy.logits"), vocab, 1e-3);
                println!("{what}: {diff:.1e}");
            }
        }
    }
}

#[test]
fn a_bf16_cache_stays_close() {
    for name in ["deepseek_v2_lite", "llama3_distill"] {
        let fixture = Fixture::open(name);
        let (model, golden) = (load(&fixture), fixture.golden());
        let tokens = golden.u32s("p33.ids");
        let mut pool = Pool::new(&*model, DType::BF16, 20, 4, 7);
        let logits = pool.prefill(&*model, &mut Sequence::new(&tokens), 7);
        let expected = golden.f32s("p33.logits");
        let mut diffs: Vec<f32> = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect();
        diffs.sort_by(f32::total_cmp);
        // Rounding a row to 8 bits of mantissa may flip a near tie of the router: the median says what rounding costs.
        let median = diffs[diffs.len() / 2];
        assert!(median > 0.0 && median < 0.03, "{name}: median difference {median}");
    }
}

/// Every sequence of a batch gets the logits it gets alone, to the bit, whatever the others do.
#[test]
fn a_batch_changes_nothing_for_its_sequences() {
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let vocab = model.config().common().vocab_size;
        let prompts = ["p33.ids", "p7.ids", "p1.ids"].map(|key| golden.u32s(key));
        let mut sequences = prompts.each_ref().map(|p| Sequence::new(p));
        let mut found = [(); 3].map(|()| Vec::new());
        let mut pool = Pool::for_tokens(&*model, 64, 4);
        let mut ctx = StepContext::new(&Device::Cpu);
        let mut random = Random::new(11);
        while sequences.iter().any(|s| s.cached < s.tokens.len()) {
            // Each waiting sequence advances by a random chunk: prefill, decode and late arrivals in one batch.
            let (mut work, mut rows) = (Vec::new(), Vec::new());
            for (i, sequence) in sequences.iter_mut().enumerate() {
                let new = random.below(sequence.tokens.len() - sequence.cached + 1);
                if new > 0 {
                    work.push((sequence, new));
                    rows.push((i, new));
                }
            }
            if work.is_empty() {
                continue;
            }
            let hidden = pool.step(&*model, &mut ctx, &mut work);
            let logits = model.logits(&hidden).unwrap().to_vec_f32();
            let mut at = 0;
            for (i, new) in rows {
                found[i].extend_from_slice(&logits[at..at + new * vocab]);
                at += new * vocab;
            }
        }
        for (prompt, found) in prompts.iter().zip(&found) {
            let what = format!("{} prompt of {} in a batch", fixture.name(), prompt.len());
            let alone = prompt_logits(&*model, prompt);
            assert_close(&what, found, &alone, vocab, 0.0);
            let golden = golden.f32s(&format!("p{}.logits", prompt.len()));
            assert_close(&what, found, &golden, vocab, tolerance(prompt.len()));
        }
    }
}

#[test]
fn a_step_writes_its_own_rows_only() {
    for name in ["deepseek_v3", "deepseek_v32", "qwen2_distill"] {
        let fixture = Fixture::open(name);
        let (model, golden) = (load(&fixture), fixture.golden());
        let mut pool = Pool::new(&*model, DType::F32, 12, 4, 3);
        let mut sequence = Sequence::new(&golden.u32s("p33.ids")[..10]);
        pool.prefill(&*model, &mut sequence, 10);
        let written: Vec<usize> = (0..10).map(|i| sequence.blocks[i / 4] as usize * 4 + i % 4).collect();
        for layer in pool.kv.layers().iter().flat_map(LayerCache::tensors) {
            for (row, values) in layer.to_vec_f32().chunks(layer.dim(2)).enumerate() {
                let finite = values.iter().all(|v| v.is_finite());
                assert_eq!(finite, written.contains(&row), "{name}: row {row}");
                assert!(finite || values.iter().all(|v| v.is_nan()), "{name}: row {row} is half written");
            }
        }
    }
}

#[test]
fn a_context_serves_many_steps_and_models() {
    let mut ctx = StepContext::new(&Device::Cpu);
    for name in ["llama3_distill", "deepseek_coder_linear", "deepseek_v3"] {
        let fixture = Fixture::open(name);
        let (model, golden) = (load(&fixture), fixture.golden());
        for n in [7, 33] {
            let tokens = golden.u32s(&format!("p{n}.ids"));
            let mut pool = Pool::for_tokens(&*model, n, 4);
            let hidden = pool.step(&*model, &mut ctx, &mut [(&mut Sequence::new(&tokens), n)]);
            let logits = model.logits(&hidden).unwrap().to_vec_f32();
            let vocab = model.config().common().vocab_size;
            assert_close(name, &logits, &golden.f32s(&format!("p{n}.logits")), vocab, tolerance(n));
        }
    }
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let [v3, llama] = ["deepseek_v3", "llama3_distill"].map(|name| load(&Fixture::open(name)));
    let mut pool = Pool::for_tokens(&*v3, 4, 4);
    pool.kv = KvCache::new(&Device::Cpu, llama.kv_layout(), 4, 4, DType::F32).unwrap();
    let batch = pool.batch(&mut [(&mut Sequence::new(&[1, 2]), 2)]);
    let error = v3.forward(&mut StepContext::new(&Device::Cpu), &batch, &mut pool.kv).unwrap_err();
    assert_eq!(error.to_string(), "kv has 3, expected 4 layers");
    let error = KvCache::new(&Device::Cpu, llama.kv_layout(), 4, 4, DType::U32).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kv dtype has U32, expected F32, BF16, or F8_E4M3 for rows that all heads share"
    );
    let error = KvCache::new(&Device::Cpu, llama.kv_layout(), 4, 4, DType::F8E4M3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kv dtype has F8_E4M3, expected F32, BF16, or F8_E4M3 for rows that all heads share"
    );
    assert!(KvCache::new(&Device::Cpu, v3.kv_layout(), 4, 4, DType::F8E4M3).is_ok());
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let model = load(&Fixture::open("deepseek_v2_lite"));
    let mut pool = Pool::for_tokens(&*model, 4, 4);
    let batch = pool.batch(&mut [(&mut Sequence::new(&[1, 256]), 2)]);
    let error = model.forward(&mut StepContext::new(&Device::Cpu), &batch, &mut pool.kv).unwrap_err();
    assert!(error.to_string().contains("token ids below 256"), "{error}");
}
