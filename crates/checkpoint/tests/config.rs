//! What `config.json` becomes: the released spellings, the defaults, and every refused option by key.

#![allow(clippy::unwrap_used)]

mod support;

use checkpoint::{
    DeepseekConfig, DeepseekGeneration, IndexerConfig, LlamaConfig, ModelConfig, RopeScaling, ScoringFunc,
    TopkMethod,
};
use serde_json::{Value, json};
use support::v3_config;

fn parse(config: &Value) -> Result<ModelConfig, String> {
    ModelConfig::from_json(config.to_string().as_bytes(), "config.json").map_err(|error| error.to_string())
}

fn deepseek(config: &Value) -> DeepseekConfig {
    match parse(config).unwrap() {
        ModelConfig::Deepseek(config) => config,
        other => panic!("{other:?}"),
    }
}

fn llama(config: &Value) -> LlamaConfig {
    match parse(config).unwrap() {
        ModelConfig::Llama(config) => config,
        other => panic!("{other:?}"),
    }
}

fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 144, "vocab_size": 256,
        "bos_token_id": 0, "eos_token_id": [1, 2]
    })
}

#[test]
fn v3_is_read_whole() {
    let config = deepseek(&v3_config());
    assert_eq!(config.generation, DeepseekGeneration::V3);
    let (mla, moe) = (config.mla.unwrap(), config.moe.unwrap());
    assert_eq!((mla.q_lora_rank, mla.kv_lora_rank, mla.v_head_dim), (Some(6), 4, 4));
    assert_eq!((config.common.head_dim, config.common.num_key_value_heads), (6, 2));
    assert_eq!((moe.scoring_func, moe.topk_method), (ScoringFunc::Sigmoid, TopkMethod::NoauxTc));
    assert_eq!((moe.n_group, moe.topk_group, moe.routed_scaling_factor), (2, 1, 2.5));
    assert_eq!(config.common.quantization.unwrap().weight_block_size, [4, 8]);
    assert_eq!(config.common.eos_token_ids, [1]);
    let RopeScaling::Yarn { factor, mscale_all_dim, .. } = config.common.rope_scaling else {
        panic!("{config:?}");
    };
    assert_eq!((factor, mscale_all_dim), (40.0, 1.0));
}

#[test]
fn v1_is_plain_attention_with_upstream_defaults() {
    let config = deepseek(&json!({
        "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 144, "vocab_size": 256,
        "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": null, "num_experts_per_tok": 3
    }));
    assert_eq!((config.generation, config.mla), (DeepseekGeneration::V1, None));
    let moe = config.moe.unwrap();
    assert_eq!((moe.n_shared_experts, moe.moe_layer_freq, moe.first_k_dense_replace), (0, 1, 0));
    assert_eq!((moe.scoring_func, moe.topk_method), (ScoringFunc::Softmax, TopkMethod::Greedy));
    assert!(!moe.norm_topk_prob);
    assert_eq!((config.common.head_dim, config.common.num_key_value_heads), (16, 4));
    assert_eq!((config.common.rms_norm_eps, config.common.rope_theta), (1e-6, 10_000.0));
}

#[test]
fn biases_differ_by_family() {
    let mut config = llama_config();
    let plain = llama(&config);
    assert_eq!((plain.qkv_bias, plain.o_bias, plain.mlp_bias), (false, false, false));
    assert_eq!((plain.common.head_dim, plain.common.eos_token_ids), (8, vec![1, 2]));
    config["attention_bias"] = json!(true);
    let biased = llama(&config);
    assert_eq!((biased.qkv_bias, biased.o_bias, biased.mlp_bias), (true, true, false));
    config["architectures"] = json!(["Qwen2ForCausalLM"]);
    config["model_type"] = json!("qwen2");
    let qwen = llama(&config);
    assert_eq!((qwen.qkv_bias, qwen.o_bias, qwen.mlp_bias), (true, false, false));
}

#[test]
fn rope_has_old_and_new_spellings() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let mut old = llama_config();
    old["rope_scaling"] = llama3.clone();
    old["rope_theta"] = json!(500_000.0);
    let mut new = llama_config();
    new["rope_parameters"] = llama3;
    new["rope_parameters"]["rope_theta"] = json!(500_000.0);
    for config in [old, new] {
        let common = llama(&config).common;
        assert_eq!((common.rope_scaling, common.rope_theta), (expected, 500_000.0));
    }
    for (scaling, expected) in [
        (json!({"type": "linear", "factor": 4.0}), RopeScaling::Linear { factor: 4.0 }),
        (json!({"rope_type": "default"}), RopeScaling::None),
        (json!({"rope_theta": 1e4}), RopeScaling::None),
        (Value::Null, RopeScaling::None),
    ] {
        let mut config = llama_config();
        config["rope_scaling"] = scaling;
        assert_eq!(llama(&config).common.rope_scaling, expected);
    }
}

/// Key, value, fragments of the error; on a V3 config.
type Refusal = (&'static str, Value, &'static [&'static str]);

#[test]
fn unsupported_deepseek_options_are_named() {
    let rows: Vec<Refusal> = vec![
        ("hidden_act", json!("gelu"), &["hidden_act: expected \"silu\"", "found \"gelu\""]),
        ("attention_bias", json!(true), &["attention_bias", "false", "found true"]),
        ("scoring_func", json!("sqrtsoftplus"), &["scoring_func", "`softmax` or `sigmoid`", "sqrtsoftplus"]),
        (
            "topk_method",
            json!("aux"),
            &["topk_method", "`greedy` or `group_limited_greedy` or `noaux_tc`", "aux"],
        ),
        ("num_experts_per_tok", json!(3), &["num_experts_per_tok", "at most the 2 experts", "found 3"]),
        ("n_group", json!(3), &["n_group", "a divisor of n_routed_experts 4", "found 3"]),
        ("n_group", json!(4), &["n_group", "at least 2 experts", "4 groups of 1"]),
        ("topk_group", json!(5), &["topk_group", "at most n_group 2", "found 5"]),
        ("qk_rope_head_dim", json!(3), &["qk_rope_head_dim", "an even number", "found 3"]),
        ("kv_lora_rank", Value::Null, &["kv_lora_rank", "an integer from 1", "found nothing"]),
        ("hidden_size", json!(0), &["hidden_size", "an integer from 1 to 1048576", "found 0"]),
        ("vocab_size", json!(1u64 << 40), &["vocab_size", "an integer from 1", "1099511627776"]),
        ("num_hidden_layers", json!("2"), &["num_hidden_layers", "found \"2\""]),
        ("num_hidden_layers", json!(-1), &["num_hidden_layers", "found -1"]),
        ("moe_layer_freq", json!([0, 1]), &["moe_layer_freq", "one integer", "[0,1]"]),
        (
            "first_k_dense_replace",
            json!(9),
            &["first_k_dense_replace", "at most num_hidden_layers 2", "found 9"],
        ),
        ("rms_norm_eps", json!(0), &["rms_norm_eps", "found 0"]),
        ("rope_theta", json!(1), &["rope_theta", "found 1"]),
        (
            "rope_scaling",
            json!({"type": "longrope", "factor": 2}),
            &["rope_scaling.type", "`yarn`", "longrope"],
        ),
        ("rope_scaling", json!({"type": "yarn"}), &["rope_scaling.factor", "found nothing"]),
        ("rope_scaling", json!("yarn"), &["rope_scaling", "a JSON object", "\"yarn\""]),
        (
            "quantization_config",
            json!({"quant_method": "awq", "bits": 4}),
            &["quantization_config.quant_method", "`fp8`", "awq"],
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp8", "fmt": "e5m2"}),
            &["quantization_config.fmt", "`e4m3`", "e5m2"],
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp8"}),
            &["weight_block_size", "[rows, columns]", "nothing"],
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp8", "weight_block_size": [0, 128]}),
            &["weight_block_size", "[0,128]"],
        ),
        ("model_type", json!("deepseek_v2"), &["model_type", "`deepseek_v3`", "deepseek_v2"]),
        ("eos_token_id", json!("</s>"), &["eos_token_id", "a token id or a list", "</s>"]),
        ("tie_word_embeddings", json!(1), &["tie_word_embeddings", "true or false", "found 1"]),
    ];
    for (key, value, fragments) in rows {
        let mut config = v3_config();
        config[key] = value;
        check_refused(&config, key, fragments);
    }
}

/// The V3 config with an indexer.
fn v32_config() -> Value {
    let mut config = v3_config();
    config["architectures"] = json!(["DeepseekV32ForCausalLM"]);
    config["model_type"] = json!("deepseek_v32");
    config["index_n_heads"] = json!(3);
    config["index_head_dim"] = json!(10);
    config["index_topk"] = json!(5);
    config
}

#[test]
fn v32_is_v3_with_an_indexer() {
    let (v32, v3) = (deepseek(&v32_config()), deepseek(&v3_config()));
    assert_eq!(v32.generation, DeepseekGeneration::V32);
    let indexer = IndexerConfig { index_n_heads: 3, index_head_dim: 10, index_topk: 5 };
    assert_eq!((v32.indexer, v3.indexer), (Some(indexer), None));
    assert_eq!((v32.mla, v32.moe), (v3.mla, v3.moe));
    let rows: Vec<Refusal> = vec![
        ("index_n_heads", Value::Null, &["index_n_heads", "an integer from 1", "found nothing"]),
        ("index_topk", json!(0), &["index_topk", "an integer from 1", "found 0"]),
        ("index_head_dim", json!(1), &["index_head_dim", "at least qk_rope_head_dim 2", "found 1"]),
        ("q_lora_rank", Value::Null, &["q_lora_rank", "a rank", "found nothing"]),
        ("indexer_rope_interleave", json!(true), &["indexer_rope_interleave", "false", "found true"]),
    ];
    for (key, value, fragments) in rows {
        let mut config = v32_config();
        config[key] = value;
        check_refused(&config, key, fragments);
    }
}

#[test]
fn unsupported_llama_options_are_named() {
    let rows: Vec<Refusal> = vec![
        (
            "num_key_value_heads",
            json!(3),
            &["num_key_value_heads", "a divisor of num_attention_heads 8", "found 3"],
        ),
        ("num_attention_heads", json!(6), &["num_attention_heads", "a divisor of hidden_size 64", "found 6"]),
        ("head_dim", json!(7), &["head_dim", "an even number", "found 7"]),
        ("partial_rotary_factor", json!(0.5), &["partial_rotary_factor", "found 0.5"]),
        ("use_sliding_window", json!(true), &["use_sliding_window", "false", "found true"]),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
            "original_max_position_embeddings": 64}),
            &["rope_scaling.high_freq_factor", "more than low_freq_factor 4"],
        ),
    ];
    for (key, value, fragments) in rows {
        let mut config = llama_config();
        config["architectures"] = json!(["Qwen2ForCausalLM"]);
        config["model_type"] = json!("qwen2");
        config["num_key_value_heads"] = json!(2);
        config[key] = value;
        check_refused(&config, key, fragments);
    }
}

#[test]
fn other_families_are_named() {
    for (class, fragment) in [
        ("DeepseekV41ForCausalLM", "a DeepSeek family that this build cannot run yet"),
        ("MultiModalityCausalLM", "DeepseekV3ForCausalLM (deepseek_v3)"),
    ] {
        let config = json!({"architectures": [class]});
        check_refused(&config, class, &["config.json", "architectures", fragment, class]);
    }
    check_refused(&json!({"model_type": "mamba"}), "mamba", &["model_type", "one of", "mamba"]);
    check_refused(&json!({}), "empty", &["model_type", "found nothing"]);
    check_refused(&json!([]), "list", &["the document", "a JSON object", "[]"]);
}

fn check_refused(config: &Value, what: &str, fragments: &[&str]) {
    let message = parse(config).expect_err(what);
    for fragment in fragments {
        assert!(message.contains(fragment), "{what}: `{fragment}` is not in: {message}");
    }
}

fn v4_config() -> Value {
    json!({
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
        "qk_rope_head_dim": 8, "q_lora_rank": 40, "o_groups": 2, "o_lora_rank": 24, "vocab_size": 256,
        "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "num_hash_layers": 1, "swiglu_limit": 1.5,
        "sliding_window": 16, "compress_ratios": [0, 4, 128, 0], "index_n_heads": 8, "index_head_dim": 16,
        "index_topk": 6, "rope_theta": 10000, "compress_rope_theta": 160000, "num_nextn_predict_layers": 1,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536},
        "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6
    })
}

#[test]
fn v4_is_read_whole() {
    let ModelConfig::DeepseekV4(config) = parse(&v4_config()).unwrap() else { panic!("V4") };
    assert_eq!(config.compress_ratios, [0, 4, 128, 0], "the draft layer's is the last");
    assert_eq!((config.common.head_dim, config.common.intermediate_size), (32, 24));
    assert_eq!((config.moe.scoring_func, config.indexer.unwrap().index_topk), (ScoringFunc::SqrtSoftplus, 6));
    assert_eq!((config.swiglu_limit, config.hc_mult, config.num_hash_layers), (Some(1.5), 4, 1));
    // The amplitude of cosines and sines is 1, whatever yarn's factor.
    let RopeScaling::Yarn { mscale, mscale_all_dim, .. } = config.common.rope_scaling else { panic!("yarn") };
    assert_eq!(mscale, mscale_all_dim);
    let mut without = v4_config();
    without["compress_ratios"] = json!([0, 0, 8]);
    without["index_topk"] = Value::Null;
    let ModelConfig::DeepseekV4(config) = parse(&without).unwrap() else { panic!("V4") };
    assert_eq!(config.indexer, None, "no layer chooses its entries");
}

#[test]
fn v4_refuses_by_key() {
    for (key, value, words) in [
        ("compress_ratios", json!([0, 4]), ["3 ratios", "2 ratios"]),
        ("compress_ratios", json!([0, 4, 128, 0, 0]), ["and 1 draft layers", "5 ratios"]),
        ("compress_ratios", json!([0, -4, 128]), ["3 ratios", "[0,-4,128]"]),
        ("compress_ratios", Value::Null, ["3 ratios", "nothing"]),
        ("qk_rope_head_dim", json!(7), ["even number", "7"]),
        ("qk_rope_head_dim", json!(34), ["up to head_dim 32", "34"]),
        ("o_groups", json!(3), ["divisor of num_attention_heads 4", "3"]),
        ("num_key_value_heads", json!(2), ["1, the only supported value", "2"]),
        ("scoring_func", json!("sigmoid"), ["`sqrtsoftplus`", "sigmoid"]),
        ("num_experts_per_tok", json!(9), ["at most n_routed_experts 8", "9"]),
        ("index_head_dim", json!(4), ["at least qk_rope_head_dim 8", "4"]),
        ("dspark_block_size", json!(5), ["cannot run a bundle with a DSpark drafter", "5"]),
    ] {
        let mut config = v4_config();
        config[key] = value;
        let error = parse(&config).unwrap_err();
        assert!(error.contains(key) && words.iter().all(|word| error.contains(word)), "{key}: {error}");
    }
}
