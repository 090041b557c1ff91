//! GGUF checkpoints: what the metadata becomes, where each tensor is found, and how much of it is read. Catches: rows
//! of query heads left as rotated pairs, a transposed `kv_b`, a slice that cuts a block, metadata that is believed.

#![allow(clippy::unwrap_used)]

#[path = "support/gguf_file.rs"]
mod gguf_file;

use std::path::{Path, PathBuf};

use checkpoint::{
    Checkpoint, DeepseekConfig, DeepseekGeneration, ModelConfig, RopeScaling, ScoringFunc, Slice, TopkMethod,
};
use gguf_file::{GgufFile, Meta, TensorDraft, f32_tensor, write};
use kernels::{DType, GgmlType, WeightFormat};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures/gguf").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn deepseek(checkpoint: &Checkpoint) -> &DeepseekConfig {
    let ModelConfig::Deepseek(config) = checkpoint.config() else { panic!("a DeepSeek config") };
    config
}

/// One layer of llama: two query heads of four channels, one key head.
fn llama() -> GgufFile {
    let numbers = |n: usize, start: usize| (start..start + n).map(|i| i as f32).collect::<Vec<_>>();
    let tensor = |name: &str, ne: &[u64], start: usize| {
        f32_tensor(name, ne, &numbers(ne.iter().product::<u64>() as usize, start))
    };
    GgufFile {
        meta: vec![
            ("general.architecture", Meta::Text("llama")),
            ("llama.block_count", Meta::U32(1)),
            ("llama.context_length", Meta::U32(64)),
            ("llama.embedding_length", Meta::U32(8)),
            ("llama.feed_forward_length", Meta::U32(16)),
            ("llama.attention.head_count", Meta::U32(2)),
            ("llama.attention.head_count_kv", Meta::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
            ("tokenizer.ggml.model", Meta::Text("gpt2")),
            ("tokenizer.ggml.tokens", Meta::Texts(vec!["a", "b", "<e>"])),
            ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 3])),
            ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
            ("tokenizer.ggml.add_bos_token", Meta::Bool(true)),
        ],
        tensors: vec![
            tensor("token_embd.weight", &[8, 3], 0),
            tensor("output_norm.weight", &[8], 0),
            tensor("blk.0.attn_norm.weight", &[8], 0),
            tensor("blk.0.attn_q.weight", &[8, 8], 100),
            tensor("blk.0.attn_k.weight", &[8, 4], 0),
            tensor("blk.0.attn_v.weight", &[8, 4], 0),
        ],
    }
}

#[test]
fn llama_from_its_metadata() {
    let checkpoint = llama().open().unwrap();
    let ModelConfig::Llama(config) = checkpoint.config() else { panic!("llama") };
    let common = &config.common;
    assert_eq!((common.vocab_size, common.head_dim, common.num_key_value_heads), (3, 4, 1));
    assert_eq!((common.rms_norm_eps, common.rope_theta), (1e-5, 10_000.0));
    assert!(common.tie_word_embeddings && !config.qkv_bias);
    assert_eq!((common.rope_scaling, common.eos_token_ids.as_slice()), (RopeScaling::None, &[2][..]));
    let tokenizer = checkpoint.gguf_tokenizer().unwrap();
    assert_eq!((tokenizer.tokens.len(), tokenizer.token_types.as_slice()), (3, &[1, 1, 3][..]));
    assert_eq!((tokenizer.add_bos_token, tokenizer.eos_token_id), (Some(true), Some(2)));
}

#[test]
fn rows_of_query_heads_come_out_of_pairs() {
    let checkpoint = llama()
        .with_tensor(f32_tensor("blk.0.attn_q.bias", &[8], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
        .open()
        .unwrap();
    let q = "model.layers.0.self_attn.q_proj";
    let first = |weight: kernels::Weight| {
        weight.to_vec_f32().chunks(8).map(|row| (row[0] as usize - 100) / 8).collect::<Vec<_>>()
    };
    // Rows 0 and 1 of the file are the first pair of head 0, its channels 0 and 2.
    assert_eq!(first(checkpoint.weight(q, [8, 8]).unwrap()), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(first(checkpoint.weight_slice(q, [8, 8], &Slice::Rows(4..8)).unwrap()), [4, 6, 5, 7]);
    let bias = checkpoint.vector_f32(&format!("{q}.bias"), 8, 1..6).unwrap().to_vec_f32();
    assert_eq!(bias, [2.0, 1.0, 3.0, 4.0, 6.0]);
    let columns = checkpoint.weight_slice(q, [8, 8], &Slice::Cols(2..4)).unwrap().to_vec_f32();
    assert_eq!(columns[..6], [102.0, 103.0, 118.0, 119.0, 110.0, 111.0]);
    let v = checkpoint.weight("model.layers.0.self_attn.v_proj", [4, 8]).unwrap().to_vec_f32();
    assert_eq!((v[8], v[16]), (8.0, 16.0), "values are never turned");
    let error = checkpoint.bytes(&format!("{q}.weight")).unwrap_err().to_string();
    assert!(error.contains("rows in order"), "{error}");
}

#[test]
fn llama3_scaling_is_a_tensor() {
    let divisors = f32_tensor("rope_freqs.weight", &[2], &[1.0, 8.0]);
    let checkpoint = llama().with_tensor(divisors.clone()).open().unwrap();
    assert_eq!(checkpoint.config().common().rope_scaling, RopeScaling::Divisors);
    let both = llama().with_tensor(divisors).with("llama.rope.scaling.type", Meta::Text("linear"));
    let error = both.with("llama.rope.scaling.factor", Meta::F32(4.0)).open().unwrap_err().to_string();
    assert!(error.contains("llama.rope.scaling.type: expected `none`"), "{error}");
    for scaled in [
        llama()
            .with("llama.rope.scaling.type", Meta::Text("linear"))
            .with("llama.rope.scaling.factor", Meta::F32(4.0)),
        llama().with("llama.rope.scale_linear", Meta::F32(4.0)),
    ] {
        let scaling = scaled.open().unwrap().config().common().rope_scaling;
        assert_eq!(scaling, RopeScaling::Linear { factor: 4.0 });
    }
}

#[test]
fn deepseek2_from_its_metadata() {
    let checkpoint = open("v3_s-Q8_0");
    let config = deepseek(&checkpoint);
    let (mla, moe) = (config.mla.unwrap(), config.moe.unwrap());
    assert_eq!(config.generation, DeepseekGeneration::V3);
    assert_eq!((mla.q_lora_rank, mla.kv_lora_rank), (Some(32), 32));
    assert_eq!((mla.qk_nope_head_dim, mla.qk_rope_head_dim, mla.v_head_dim), (32, 16, 32));
    assert_eq!((moe.scoring_func, moe.topk_method), (ScoringFunc::Sigmoid, TopkMethod::NoauxTc));
    assert_eq!((moe.n_routed_experts, moe.num_experts_per_tok, moe.n_shared_experts), (8, 3, 1));
    assert_eq!((moe.n_group, moe.topk_group, moe.first_k_dense_replace), (4, 2, 1));
    assert_eq!((moe.norm_topk_prob, moe.routed_scaling_factor), (true, 2.5));
    let RopeScaling::Yarn { factor, mscale, mscale_all_dim, beta_fast, beta_slow, .. } =
        config.common.rope_scaling
    else {
        panic!("{:?}", config.common.rope_scaling)
    };
    assert_eq!((factor, beta_fast, beta_slow), (40.0, 32.0, 1.0));
    assert!((mscale_all_dim - 1.0).abs() < 1e-6 && mscale == mscale_all_dim);
    let expert = checkpoint.info("model.layers.1.mlp.experts.7.down_proj.weight").unwrap();
    assert_eq!((expert.shape.as_slice(), expert.storage().as_str()), (&[64, 32][..], "Q8_0"));
    for name in ["v2lite_s-SPLIT", "v2lite_s-JOINT_Q8_0"] {
        let checkpoint = open(name);
        let (config, kv_b) = (deepseek(&checkpoint), "model.layers.0.self_attn.kv_b_proj");
        let (mla, moe) = (config.mla.unwrap(), config.moe.unwrap());
        assert_eq!((mla.q_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim), (None, 32, 16), "{name}");
        assert_eq!((config.generation, moe.topk_method), (DeepseekGeneration::V2, TopkMethod::Greedy));
        let kv_b = checkpoint.weight(kv_b, [4 * 48, 32]).unwrap();
        assert_eq!(matches!(kv_b.format(), WeightFormat::Ggml(GgmlType::Q8_0)), name.contains("JOINT"));
    }
}

/// A deepseek2 model with the plain keys of the older files.
fn deepseek2(experts: u32, gating: u32) -> GgufFile {
    let mut file = llama().with("general.architecture", Meta::Text("deepseek2"));
    for (key, value) in [
        ("deepseek2.block_count", 1),
        ("deepseek2.embedding_length", 8),
        ("deepseek2.feed_forward_length", 16),
        ("deepseek2.attention.head_count", 2),
        ("deepseek2.attention.key_length", 6),
        ("deepseek2.attention.value_length", 4),
        ("deepseek2.attention.kv_lora_rank", 4),
        ("deepseek2.rope.dimension_count", 2),
        ("deepseek2.expert_count", experts),
        ("deepseek2.expert_used_count", 6),
        ("deepseek2.expert_feed_forward_length", 8),
        ("deepseek2.expert_gating_func", gating),
    ] {
        file = file.with(key, Meta::U32(value));
    }
    file.with("deepseek2.attention.layer_norm_rms_epsilon", Meta::F32(1e-6))
}

/// Files from before the format had keys for groups were made from releases that have them.
#[test]
fn groups_of_the_releases_where_a_file_is_silent() {
    for (experts, gating, expected) in [
        (256, 2, (8, 4, TopkMethod::NoauxTc)),
        (384, 2, (1, 1, TopkMethod::NoauxTc)),
        (160, 1, (8, 3, TopkMethod::GroupLimitedGreedy)),
        (64, 1, (1, 1, TopkMethod::Greedy)),
    ] {
        let checkpoint = deepseek2(experts, gating).open().unwrap();
        let moe = deepseek(&checkpoint).moe.unwrap();
        assert_eq!((moe.n_group, moe.topk_group, moe.topk_method), expected, "{experts} experts");
        assert_eq!((moe.norm_topk_prob, moe.routed_scaling_factor), (false, 1.0), "the format's defaults");
    }
    let error = deepseek2(64, 4).open().unwrap_err().to_string();
    assert!(error.contains("deepseek2.expert_gating_func: expected 1 (softmax) or 2 (sigmoid), found 4"));
}

/// Every fixture has the released 32 and 1, which are also what a config without the keys means.
#[test]
fn yarn_is_read_from_its_keys() {
    let mut file = deepseek2(64, 1).with("deepseek2.rope.scaling.type", Meta::Text("yarn"));
    for (key, value) in [
        ("deepseek2.rope.scaling.factor", 8.0),
        ("deepseek2.rope.scaling.yarn_beta_fast", 20.0),
        ("deepseek2.rope.scaling.yarn_beta_slow", 2.0),
        ("deepseek2.rope.scaling.yarn_log_multiplier", 0.05),
        ("deepseek2.rope.freq_base", 5e4),
    ] {
        file = file.with(key, Meta::F32(value));
    }
    let file = file.with("deepseek2.rope.scaling.original_context_length", Meta::U32(16));
    let checkpoint = file.open().unwrap();
    let common = checkpoint.config().common();
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, .. } =
        common.rope_scaling
    else {
        panic!("{:?}", common.rope_scaling)
    };
    assert_eq!((factor, beta_fast, beta_slow, original_max_position_embeddings), (8.0, 20.0, 2.0, 16));
    assert_eq!(common.rope_theta, 5e4);
}

/// Two heads, latent 3, two channels of keys and one of values.
#[test]
fn kv_b_is_put_together_from_its_halves() {
    let keys: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let values: Vec<f32> = (0..6).map(|i| 100.0 + i as f32).collect();
    let file = llama()
        .with_tensor(f32_tensor("blk.0.attn_k_b.weight", &[2, 3, 2], &keys))
        .with_tensor(f32_tensor("blk.0.attn_v_b.weight", &[3, 1, 2], &values));
    let checkpoint = file.open().unwrap();
    let prefix = "model.layers.0.self_attn.kv_b_proj";
    let whole = checkpoint.weight(prefix, [6, 3]).unwrap();
    let want = [
        [0.0, 2.0, 4.0],
        [1.0, 3.0, 5.0],
        [100.0, 101.0, 102.0],
        [6.0, 8.0, 10.0],
        [7.0, 9.0, 11.0],
        [103.0, 104.0, 105.0],
    ];
    assert_eq!((whole.dtype(), whole.to_vec_f32()), (DType::F32, want.concat()));
    let part = checkpoint.weight_slice(prefix, [6, 3], &Slice::Rows(2..5)).unwrap();
    assert_eq!(part.to_vec_f32(), want[2..5].concat());
    let part = checkpoint.weight_slice(prefix, [6, 3], &Slice::Cols(1..2)).unwrap();
    assert_eq!(part.to_vec_f32(), [2.0, 3.0, 101.0, 8.0, 9.0, 104.0]);
    let error = file.without("blk.0.attn_v_b.weight").open().unwrap_err().to_string();
    assert!(error.contains("`blk.0.attn_k_b.weight`: kv_b: expected `attn_v_b` beside it"), "{error}");
}

/// Two rows of three blocks of Q8_0, every element its own value.
fn blocks() -> GgufFile {
    let mut data = Vec::new();
    for block in 0..6_u8 {
        // A scale of one.
        data.extend([0x00, 0x3C]);
        data.extend((0..32).map(|i| (block * 16 + i / 2) ^ (i & 1)));
    }
    let name = "blk.0.attn_output.weight".to_owned();
    llama().with_tensor(TensorDraft { name, ne: vec![96, 2], kind: 8, data })
}

#[test]
fn blocks_stay_packed_unless_a_slice_cuts_them() {
    let checkpoint = blocks().open().unwrap();
    let prefix = "model.layers.0.self_attn.o_proj";
    let whole = checkpoint.weight(prefix, [2, 96]).unwrap();
    assert!(matches!(whole.format(), WeightFormat::Ggml(GgmlType::Q8_0)));
    assert_eq!(whole.size_bytes(), 6 * 34);
    let dense = whole.to_vec_f32();
    let columns = |range: std::ops::Range<usize>| [&dense[..96][range.clone()], &dense[96..][range]].concat();
    let slice = |slice| checkpoint.weight_slice(prefix, [2, 96], &slice).unwrap();
    let (row, aligned, cut) =
        (slice(Slice::Rows(1..2)), slice(Slice::Cols(32..96)), slice(Slice::Cols(40..70)));
    assert_eq!((row.size_bytes(), row.to_vec_f32()), (102, dense[96..].to_vec()));
    assert_eq!((aligned.size_bytes(), aligned.to_vec_f32()), (4 * 34, columns(32..96)));
    assert_eq!((cut.dtype(), cut.to_vec_f32()), (DType::F32, columns(40..70)));
    assert_eq!(checkpoint.longest_block(), Some(32));
    let table = checkpoint.tensor_f32(&format!("{prefix}.weight"), &[2, 96]).unwrap();
    assert_eq!(table.to_vec_f32(), dense);
}

#[test]
fn a_scale_that_is_no_number_is_named() {
    let mut file = blocks();
    // An infinite scale in block 4.
    file.tensors.last_mut().unwrap().data[4 * 34 + 1] = 0x7C;
    let checkpoint = file.open().unwrap();
    let error = checkpoint.weight("model.layers.0.self_attn.o_proj", [2, 96]).unwrap_err().to_string();
    assert!(error.contains("o_proj.weight`: values") && error.contains("scale of block 4"), "{error}");
}

#[test]
fn a_file_may_be_named_and_parts_belong_together() {
    let dir = fixture("v2lite_s-SPLIT");
    let names: Vec<_> = Checkpoint::open(&dir).unwrap().names().map(str::to_owned).collect();
    let second = Checkpoint::open(&dir.join("model-00002-of-00003.gguf")).unwrap();
    assert_eq!(second.names().collect::<Vec<_>>(), names);
    assert!(second.gguf_tokenizer().is_some() && names.contains(&"model.norm.weight".to_owned()));
    // A part under another part's name.
    let copy = tempfile::tempdir().unwrap();
    for (from, to) in [(1, 1), (3, 2), (2, 3)] {
        let bytes = std::fs::read(dir.join(format!("model-{from:05}-of-00003.gguf"))).unwrap();
        write(copy.path(), &format!("model-{to:05}-of-00003.gguf"), &bytes);
    }
    let error = Checkpoint::open(copy.path()).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00003.gguf: split.no: expected 1"), "{error}");
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("model-00001-of-00003.gguf"), alone.path().join("model.gguf")).unwrap();
    let error = Checkpoint::open(alone.path()).unwrap_err().to_string();
    assert!(error.contains("split.count: expected 1, as the file names say, found 3"), "{error}");
}
