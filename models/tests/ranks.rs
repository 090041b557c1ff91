//! Tensor parallelism on threads: the golden logits on every rank, the same bits on all of them, and no rank reads
//! what it does not keep.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "support/random_model.rs"]
mod random_model;

use std::path::Path;

use checkpoint::{Checkpoint, ModelConfig};
use kernels::{Device, Tensor, ops};
use models::{LayerKv, Model, StepContext};
use random_model::{awkward_v3, random_model};
use serde_json::json;
use support::{Pool, Sequence, load_rank, prompt_logits, tolerance};
use testkit::{Fixture, RandomCheckpoint, assert_close};

/// What `run` finds on each of `size` ranks of the model in `dir`.
fn on_ranks<R: Send>(dir: &Path, size: usize, run: impl Fn(&dyn Model) -> R + Sync) -> Vec<R> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    testkit::ranks(size, |comm| run(&*load_rank(&checkpoint, comm).unwrap()))
}

/// Logits of `tokens` over `size` ranks, after checking that all ranks have the same bits.
fn logits(dir: &Path, size: usize, tokens: &[u32]) -> Vec<f32> {
    let mut all = on_ranks(dir, size, |model| prompt_logits(model, tokens));
    let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (rank, other) in all.iter().enumerate() {
        assert!(bits(other) == bits(&all[0]), "rank {rank} of {size} differs from rank 0");
    }
    all.swap_remove(0)
}

#[test]
fn every_fixture_gives_its_golden_logits_on_two_three_and_four_ranks() {
    for fixture in Fixture::all() {
        let golden = fixture.golden();
        let vocab = fixture.checkpoint().config().common().vocab_size;
        for size in [2, 3, 4] {
            for n in [1, 33] {
                let found = logits(fixture.dir(), size, &golden.u32s(&format!("p{n}.ids")));
                let what = format!("{} p{n} on {size} ranks", fixture.name());
                assert_close(&what, &found, &golden.f32s(&format!("p{n}.logits")), vocab, tolerance(n));
            }
        }
    }
}

#[test]
fn key_heads_fewer_than_ranks_are_kept_by_several() {
    for name in ["llama3_distill", "qwen2_distill"] {
        let (fixture, golden) = (Fixture::open(name), Fixture::open(name).golden());
        for size in [5, 8] {
            let found = logits(fixture.dir(), size, &golden.u32s("p7.ids"));
            let what = format!("{name} on {size} ranks");
            assert_close(&what, &found, &golden.f32s("p7.logits"), 256, tolerance(7));
        }
        let layouts = on_ranks(fixture.dir(), 5, |model| model.kv_layout().layers[0]);
        assert!(layouts.iter().all(|kv| *kv == LayerKv::Gqa { num_kv_heads: 1, head_dim: 8 }), "{layouts:?}");
    }
}

/// Five heads, an odd vocabulary, odd widths, seven experts: nothing divides.
#[test]
fn indivisible_sizes_give_one_ranks_logits() {
    for tied in [false, true] {
        let mut config = awkward_v3();
        config["num_attention_heads"] = json!(5);
        config["num_key_value_heads"] = json!(5);
        config["tie_word_embeddings"] = json!(tied);
        let random = random_model(&config, 21);
        let (dir, _checkpoint) = random.open();
        let tokens = [3, 100, 0, 57, 99, 31, 4, 4, 90];
        let expected = logits(dir.path(), 1, &tokens);
        for size in [2, 3, 4, 5] {
            let what = format!("tied {tied}, {size} ranks");
            assert_close(&what, &logits(dir.path(), size, &tokens), &expected, 101, 1e-4);
        }
    }
}

/// A llama with biases everywhere, seven query heads on one key head, and an odd width.
#[test]
fn biases_are_added_once() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": true, "mlp_bias": false,
        "num_hidden_layers": 2, "hidden_size": 28, "num_attention_heads": 7, "num_key_value_heads": 1,
        "head_dim": 4, "intermediate_size": 37, "vocab_size": 50, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512, "rope_theta": 10_000, "tie_word_embeddings": false,
    });
    let mut random = RandomCheckpoint::new(config, 3);
    random.matrix("model.embed_tokens.weight", [50, 28]).matrix("lm_head.weight", [50, 28]);
    random.vector("model.norm.weight", 28, 1.0);
    for i in 0..2 {
        let at = |name: &str| format!("model.layers.{i}.{name}");
        for (name, shape) in
            [("q_proj", [28, 28]), ("k_proj", [4, 28]), ("v_proj", [4, 28]), ("o_proj", [28, 28])]
        {
            random.matrix(&at(&format!("self_attn.{name}.weight")), shape);
            random.vector(&at(&format!("self_attn.{name}.bias")), shape[0], 0.5);
        }
        for (name, shape) in [("gate_proj", [37, 28]), ("up_proj", [37, 28]), ("down_proj", [28, 37])] {
            random.matrix(&at(&format!("mlp.{name}.weight")), shape);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            random.vector(&at(&format!("{norm}.weight")), 28, 1.0);
        }
    }
    let (dir, _checkpoint) = random.open();
    let tokens = [7, 0, 49, 25, 24, 26];
    let expected = logits(dir.path(), 1, &tokens);
    for size in [2, 3, 7] {
        assert_close(&format!("{size} ranks"), &logits(dir.path(), size, &tokens), &expected, 50, 1e-4);
    }
}

#[test]
fn more_ranks_than_heads_are_refused_before_anything_is_read() {
    for name in ["deepseek_v3", "llama3_distill"] {
        let checkpoint = Fixture::open(name).checkpoint();
        let heads = checkpoint.config().common().num_attention_heads;
        let errors =
            testkit::ranks(heads + 1, |comm| load_rank(&checkpoint, comm).err().unwrap().to_string());
        let expected = format!(
            "num_attention_heads is {heads} and cannot be split over {} ranks: use at most {heads}",
            heads + 1
        );
        assert!(errors.iter().all(|error| *error == expected), "{errors:?}");
        assert_eq!(checkpoint.bytes_read(), 0);
    }
}

/// Bytes of a tensor that a rank of `size` may read: its share if it is cut, all of it if not. Key heads are not cut
/// into more parts than there are.
fn share(checkpoint: &Checkpoint, name: &str, size: usize) -> f64 {
    let bytes = checkpoint.info(name).unwrap().size_bytes as f64;
    let is_one_of = |names: &[&str]| names.iter().any(|part| name.contains(&format!(".{part}.")));
    let heads = checkpoint.config().common().num_key_value_heads;
    let groups = match checkpoint.config() {
        ModelConfig::DeepseekV4(config) => config.o_groups,
        ModelConfig::Deepseek(_) | ModelConfig::Llama(_) => 1,
    };
    if is_one_of(&["k_proj", "v_proj"]) {
        bytes / size.min(heads) as f64
    } else if is_one_of(&["wo_b"]) {
        bytes / size.min(groups) as f64
    } else if is_one_of(&["indexer"]) {
        bytes
    } else if is_one_of(&["wq_b", "wo_a", "w1", "w2", "w3"])
        || ["embed.weight", "head.weight"].contains(&name)
        || name.ends_with(".attn_sink")
        || is_one_of(&["embed_tokens", "q_proj", "q_b_proj", "kv_b_proj", "o_proj"])
        || is_one_of(&["gate_proj", "up_proj", "down_proj"])
        || name == "lm_head.weight"
    {
        bytes / size as f64
    } else {
        bytes
    }
}

/// MTP layers store copies of the table and the head, which nobody reads.
fn is_read(name: &str) -> bool {
    !name.contains("layers") || !(name.contains("embed_tokens") || name.contains("shared_head.head"))
}

#[test]
fn ranks_read_their_share_and_what_is_replicated() {
    for fixture in Fixture::all() {
        for size in [1, 2, 4] {
            let read = testkit::ranks(size, |comm| {
                let checkpoint = fixture.checkpoint();
                load_rank(&checkpoint, comm).unwrap();
                checkpoint.bytes_read() as f64
            });
            let checkpoint = fixture.checkpoint();
            let names = checkpoint.names().filter(|name| is_read(name));
            let allowed: f64 = names.map(|name| share(&checkpoint, name, size)).sum();
            let what = format!("{} on {size} ranks: {read:?}, share {allowed}", fixture.name());
            if ["deepseek_v3_fp8", "deepseek_v4_quant"].contains(&fixture.name()) {
                // 136 or 160 channels in blocks of 128 have no even parts: together the ranks read no more all the same.
                assert!(read.iter().sum::<f64>() <= 1.02 * allowed * size as f64, "{what}");
            } else {
                assert!(read.iter().all(|&read| read <= 1.02 * allowed), "{what}");
            }
            assert!(read.iter().sum::<f64>() >= 0.999 * allowed * size as f64, "{what}");
        }
    }
}

#[test]
fn draft_layers_work_on_ranks() {
    for name in ["deepseek_v3_mtp", "deepseek_v4"] {
        draft_layer_works_on_ranks(name);
    }
}

fn draft_layer_works_on_ranks(name: &str) {
    let fixture = Fixture::open(name);
    let (golden, tokens) = (fixture.golden(), fixture.golden().u32s("p33.ids"));
    for size in [2, 3] {
        let all = on_ranks(fixture.dir(), size, |model| {
            let mut pool = Pool::for_tokens(model, tokens.len(), 4);
            let mut ctx = StepContext::new(&Device::Cpu);
            let hidden = pool.step(model, &mut ctx, &mut [(&mut Sequence::new(&tokens), tokens.len())]);
            let mut draft = Sequence::new(&tokens[1..]);
            let rows: Vec<u32> = (0..32).collect();
            let hidden =
                ops::gather_rows(&hidden, &Tensor::from_u32(&Device::Cpu, &[32], &rows).unwrap()).unwrap();
            let batch = pool.batch(&mut [(&mut draft, 32)]);
            let mtp = model.mtp().unwrap();
            let drafted = mtp.forward(&mut ctx, 0, &batch, &hidden, pool.mtp_kv.as_mut().unwrap()).unwrap();
            mtp.logits(0, &drafted).unwrap().to_vec_f32()
        });
        for found in all {
            assert_close(name, &found, &golden.f32s("p33.mtp_logits"), 256, 3e-4);
        }
    }
}

/// Every tensor of a checkpoint is known on every rank, whatever it keeps of it, and weights are not kept twice.
#[test]
fn ranks_know_all_tensors_and_keep_their_part() {
    for fixture in Fixture::all() {
        let whole = on_ranks(fixture.dir(), 1, |model| model.weight_bytes())[0];
        for (unknown, bytes) in
            on_ranks(fixture.dir(), 2, |model| (model.unknown_tensors().to_vec(), model.weight_bytes()))
        {
            assert!(unknown.is_empty(), "{}: {unknown:?}", fixture.name());
            assert!(bytes < whole, "{}: {bytes} of {whole}", fixture.name());
        }
    }
}
