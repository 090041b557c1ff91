//! [`ModelOptions`]: what a checkpoint leaves to whoever loads it.

use checkpoint::ModelConfig;

use crate::{ExpertFormat, IndexFormat};

/// The forms of a model that its checkpoint does not decide. The default is exact: everything as stored and as computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// What becomes of routed experts.
    pub experts: ExpertFormat,
    /// What the indexer of V3.2 or V4 compares.
    pub index: IndexFormat,
    /// Whether MTP layers are read, which only a drafter needs. Where they are not, the model has none.
    pub mtp: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { experts: ExpertFormat::AsStored, index: IndexFormat::Exact, mtp: true }
    }
}

impl ModelOptions {
    /// Whether tensor `name` is read at all.
    pub(crate) fn wants(&self, config: &ModelConfig, name: &str) -> bool {
        match of_mtp_layer(config, name) {
            None => true,
            // Of the token table and the head MTP layers store copies, as the config promises, and share the model's own.
            Some(rest) => self.mtp && !COPIES.iter().any(|copy| rest.starts_with(copy)),
        }
    }
}

/// The copies in MTP layers: V3's, then V4's.
const COPIES: [&str; 5] = ["embed_tokens.", "shared_head.head.", "emb.", "embed.", "head."];

/// The name of a tensor within its MTP layer; `None` for one that is in none that the config announces.
fn of_mtp_layer<'n>(config: &ModelConfig, name: &'n str) -> Option<&'n str> {
    let (prefix, first, count) = match config {
        ModelConfig::Llama(_) => return None,
        ModelConfig::Deepseek(config) => {
            ("model.layers.", config.common.num_hidden_layers, config.num_nextn_predict_layers)
        }
        ModelConfig::DeepseekV4(config) => ("mtp.", 0, config.num_nextn_predict_layers),
    };
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    (first..first + count).contains(&layer).then_some(rest)
}
