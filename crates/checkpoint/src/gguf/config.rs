//! The metadata of a GGUF file becomes a [`ModelConfig`], by way of the released keys: what is accepted and what is
//! refused is decided in one place for both kinds of file.

use serde_json::{Map, Value as Json, json};

use super::metadata::{Metadata, Value};
use crate::config::{ModelConfig, RopeScaling};
use crate::{CheckpointError, Result};

/// The tensor of [`crate::RopeScaling::Divisors`], one element per rotated pair.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// A key of `config.json`, and the one that it comes from, below the architecture's prefix.
type Names = &'static [(&'static str, &'static str)];

const COMMON: Names = &[
    ("num_hidden_layers", "block_count"),
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("vocab_size", "vocab_size"),
];

const GROUPED_QUERY: Names =
    &[("num_key_value_heads", "attention.head_count_kv"), ("head_dim", "attention.key_length")];

const LATENT: Names = &[
    ("q_lora_rank", "attention.q_lora_rank"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("qk_rope_head_dim", "rope.dimension_count"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("n_shared_experts", "expert_shared_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("first_k_dense_replace", "leading_dense_block_count"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("n_group", "expert_group_count"),
    ("topk_group", "expert_group_used_count"),
];

const ROPE_SCALING: Names = &[
    ("type", "rope.scaling.type"),
    ("factor", "rope.scaling.factor"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("beta_fast", "rope.scaling.yarn_beta_fast"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
];

/// Expert groups of the releases: files made before the format had keys for them were made from these. Experts, whether
/// the router is a sigmoid, groups, groups that a token chooses from.
const RELEASED_GROUPS: [(u64, bool, u64, u64); 2] = [(160, false, 8, 3), (256, true, 8, 4)];

/// The config in `metadata`; `shape` tells the shape of a tensor, if there is one of that name in the file.
pub(super) fn config(metadata: &Metadata, shape: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<ModelConfig> {
    let keys = Keys { metadata, architecture: architecture(metadata)? };
    let mut json = keys.read(COMMON);
    let embedding = shape("token_embd.weight");
    if let (None, Some([rows, _])) = (json.get("vocab_size"), embedding.as_deref()) {
        json.insert("vocab_size".into(), json!(rows));
    }
    json.insert("tie_word_embeddings".into(), json!(shape("output.weight").is_none()));
    json.extend(special_tokens(metadata)?);
    json.insert("torch_dtype".into(), torch_dtype(metadata)?);
    let mut scaling = keys.read(ROPE_SCALING);
    // The spelling of 2023.
    if let (None, Some(factor)) = (scaling.get("type"), metadata.get(&keys.full("rope.scale_linear"))) {
        scaling.insert("type".into(), json!("linear"));
        scaling.insert("factor".into(), json_value(factor));
    }
    let is_scaled = scaling.get("type").is_some_and(|kind| kind != "none");
    match keys.architecture {
        "deepseek2" => json.extend(keys.deepseek2()?),
        _ => json.extend(keys.llama(shape)?),
    }
    if is_scaled {
        json.insert("rope_scaling".into(), keys.rope_scaling(scaling)?.into());
    }
    let mut config = ModelConfig::from_value(&Json::Object(json), metadata.file())
        .map_err(|error| keys.translate(error))?;
    if let ModelConfig::Llama(llama) = &mut config
        && shape(ROPE_FREQS).is_some()
    {
        if is_scaled {
            let expected = format!("`none`, because {ROPE_FREQS} scales the frequencies");
            return Err(metadata.error(&keys.full("rope.scaling.type"), expected));
        }
        llama.common.rope_scaling = RopeScaling::Divisors;
    }
    Ok(config)
}

/// Whether the file stores the rows of queries and keys as rotated pairs.
pub(super) fn has_rotary_pairs(metadata: &Metadata) -> Result<bool> {
    Ok(architecture(metadata)? == "llama")
}

fn architecture(metadata: &Metadata) -> Result<&str> {
    const KEY: &str = "general.architecture";
    let name = metadata.text(KEY)?.filter(|name| matches!(*name, "llama" | "qwen2" | "deepseek2"));
    name.ok_or_else(|| metadata.error(KEY, "llama, qwen2 or deepseek2"))
}

fn special_tokens(metadata: &Metadata) -> Result<Map<String, Json>> {
    let id = |name: &str| metadata.id(&format!("tokenizer.ggml.{name}_token_id"));
    let ends: Vec<u32> = [id("eos")?, id("eot")?].into_iter().flatten().collect();
    let mut map = Map::new();
    map.extend(id("bos")?.map(|bos| ("bos_token_id".to_owned(), json!(bos))));
    map.insert("eos_token_id".into(), json!(ends));
    Ok(map)
}

/// What the matrices are mostly stored in, by `llama_ftype`.
fn torch_dtype(metadata: &Metadata) -> Result<Json> {
    Ok(match metadata.unsigned("general.file_type")? {
        Some(0) => "float32".into(),
        Some(1) => "float16".into(),
        Some(32) => "bfloat16".into(),
        _ => Json::Null,
    })
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.unsigned(&self.full(key))
    }

    /// An error about `key` below the architecture's prefix.
    fn error(&self, key: &str, expected: impl Into<String>) -> CheckpointError {
        self.metadata.error(&self.full(key), expected)
    }

    /// The values that there are, under their names in `config.json`.
    fn read(&self, names: Names) -> Map<String, Json> {
        let value = |(name, key): &(&str, &str)| {
            Some(((*name).to_owned(), json_value(self.metadata.get(&self.full(key))?)))
        };
        names.iter().filter_map(value).collect()
    }

    /// Fails if `key` says something that has no place in a released config of the family.
    fn refuse(&self, key: &str) -> Result<()> {
        match self.unsigned(key)?.unwrap_or(0) {
            0 => Ok(()),
            _ => Err(self.error(key, "0 or nothing: this build has no layer for it")),
        }
    }

    fn llama(&self, shape: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Map<String, Json>> {
        for key in ["expert_count", "attention.sliding_window"] {
            self.refuse(key)?;
        }
        let [key_length, rotated] =
            ["attention.key_length", "rope.dimension_count"].map(|k| self.unsigned(k));
        let (key_length, rotated) = (key_length?, rotated?);
        let heads = self.unsigned("attention.head_count")?.filter(|heads| *heads > 0);
        let width = self.unsigned("embedding_length")?.zip(heads).map(|(width, heads)| width / heads);
        if let (Some(head), Some(rotated)) = (key_length.or(width), rotated)
            && head != rotated
        {
            return Err(self.error("rope.dimension_count", format!("{head}, the width of a head")));
        }
        let mut json = self.read(GROUPED_QUERY);
        let class = if self.architecture == "llama" {
            json.insert("attention_bias".into(), json!(shape("blk.0.attn_q.bias").is_some()));
            "LlamaForCausalLM"
        } else {
            "Qwen2ForCausalLM"
        };
        json.insert("architectures".into(), json!([class]));
        Ok(json)
    }

    fn deepseek2(&self) -> Result<Map<String, Json>> {
        self.refuse("nextn_predict_layers")?;
        let mut json = self.read(LATENT);
        // Files with one kv_b_proj say nothing of the absorbed form, whose widths the plain keys have in the others.
        let either = |of_heads: &str, plain: &str| -> Result<Option<u64>> {
            Ok(self.unsigned(of_heads)?.or(self.unsigned(plain)?))
        };
        let key_length = either("attention.key_length_mla", "attention.key_length")?;
        let value_length = either("attention.value_length_mla", "attention.value_length")?;
        let rotated = self.unsigned("rope.dimension_count")?.unwrap_or(0);
        let nope = key_length
            .map(|length| length.checked_sub(rotated))
            .ok_or_else(|| self.error("attention.key_length_mla", "the width of a query head"))?;
        let Some(nope) = nope else {
            return Err(self.error("rope.dimension_count", "less than the width of a query head"));
        };
        json.insert("qk_nope_head_dim".into(), json!(nope));
        json.insert("v_head_dim".into(), json!(value_length));
        let sigmoid = self.is_sigmoid()?;
        let experts = self.unsigned("expert_count")?.unwrap_or(0);
        if experts == 0 {
            json.insert("n_routed_experts".into(), Json::Null);
        }
        if !json.contains_key("n_group") {
            let released = RELEASED_GROUPS.iter().find(|row| (row.0, row.1) == (experts, sigmoid));
            let (groups, chosen) = released.map_or((1, 1), |row| (row.2, row.3));
            json.insert("n_group".into(), json!(groups));
            json.insert("topk_group".into(), json!(chosen));
        }
        let (class, scoring, method) = match (sigmoid, json.get("n_group") == Some(&json!(1))) {
            (true, _) => ("DeepseekV3ForCausalLM", "sigmoid", "noaux_tc"),
            (false, true) => ("DeepseekV2ForCausalLM", "softmax", "greedy"),
            (false, false) => ("DeepseekV2ForCausalLM", "softmax", "group_limited_greedy"),
        };
        json.insert("architectures".into(), json!([class]));
        json.insert("scoring_func".into(), json!(scoring));
        json.insert("topk_method".into(), json!(method));
        // The format's own defaults, where V3's released ones differ.
        for (key, default) in [
            ("norm_topk_prob", json!(false)),
            ("routed_scaling_factor", json!(1.0)),
            ("first_k_dense_replace", json!(0)),
        ] {
            json.entry(key).or_insert(default);
        }
        Ok(json)
    }

    fn is_sigmoid(&self) -> Result<bool> {
        match self.unsigned("expert_gating_func")?.unwrap_or(0) {
            0 | 1 => Ok(false),
            2 => Ok(true),
            _ => Err(self.error("expert_gating_func", "1 (softmax) or 2 (sigmoid)")),
        }
    }

    fn rope_scaling(&self, mut scaling: Map<String, Json>) -> Result<Map<String, Json>> {
        const MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
        if self.architecture == "deepseek2" && scaling.get("type") == Some(&json!("yarn")) {
            let multiplier = match self.metadata.get(&self.full(MULTIPLIER)) {
                None => 0.0,
                Some(Value::Float(multiplier)) => *multiplier,
                Some(_) => return Err(self.error(MULTIPLIER, "a number")),
            };
            // The converter stores 0.1 mscale_all_dim; the releases have the same mscale.
            for key in ["mscale", "mscale_all_dim"] {
                scaling.insert(key.into(), json_value(&Value::Float(10.0 * multiplier)));
            }
        }
        Ok(scaling)
    }

    /// An error about a key of `config.json` as one about the key that it was read from.
    fn translate(&self, error: CheckpointError) -> CheckpointError {
        let CheckpointError::Config { file, key, expected, found } = error else { return error };
        let plain = key.trim_start_matches("rope_scaling.");
        let tables = [COMMON, GROUPED_QUERY, LATENT, ROPE_SCALING];
        let source = tables.iter().copied().flatten().find(|(name, _)| *name == plain);
        let key = source.map_or(key.clone(), |(_, key)| self.full(key));
        CheckpointError::Config { file, key, expected, found }
    }
}

/// A value in JSON, which has no NaN: a text stands in for it, so that it is refused as no number.
fn json_value(value: &Value) -> Json {
    match value {
        Value::Unsigned(n) => json!(n),
        Value::Signed(n) => json!(n),
        Value::Float(x) if x.is_finite() => json!(x),
        Value::Float(x) => json!(x.to_string()),
        Value::Bool(flag) => json!(flag),
        Value::Text(text) => json!(text),
        Value::Array(list) => list.iter().map(json_value).collect(),
    }
}
