//! Building models from configs the fixtures do not have: layer patterns, ties, strangers among the tensors,
//! contradictions, progress.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "support/random_model.rs"]
mod random_model;

use std::sync::Arc;

use checkpoint::{Checkpoint, LoadProgress};
use kernels::{DType, Device, Tensor, ops, reference};
use models::{Footprint, Model, ModelOptions, Probe, StepContext, load_with};
use random_model::{awkward_v3, random_model};
use serde_json::json;
use support::{Pool, Sequence, load_rank, prompt_logits};
use testkit::{Fixture, Random, RandomCheckpoint, assert_close};

fn load(checkpoint: &Checkpoint) -> models::Result<Box<dyn Model>> {
    load_rank(checkpoint, Arc::new(comm::Solo))
}

fn load_random(random: &RandomCheckpoint) -> models::Result<Box<dyn Model>> {
    let (_dir, checkpoint) = random.open();
    load(&checkpoint)
}

fn prompt(count: usize, vocab: usize) -> Vec<u32> {
    let mut random = Random::new(5);
    (0..count).map(|_| random.below(vocab) as u32).collect()
}

/// Layers whose router spoke.
#[derive(Default)]
struct RoutedLayers(Vec<usize>);

impl Probe for RoutedLayers {
    fn router(&mut self, layer: usize, _: &Tensor, routing: &ops::Routing) {
        assert_eq!(routing.experts.dim(1), 2);
        self.0.push(layer);
    }
}

#[test]
fn awkward_sizes_and_layer_pattern() {
    let model = load_random(&random_model(&awkward_v3(), 1)).unwrap();
    let tokens = prompt(41, 101);
    let mut routed = RoutedLayers::default();
    let mut ctx = StepContext::with_probe(&Device::Cpu, &mut routed);
    Pool::for_tokens(&*model, 41, 4).step(&*model, &mut ctx, &mut [(&mut Sequence::new(&tokens), 41)]);
    assert_eq!(routed.0, [2, 4], "every second layer from the first on");
    let whole = prompt_logits(&*model, &tokens);
    for (block_size, chunk) in [(1, 1), (4, 7), (5, 40), (64, 13)] {
        let mut pool = Pool::for_tokens(&*model, 41, block_size);
        let logits = pool.prefill(&*model, &mut Sequence::new(&tokens), chunk);
        let what = format!("blocks of {block_size}, chunks of {chunk}");
        assert_close(&what, &logits, &whole, 101, 1e-5);
    }
}

#[test]
fn a_model_without_shared_experts() {
    let mut config = awkward_v3();
    config["n_shared_experts"] = json!(0);
    let model = load_random(&random_model(&config, 2)).unwrap();
    assert!(model.unknown_tensors().is_empty());
    assert!(prompt_logits(&*model, &prompt(9, 101)).iter().all(|v| v.is_finite()));
}

#[test]
fn a_tied_head_is_the_embedding() {
    let mut config = awkward_v3();
    config["tie_word_embeddings"] = json!(true);
    let mut random = random_model(&config, 3);
    let tied = load_random(&random).unwrap();
    let logits = prompt_logits(&*tied, &prompt(9, 101));
    // The same weights, untied.
    config["tie_word_embeddings"] = json!(false);
    let mut untied = random_model(&config, 3);
    let embedding = random.values("model.embed_tokens.weight");
    for name in random.names() {
        let (shape, values) = (random.shape(&name), random.values(&name));
        untied.tensor(&name, &shape, &values);
    }
    untied.tensor("lm_head.weight", &[101, 52], &embedding);
    let expected = prompt_logits(&*load_random(&untied).unwrap(), &prompt(9, 101));
    assert_close("tied head", &logits, &expected, 101, 0.0);
    // A second copy under the head's name is no stranger.
    random.tensor("lm_head.weight", &[101, 52], &embedding);
    assert!(load_random(&random).unwrap().unknown_tensors().is_empty());
}

/// Both epsilons where they matter: latents so small that they are of the size of the epsilon.
#[test]
fn the_latent_norm_keeps_its_own_epsilon() {
    let mut config = awkward_v3();
    config["rms_norm_eps"] = json!(1e-3);
    let mut random = random_model(&config, 4);
    let name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
    let small: Vec<f32> = random.values(name).iter().map(|v| v * 1e-3).collect();
    random.tensor(name, &[37, 52], &small);
    let model = load_random(&random).unwrap();
    let tokens = prompt(6, 101);
    let mut pool = Pool::for_tokens(&*model, 6, 16);
    pool.prefill(&*model, &mut Sequence::new(&tokens), 6);
    let cache = pool.kv.layers()[0].tensors()[0].to_vec_f32();
    let rows: Vec<&[f32]> = cache.chunks(37).filter(|row| !row[0].is_nan()).collect();
    assert_eq!(rows.len(), 6);

    let embedded = reference::embedding(&random.values("model.embed_tokens.weight"), 52, &tokens);
    let normed =
        reference::rms_norm(&embedded, &random.values("model.layers.0.input_layernorm.weight"), 52, 1e-3);
    let latents = reference::linear(&normed, &small, None, 52, 37);
    let weight = random.values("model.layers.0.self_attn.kv_a_layernorm.weight");
    for (row, latent) in rows.iter().zip(latents.chunks(37)) {
        let expected = reference::rms_norm(&latent[..27], &weight, 27, 1e-6);
        assert_close("latent", &row[..27], &expected, 27, 1e-4);
        // What the config's epsilon would have given is far away.
        let wrong = reference::rms_norm(&latent[..27], &weight, 27, 1e-5);
        assert!(testkit::max_abs_diff(&row[..27], &wrong) > 0.05);
    }
}

/// The residual stream before and after the final norm.
#[derive(Default)]
struct FinalNorm {
    before: Vec<f32>,
    after: Vec<f32>,
}

impl Probe for FinalNorm {
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        match name {
            "layer4" => self.before = hidden.to_vec_f32(),
            "final_norm" => self.after = hidden.to_vec_f32(),
            _ => {}
        }
    }
}

#[test]
fn the_final_norm_obeys_the_config() {
    let mut config = awkward_v3();
    config["rms_norm_eps"] = json!(0.5);
    let random = random_model(&config, 11);
    let model = load_random(&random).unwrap();
    let mut heard = FinalNorm::default();
    let mut ctx = StepContext::with_probe(&Device::Cpu, &mut heard);
    let mut sequence = Sequence::new(&prompt(6, 101));
    Pool::for_tokens(&*model, 6, 4).step(&*model, &mut ctx, &mut [(&mut sequence, 6)]);
    let expected = reference::rms_norm(&heard.before, &random.values("model.norm.weight"), 52, 0.5);
    assert_close("final norm", &heard.after, &expected, 52, 1e-5);
}

#[test]
fn strangers_are_reported() {
    let mut random = random_model(&awkward_v3(), 6);
    random
        .vector("model.layers.0.self_attn.rotary_emb.inv_freq", 5, 1.0)
        .vector("model.layers.0.self_attn.o_proj.bias", 52, 0.0)
        .vector("model.layers.5.enorm.weight", 52, 1.0);
    let model = load_random(&random).unwrap();
    let expected = ["model.layers.0.self_attn.o_proj.bias", "model.layers.5.enorm.weight"];
    assert_eq!(model.unknown_tensors(), expected);
    for fixture in Fixture::all() {
        let model = load(&fixture.checkpoint()).unwrap();
        assert!(model.unknown_tensors().is_empty(), "{}: {:?}", fixture.name(), model.unknown_tensors());
    }
}

/// MTP layers are read for those who guess with them; for the others they cost nothing, and are no news either.
#[test]
fn mtp_layers_are_read_on_demand() {
    for name in ["deepseek_v3_mtp", "deepseek_v4"] {
        let checkpoint = Fixture::open(name).checkpoint();
        let [with, without] = [true, false].map(|mtp| {
            let options = ModelOptions { mtp, ..Default::default() };
            let mut total = 0;
            let mut progress = |done: LoadProgress| {
                assert!(done.bytes_done <= done.bytes_total);
                total = done.bytes_total;
            };
            let model = load_with(&checkpoint, &Device::Cpu, Arc::new(comm::Solo), options, &mut progress);
            let model = model.unwrap();
            assert_eq!((model.mtp().is_some(), model.unknown_tensors()), (mtp, &[][..]), "{name}");
            let plan = Footprint::new(&checkpoint, 1, DType::F32, 0, 16, options).unwrap().weight_bytes;
            (model.weight_bytes() as u64, total, plan)
        });
        let stored = with.1 - without.1;
        assert!(
            (100_000..300_000).contains(&stored),
            "{name}: {stored} bytes in the layer, its copies apart"
        );
        // Norms stored in bf16 are widened.
        for saved in [with.0 - without.0, with.2 - without.2] {
            assert!((stored..stored + stored / 50).contains(&saved), "{name}: {saved} of {stored} bytes");
        }
    }
}

/// A copy of the embedding beside V4's draft layer is no news; a DSpark drafter's tensors are refused.
#[test]
fn draft_tensors_of_v4() {
    let fixture = Fixture::open("deepseek_v4");
    let dir = fixture.copy_with("mtp.0.head.weight", 64);
    let model = load(&Checkpoint::open(dir.path()).unwrap()).unwrap();
    assert!(model.unknown_tensors().is_empty(), "{:?}", model.unknown_tensors());
    let dir = fixture.copy_with("mtp.0.markov_head.markov_w1.weight", 64);
    let error = load(&Checkpoint::open(dir.path()).unwrap()).err().unwrap().to_string();
    assert!(error.contains("DSpark") && error.contains("mtp.0.markov_head.markov_w1.weight"), "{error}");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let mut random = random_model(&awkward_v3(), 7);
    random.remove("model.layers.2.mlp.experts.4.up_proj.weight");
    let error = load_random(&random).err().expect("an error").to_string();
    assert!(error.contains("model.layers.2.mlp.experts.4.up_proj.weight"), "{error}");
    let mut random = random_model(&awkward_v3(), 7);
    random.matrix("model.layers.3.self_attn.kv_b_proj.weight", [27, 90]);
    let error = load_random(&random).err().expect("an error").to_string();
    assert!(error.contains("model.layers.3.self_attn.kv_b_proj.weight"), "{error}");
}

#[test]
fn configs_that_no_layer_computes_are_refused() {
    let refusal = |key: &str, value: serde_json::Value| {
        let mut config = awkward_v3();
        config[key] = value;
        load_random(&random_model(&config, 8)).err().expect("an error").to_string()
    };
    let error = refusal("scoring_func", json!("softmax"));
    assert!(error.contains("scoring_func") && error.contains("sigmoid"), "{error}");
    let error = refusal("topk_method", json!("greedy"));
    assert!(error.contains("topk_method") && error.contains("noaux_tc"), "{error}");
}

/// A checkpoint saved without its MTP layers is a model without MTP, whatever the config announces.
#[test]
fn absent_mtp_layers_are_no_error() {
    let mut config = awkward_v3();
    config["num_nextn_predict_layers"] = json!(1);
    let mut random = random_model(&config, 9);
    assert!(load_random(&random).unwrap().mtp().is_some());
    for name in random.names().iter().filter(|name| name.starts_with("model.layers.5.")) {
        random.remove(name);
    }
    assert!(load_random(&random).unwrap().mtp().is_none());
}

#[test]
fn progress_rises_to_the_whole_checkpoint() {
    for name in ["deepseek_v3", "deepseek_v3_fp8", "qwen2_distill"] {
        let checkpoint = Fixture::open(name).checkpoint();
        let mut reports: Vec<LoadProgress> = Vec::new();
        models::load(&checkpoint, &Device::Cpu, Arc::new(comm::Solo), &mut |progress| reports.push(progress))
            .unwrap();
        assert!(reports.windows(2).all(|pair| {
            pair[0].tensors_done < pair[1].tensors_done && pair[0].bytes_done < pair[1].bytes_done
        }));
        let last = reports.last().expect("a report");
        assert_eq!((last.tensors_done, last.bytes_done), (last.tensors_total, last.bytes_total), "{name}");
    }
}

#[test]
fn the_embedding_is_shared_with_the_tied_head_in_memory() {
    let mut config = awkward_v3();
    config["tie_word_embeddings"] = json!(true);
    let model = load_random(&random_model(&config, 10)).unwrap();
    assert_eq!(model.weight_bytes() as u64, 4 * model.num_parameters());
}
