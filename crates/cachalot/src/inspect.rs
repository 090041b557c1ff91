//! [`Inspection`]: what a model is and what it will cost, told from its config and file headers alone.

use std::collections::BTreeMap;
use std::fmt;

use checkpoint::ModelConfig;
use engine::default_kv_dtype;
use kernels::DType;
use models::IndexFormat;
use serde::Serialize;
use text::PromptFormat;

use crate::{Error, ModelSource, Progress};

/// Context lengths at which the KV cache is priced.
const CONTEXTS: [usize; 3] = [4 << 10, 32 << 10, 128 << 10];

/// Everything that can be said about a model without reading a weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// `demo`, the directory or the hub id.
    pub model: String,
    /// Class name of the released implementation.
    pub architecture: String,
    /// Family name.
    pub model_type: String,
    /// How conversations are written; `None` if the tokenizer is missing or unusable.
    pub prompt_format: Option<String>,
    /// Sizes by the names of `config.json`.
    pub shapes: BTreeMap<&'static str, usize>,
    /// Parameters of the decoder.
    pub total_parameters: u64,
    /// Parameters that one token passes through.
    pub active_parameters: u64,
    /// Parameters of the multi-token-prediction layers.
    pub mtp_parameters: u64,
    /// Bytes of the tensors by stored dtype.
    pub weight_bytes_by_dtype: BTreeMap<String, u64>,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// The KV cache.
    pub kv_cache: KvCost,
}

/// What the KV cache costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KvCost {
    /// Element type.
    pub dtype: String,
    /// Bytes per token over all layers.
    pub bytes_per_token: u64,
    /// Bytes of one sequence, by its number of tokens.
    pub bytes_at: BTreeMap<usize, u64>,
}

impl Inspection {
    /// Inspects a model; a hub id is downloaded first if it is not in the cache. `kv_dtype` replaces the cache's
    /// default element type, `index` is the form of the index keys of V3.2 and V4 in it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for files that are missing, damaged or of an unsupported kind, [`Error::Model`] for an
    /// element type or a form of index keys that the model's cache cannot have.
    pub fn of(
        source: &ModelSource,
        kv_dtype: Option<DType>,
        index: IndexFormat,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let opened = source.open(progress)?;
        let config = opened.checkpoint.config();
        let common = config.common();
        let summary = models::summary(config);
        let mut weight_bytes_by_dtype = BTreeMap::new();
        for info in opened.checkpoint.names().filter_map(|name| opened.checkpoint.info(name)) {
            *weight_bytes_by_dtype.entry(info.storage()).or_insert(0) += info.size_bytes as u64;
        }
        // A checkpoint without a tokenizer can still be looked at.
        let format =
            opened.tokenizer().and_then(|tokenizer| Ok(PromptFormat::new(&tokenizer, &common.model_type)?));
        let dtype = kv_dtype.unwrap_or_else(|| default_kv_dtype(common));
        index.check(config)?;
        let bytes_per_token = models::kv_layout(config).with_index(index).bytes_per_token(dtype)? as u64;
        Ok(Self {
            model: opened.name.clone(),
            architecture: common.architecture.clone(),
            model_type: common.model_type.clone(),
            prompt_format: format.ok().map(|format| format.name()),
            shapes: shapes(config),
            total_parameters: summary.total_parameters,
            active_parameters: summary.active_parameters,
            mtp_parameters: summary.mtp_parameters,
            weight_bytes: weight_bytes_by_dtype.values().sum(),
            weight_bytes_by_dtype,
            kv_cache: KvCost {
                dtype: dtype.to_string(),
                bytes_per_token,
                bytes_at: CONTEXTS.iter().map(|&tokens| (tokens, tokens as u64 * bytes_per_token)).collect(),
            },
        })
    }
}

fn shapes(config: &ModelConfig) -> BTreeMap<&'static str, usize> {
    let common = config.common();
    let mut shapes = BTreeMap::from([
        ("num_hidden_layers", common.num_hidden_layers),
        ("hidden_size", common.hidden_size),
        ("intermediate_size", common.intermediate_size),
        ("num_attention_heads", common.num_attention_heads),
        ("num_key_value_heads", common.num_key_value_heads),
        ("vocab_size", common.vocab_size),
        ("max_position_embeddings", common.max_position_embeddings),
    ]);
    let ModelConfig::Deepseek(config) = config else {
        return shapes;
    };
    if let Some(mla) = &config.mla {
        shapes.extend([
            ("kv_lora_rank", mla.kv_lora_rank),
            ("qk_nope_head_dim", mla.qk_nope_head_dim),
            ("qk_rope_head_dim", mla.qk_rope_head_dim),
            ("v_head_dim", mla.v_head_dim),
        ]);
        shapes.extend(mla.q_lora_rank.map(|rank| ("q_lora_rank", rank)));
    }
    if let Some(indexer) = &config.indexer {
        shapes.extend([
            ("index_n_heads", indexer.index_n_heads),
            ("index_head_dim", indexer.index_head_dim),
            ("index_topk", indexer.index_topk),
        ]);
    }
    if let Some(moe) = &config.moe {
        shapes.extend([
            ("n_routed_experts", moe.n_routed_experts),
            ("n_shared_experts", moe.n_shared_experts),
            ("num_experts_per_tok", moe.num_experts_per_tok),
            ("moe_intermediate_size", moe.moe_intermediate_size),
        ]);
    }
    shapes
}

/// A page for people.
impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model          {}", self.model)?;
        writeln!(f, "family         {} ({})", self.model_type, self.architecture)?;
        writeln!(
            f,
            "prompt format  {}",
            self.prompt_format.as_deref().unwrap_or("unknown: no usable tokenizer")
        )?;
        let (total, active) = (count(self.total_parameters), count(self.active_parameters));
        write!(f, "parameters     {total} total, {active} active per token")?;
        match self.mtp_parameters {
            0 => writeln!(f)?,
            mtp => writeln!(f, ", {} in prediction layers", count(mtp))?,
        }
        let dtypes: Vec<String> =
            self.weight_bytes_by_dtype.iter().map(|(dtype, &n)| format!("{dtype} {}", bytes(n))).collect();
        writeln!(f, "weights        {} ({})", bytes(self.weight_bytes), dtypes.join(", "))?;
        let kv = &self.kv_cache;
        write!(f, "KV cache       {} per token ({})", bytes(kv.bytes_per_token), kv.dtype)?;
        for (tokens, &size) in &kv.bytes_at {
            write!(f, ", {} at {}K", bytes(size), tokens >> 10)?;
        }
        writeln!(f, "\nshapes")?;
        let width = self.shapes.keys().map(|name| name.len()).max().unwrap_or(0);
        let lines: Vec<String> =
            self.shapes.iter().map(|(name, size)| format!("  {name:width$}  {size}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// `671.0B`, `15.7B`, `7.9M`.
fn count(n: u64) -> String {
    scaled(n, 1000, &["", "K", "M", "B", "T"])
}

/// `15.3 MiB`.
fn bytes(n: u64) -> String {
    scaled(n, 1024, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(n: u64, base: u64, units: &[&str]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    while value >= base as f64 && unit + 1 < units.len() {
        (value, unit) = (value / base as f64, unit + 1);
    }
    if unit == 0 { format!("{n}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count};

    #[test]
    fn numbers_for_people() {
        assert_eq!([count(999), count(7_900_000), count(671_026_419_200)], ["999", "7.9M", "671.0B"]);
        assert_eq!([bytes(512), bytes(70_272), bytes(16 << 30)], ["512 B", "68.6 KiB", "16.0 GiB"]);
    }
}
