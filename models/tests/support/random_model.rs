//! Random DeepSeek checkpoints for any config, in released tensor names.

#![allow(dead_code, reason = "each test file uses its own part")]

use serde_json::{Value, json};
use testkit::RandomCheckpoint;

/// A V3 config of awkward sizes: nothing divides anything, MoE in every second layer, no low-rank query.
pub(crate) fn awkward_v3() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "num_hidden_layers": 5, "hidden_size": 52, "num_attention_heads": 3, "num_key_value_heads": 3,
        "intermediate_size": 75, "moe_intermediate_size": 19, "vocab_size": 101, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10_000,
        "q_lora_rank": null, "kv_lora_rank": 27,
        "qk_nope_head_dim": 13, "qk_rope_head_dim": 10, "v_head_dim": 17,
        "n_routed_experts": 9, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "moe_layer_freq": 2,
    })
}

/// The same with a low-rank query, an indexer and a draft layer.
pub(crate) fn awkward_v32() -> Value {
    let mut config = awkward_v3();
    let changes = json!({
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "q_lora_rank": 23,
        "index_n_heads": 5, "index_head_dim": 15, "index_topk": 6, "num_nextn_predict_layers": 1,
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_else(|| panic!("{key} is no size")) as usize
}

/// A checkpoint for a V2, V3 or V3.2 config.
pub(crate) fn random_model(config: &Value, seed: u64) -> RandomCheckpoint {
    let mut random = RandomCheckpoint::new(config.clone(), seed);
    let (dim, vocab) = (size(config, "hidden_size"), size(config, "vocab_size"));
    random.matrix("model.embed_tokens.weight", [vocab, dim]).vector("model.norm.weight", dim, 1.0);
    if config["tie_word_embeddings"] != json!(true) {
        random.matrix("lm_head.weight", [vocab, dim]);
    }
    let layers = size(config, "num_hidden_layers");
    (0..layers).for_each(|i| block(&mut random, config, i));
    let drafts = config["num_nextn_predict_layers"].as_u64().unwrap_or(0) as usize;
    for i in layers..layers + drafts {
        let at = |name: &str| format!("model.layers.{i}.{name}.weight");
        for norm in ["enorm", "hnorm", "shared_head.norm"] {
            random.vector(&at(norm), dim, 1.0);
        }
        random.matrix(&at("eh_proj"), [dim, 2 * dim]);
        block(&mut random, config, i);
    }
    random
}

fn block(random: &mut RandomCheckpoint, config: &Value, i: usize) {
    let (dim, prefix) = (size(config, "hidden_size"), format!("model.layers.{i}"));
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        random.vector(&format!("{prefix}.{norm}.weight"), dim, 1.0);
    }
    attention(random, config, &format!("{prefix}.self_attn"));
    let routes =
        i >= size(config, "first_k_dense_replace") && i.is_multiple_of(size(config, "moe_layer_freq"));
    if routes {
        moe(random, config, &format!("{prefix}.mlp"));
    } else {
        mlp(random, &format!("{prefix}.mlp"), dim, size(config, "intermediate_size"));
    }
}

fn attention(random: &mut RandomCheckpoint, config: &Value, prefix: &str) {
    let [dim, heads, latent, nope, rope, value] = [
        "hidden_size",
        "num_attention_heads",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
    ]
    .map(|key| size(config, key));
    match config["q_lora_rank"].as_u64() {
        None => random.matrix(&format!("{prefix}.q_proj.weight"), [heads * (nope + rope), dim]),
        Some(rank) => random
            .matrix(&format!("{prefix}.q_a_proj.weight"), [rank as usize, dim])
            .vector(&format!("{prefix}.q_a_layernorm.weight"), rank as usize, 1.0)
            .matrix(&format!("{prefix}.q_b_proj.weight"), [heads * (nope + rope), rank as usize]),
    };
    if config["index_topk"].is_u64() {
        indexer(random, config, &format!("{prefix}.indexer"));
    }
    random
        .matrix(&format!("{prefix}.kv_a_proj_with_mqa.weight"), [latent + rope, dim])
        .vector(&format!("{prefix}.kv_a_layernorm.weight"), latent, 1.0)
        .matrix(&format!("{prefix}.kv_b_proj.weight"), [heads * (nope + value), latent])
        .matrix(&format!("{prefix}.o_proj.weight"), [dim, heads * value]);
}

fn indexer(random: &mut RandomCheckpoint, config: &Value, prefix: &str) {
    let [dim, rank, heads, head_dim] =
        ["hidden_size", "q_lora_rank", "index_n_heads", "index_head_dim"].map(|key| size(config, key));
    random
        .matrix(&format!("{prefix}.wq_b.weight"), [heads * head_dim, rank])
        .matrix(&format!("{prefix}.wk.weight"), [head_dim, dim])
        .vector(&format!("{prefix}.k_norm.weight"), head_dim, 1.0)
        .vector(&format!("{prefix}.k_norm.bias"), head_dim, 0.0)
        .matrix(&format!("{prefix}.weights_proj.weight"), [heads, dim]);
}

fn moe(random: &mut RandomCheckpoint, config: &Value, prefix: &str) {
    let [dim, inter, experts, shared] =
        ["hidden_size", "moe_intermediate_size", "n_routed_experts", "n_shared_experts"]
            .map(|key| size(config, key));
    random.matrix(&format!("{prefix}.gate.weight"), [experts, dim]).vector(
        &format!("{prefix}.gate.e_score_correction_bias"),
        experts,
        0.0,
    );
    (0..experts).for_each(|e| mlp(random, &format!("{prefix}.experts.{e}"), dim, inter));
    if shared > 0 {
        mlp(random, &format!("{prefix}.shared_experts"), dim, shared * inter);
    }
}

fn mlp(random: &mut RandomCheckpoint, prefix: &str, dim: usize, inter: usize) {
    random
        .matrix(&format!("{prefix}.gate_proj.weight"), [inter, dim])
        .matrix(&format!("{prefix}.up_proj.weight"), [inter, dim])
        .matrix(&format!("{prefix}.down_proj.weight"), [dim, inter]);
}
