//! Parameter counts and KV sizes of the released configs, from the config alone, and of the fixtures, against what
//! loading finds.

#![allow(clippy::unwrap_used)]

mod support;

use checkpoint::ModelConfig;
use kernels::DType;
use models::{IndexFormat, kv_layout, mtp_kv_layout, summary};
use serde_json::{Value, json};
use support::load;
use testkit::Fixture;

fn config(json: &Value) -> ModelConfig {
    ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap()
}

fn merged(mut base: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("an object") };
    changes.into_iter().for_each(|(key, value)| base[key] = value);
    base
}

fn v2() -> Value {
    json!({
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "num_hidden_layers": 60, "hidden_size": 5120, "num_attention_heads": 128, "num_key_value_heads": 128,
        "intermediate_size": 12288, "moe_intermediate_size": 1536, "vocab_size": 102_400,
        "max_position_embeddings": 163_840, "rms_norm_eps": 1e-6, "rope_theta": 10_000, "hidden_act": "silu",
        "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "n_group": 8, "topk_group": 3, "scoring_func": "softmax", "topk_method": "group_limited_greedy",
        "norm_topk_prob": false, "routed_scaling_factor": 16.0, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    })
}

fn v2_lite() -> Value {
    merged(
        v2(),
        json!({
            "num_hidden_layers": 27, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16,
            "intermediate_size": 10_944, "moe_intermediate_size": 1408, "q_lora_rank": null,
            "n_routed_experts": 64, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0,
        }),
    )
}

fn v3() -> Value {
    merged(
        v2(),
        json!({
            "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18_432, "moe_intermediate_size": 2048,
            "vocab_size": 129_280, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "topk_group": 4, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
            "routed_scaling_factor": 2.5, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1,
        }),
    )
}

fn v32() -> Value {
    merged(
        v3(),
        json!({
            "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32",
            "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048,
        }),
    )
}

fn v4_flash() -> Value {
    let ratios: Vec<usize> = [0, 0].into_iter().chain([4, 128].repeat(20)).chain([4, 0]).collect();
    json!({
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_act": "silu",
        "num_hidden_layers": 43, "hidden_size": 4096, "num_attention_heads": 64, "num_key_value_heads": 1,
        "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6, "moe_intermediate_size": 2048,
        "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": true,
        "routed_scaling_factor": 1.5, "num_hash_layers": 3, "swiglu_limit": 10.0, "sliding_window": 128,
        "compress_ratios": ratios, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512,
        "rope_theta": 10_000, "compress_rope_theta": 160_000, "vocab_size": 129_280,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65_536,
            "beta_fast": 32, "beta_slow": 1},
        "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1_048_576, "num_nextn_predict_layers": 1,
    })
}

fn v4_pro() -> Value {
    let ratios: Vec<usize> = [128, 128].into_iter().chain([4, 128].repeat(29)).chain([4, 0]).collect();
    merged(
        v4_flash(),
        json!({
            "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "q_lora_rank": 1536,
            "o_groups": 16, "n_routed_experts": 384, "moe_intermediate_size": 3072, "routed_scaling_factor": 2.5,
            "compress_ratios": ratios, "index_topk": 1024,
        }),
    )
}

/// Billions, rounded to the places that the published numbers have.
fn billions(parameters: u64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (parameters as f64 / 1e9 * scale).round() / scale
}

#[test]
fn parameters_of_the_released_models() {
    let count = |json: Value| summary(&config(&json));
    let lite = count(v2_lite());
    assert_eq!((billions(lite.total_parameters, 1), billions(lite.active_parameters, 2)), (15.7, 2.45));
    let v2 = count(v2());
    assert_eq!((billions(v2.total_parameters, 1), billions(v2.active_parameters, 1)), (235.7, 20.9));
    let v3 = count(v3());
    assert_eq!((billions(v3.total_parameters, 1), billions(v3.active_parameters, 1)), (671.0, 36.6));
    assert_eq!(billions(v3.mtp_parameters, 1), 11.6);
    let flash = count(v4_flash());
    assert_eq!((billions(flash.total_parameters, 1), billions(flash.active_parameters, 1)), (284.3, 13.3));
    let pro = count(v4_pro());
    assert_eq!((billions(pro.total_parameters, 0), billions(pro.active_parameters, 1)), (1573.0, 48.9));
    assert_eq!(v2.mtp_parameters, 0);
    let v32 = count(v32());
    let indexer = v32.parts.iter().find(|part| part.name == "indexer").unwrap();
    // wq_b, wk, k_norm with its bias, weights_proj.
    let per_layer = 64 * 128 * 1536 + 128 * 7168 + 2 * 128 + 64 * 7168;
    assert_eq!((indexer.parameters, indexer.active), (61 * per_layer, 61 * per_layer));
    assert_eq!(v32.total_parameters - v3.total_parameters, 61 * per_layer);
    assert_eq!(v32.mtp_parameters - v3.mtp_parameters, per_layer);
    // One expert is three matrices of 7168 x 2048, in 58 layers of 256.
    let routed = v3.parts.iter().find(|part| part.name == "routed experts").unwrap();
    assert_eq!(routed.parameters, 58 * 256 * 3 * 7168 * 2048);
    assert_eq!(routed.active, 58 * 8 * 3 * 7168 * 2048);
}

#[test]
fn kv_bytes_of_the_released_models() {
    let bytes = |json: Value| kv_layout(&config(&json)).bytes_per_token(DType::BF16).unwrap();
    assert_eq!(bytes(v2_lite()), 31_104);
    assert_eq!(bytes(v2()), 69_120);
    assert_eq!(bytes(v3()), 70_272);
    assert_eq!(mtp_kv_layout(&config(&v3())).bytes_per_token(DType::BF16).unwrap(), 1152);
    assert_eq!(mtp_kv_layout(&config(&v3())).bytes_per_token(DType::F8E4M3).unwrap(), 656);
    // V3.2 keeps an index key of 128 channels beside each latent row, in bf16 beside packed rows too.
    assert_eq!(bytes(v32()), 70_272 + 61 * 2 * 128);
    let packed = kv_layout(&config(&v32())).bytes_per_token(DType::F8E4M3).unwrap();
    assert_eq!(packed, 61 * (656 + 2 * 128));
    assert_eq!(mtp_kv_layout(&config(&v32())).bytes_per_token(DType::BF16).unwrap(), 1152 + 256);
    // As released, a key has 128 bytes and a scale, beside latent rows in bf16 and beside packed ones.
    let released = kv_layout(&config(&v32())).with_index(IndexFormat::Fp8);
    assert_eq!(released.bytes_per_token(DType::BF16).unwrap(), 78_324);
    assert_eq!(released.bytes_per_token(DType::F8E4M3).unwrap(), 48_068);
    // V4 in bf16 (architectures of the release): entries alone grow with the context; the rest is state per sequence.
    assert_eq!((bytes(v4_flash()), bytes(v4_pro())), (6880, 9848));
    let flash = kv_layout(&config(&v4_flash()));
    assert_eq!((flash.block_tokens(), flash.has_state()), (128, true));
    // 43 windows of 128 rows in bf16; of each of 21 and 20 compressors what it has not finished, in f32.
    let pending = 21 * 8 * 4 * (512 + 128) * 4 + 20 * 128 * 2 * 512 * 4;
    assert_eq!(flash.bytes_per_sequence(DType::BF16, 0), 43 * 128 * 512 * 2 + pending);
    // Packed rows of 584 bytes, and exact index keys in bf16 beside them: 4,501.25 bytes per token, in blocks of 128.
    let rows = |index: usize| 21 * 32 * (584 + index) + 20 * 584;
    assert_eq!(flash.block_bytes(DType::F8E4M3).unwrap(), rows(256));
    assert_eq!(flash.bytes_per_token(DType::F8E4M3).unwrap(), 4502);
    // Index keys as released too: 3,514.25 in FP4, or 3,850.25 in FP8; of V4-Pro 5,031 and 5,511.
    let of = |json: Value, format| {
        kv_layout(&config(&json)).with_index(format).block_bytes(DType::F8E4M3).unwrap()
    };
    assert_eq!(of(v4_flash(), IndexFormat::Fp8), rows(132));
    assert_eq!(of(v4_flash(), IndexFormat::Fp8) * 4, 128 * 15_401);
    assert_eq!(of(v4_flash(), IndexFormat::Fp4) * 4, 128 * 14_057);
    assert_eq!(of(v4_pro(), IndexFormat::Fp8) / 128, 5511);
    assert_eq!(of(v4_pro(), IndexFormat::Fp4) / 128, 5031);
    assert_eq!(flash.bytes_per_sequence(DType::F8E4M3, 0), 43 * 128 * 584 + pending);
    // To go back 3 tokens takes 3 rows more of each of these rings.
    let rows = 43 * 512 * 2 + 21 * 4 * (512 + 128) * 4 + 20 * 2 * 512 * 4;
    assert_eq!(flash.bytes_per_sequence(DType::BF16, 3) - flash.bytes_per_sequence(DType::BF16, 0), 3 * rows);
    assert!(!kv_layout(&config(&v3())).has_state());
    // R1-Distill-Llama-8B: 32 layers of 8 key heads of 128 channels, keys and values.
    let distill = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14_336, "vocab_size": 128_256, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
    });
    assert_eq!(bytes(distill.clone()), 32 * 2 * 8 * 128 * 2);
    assert_eq!(billions(summary(&config(&distill)).total_parameters, 2), 8.03);
}

#[test]
fn a_tied_head_is_stored_once_and_used_all_the_same() {
    let fixture = Fixture::open("llama3_distill");
    let untied = summary(fixture.checkpoint().config());
    let tied = summary(&config(&merged(fixture.config_json(), json!({"tie_word_embeddings": true}))));
    assert_eq!(untied.total_parameters - tied.total_parameters, 256 * 64);
    assert_eq!(untied.active_parameters, tied.active_parameters);
}

/// Loading asserts that the parameters it reads are those of the summary; here the bytes are held to it too.
#[test]
fn loading_finds_what_the_config_announces() {
    for fixture in Fixture::all() {
        let model = load(&fixture);
        let summary = model.summary();
        assert_eq!(*summary, models::summary(model.config()), "{}", fixture.name());
        assert_eq!(*model.kv_layout(), kv_layout(model.config()), "{}", fixture.name());
        assert!(model.num_active_parameters() <= model.num_parameters(), "{}", fixture.name());
        assert_eq!(
            summary.parts.iter().map(|part| part.parameters).sum::<u64>(),
            model.num_parameters(),
            "{}",
            fixture.name()
        );
        let stored = summary.total_parameters + summary.mtp_parameters;
        match fixture.name() {
            "deepseek_v3_fp8" => assert!(model.weight_bytes() as u64 > stored),
            // Tables of expert ids are no parameters; a layer of them has four bytes for each token's choice.
            // The matrices of its draft layer are stored in bf16.
            "deepseek_v4" => {
                let decoder = 4 * (summary.total_parameters + 256 * 2);
                let draft = (model.weight_bytes() as u64 - decoder) as f64 / summary.mtp_parameters as f64;
                assert!((2.0..2.6).contains(&draft), "{draft} bytes for each parameter of the draft layer");
            }
            "deepseek_v4_smallhca" => {
                assert_eq!(model.weight_bytes() as u64, 4 * (stored + 256 * 2), "{}", fixture.name());
            }
            "deepseek_v4_quant" => {
                let checkpoint = fixture.checkpoint();
                let stored: usize =
                    checkpoint.names().map(|name| checkpoint.info(name).unwrap().size_bytes).sum();
                let kept = model.weight_bytes() as f64 / stored as f64;
                assert!((0.95..1.05).contains(&kept), "{kept} of the file's bytes");
            }
            "deepseek_v3_bf16" => assert!((model.weight_bytes() as u64) < 3 * stored),
            _ => assert_eq!(model.weight_bytes() as u64, 4 * stored, "{}", fixture.name()),
        }
    }
}
