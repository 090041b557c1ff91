//! From the tensor names of llama.cpp to the released ones, and how the rows of a tensor differ from the released form.
//! Upstream: `gguf-py/gguf/tensor_mapping.py`.

/// Released names below `model.layers.N.`, by the name below `blk.N.` without its suffix.
const LAYER: [(&str, &str); 19] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

const EXPERTS: [(&str, &str); 3] =
    [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];

/// What a tensor of a GGUF file is in released terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Released {
    /// The tensor of this name.
    Tensor(String),
    /// The same, with the rows of query or key heads in the order of rotated pairs.
    RotaryPairs(String),
    /// The matrices `{prefix}.E.{projection}.weight` of all experts.
    Experts {
        /// `model.layers.N.mlp.experts`.
        prefix: String,
        /// `gate_proj`, `up_proj` or `down_proj`.
        projection: &'static str,
    },
    /// The key half of `{0}.kv_b_proj.weight`, transposed.
    KeyHalf(String),
    /// The value half of `{0}.kv_b_proj.weight`.
    ValueHalf(String),
}

/// The meaning of `name` in a model whose query and key rows are stored as rotated pairs, or not. A name that is not
/// known stays itself, so that the loader tells of it.
pub(super) fn released(name: &str, rotary_pairs: bool) -> Released {
    let known = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    let of_layer = || layer_tensor(name, rotary_pairs);
    known
        .map(|known| Released::Tensor(known.to_owned()))
        .or_else(of_layer)
        .unwrap_or_else(|| Released::Tensor(name.to_owned()))
}

fn layer_tensor(name: &str, rotary_pairs: bool) -> Option<Released> {
    let (index, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let index: usize = index.parse().ok()?;
    let prefix = format!("model.layers.{index}");
    // The one name that came without a suffix for a while.
    if matches!(rest, "exp_probs_b" | "exp_probs_b.bias") {
        return Some(Released::Tensor(format!("{prefix}.mlp.gate.e_score_correction_bias")));
    }
    let (stem, suffix) = rest.split_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    match (stem, suffix) {
        ("attn_k_b", "weight") => return Some(Released::KeyHalf(format!("{prefix}.self_attn"))),
        ("attn_v_b", "weight") => return Some(Released::ValueHalf(format!("{prefix}.self_attn"))),
        _ => {}
    }
    if let Some((_, projection)) = EXPERTS.iter().find(|row| row.0 == stem) {
        return (suffix == "weight")
            .then(|| Released::Experts { prefix: format!("{prefix}.mlp.experts"), projection });
    }
    let known = LAYER.iter().find(|row| row.0 == stem)?.1;
    let known = format!("{prefix}.{known}.{suffix}");
    let is_rotated = rotary_pairs && matches!(stem, "attn_q" | "attn_k");
    Some(if is_rotated { Released::RotaryPairs(known) } else { Released::Tensor(known) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind() {
        let tensor = |name: &str| Released::Tensor(name.to_owned());
        for (name, expected) in [
            ("token_embd.weight", tensor("model.embed_tokens.weight")),
            ("blk.11.attn_kv_a_mqa.weight", tensor("model.layers.11.self_attn.kv_a_proj_with_mqa.weight")),
            ("blk.3.attn_q.bias", tensor("model.layers.3.self_attn.q_proj.bias")),
            ("blk.3.exp_probs_b", tensor("model.layers.3.mlp.gate.e_score_correction_bias")),
            ("blk.3.ffn_up_shexp.weight", tensor("model.layers.3.mlp.shared_experts.up_proj.weight")),
            ("blk.0.attn_v_b.weight", Released::ValueHalf("model.layers.0.self_attn".to_owned())),
            ("rope_freqs.weight", tensor("rope_freqs.weight")),
            ("blk.0.nextn.eh_proj.weight", tensor("blk.0.nextn.eh_proj.weight")),
            ("blk.x.attn_q.weight", tensor("blk.x.attn_q.weight")),
        ] {
            assert_eq!(released(name, false), expected, "{name}");
        }
        let prefix = "model.layers.5.mlp.experts".to_owned();
        let experts = Released::Experts { prefix, projection: "down_proj" };
        assert_eq!(released("blk.5.ffn_down_exps.weight", false), experts);
    }

    #[test]
    fn only_queries_and_keys_are_stored_as_pairs() {
        let key = "model.layers.0.self_attn.k_proj.weight".to_owned();
        assert_eq!(released("blk.0.attn_k.weight", true), Released::RotaryPairs(key));
        assert!(matches!(released("blk.0.attn_v.weight", true), Released::Tensor(_)));
        assert!(matches!(released("blk.0.attn_output.weight", true), Released::Tensor(_)));
    }
}
