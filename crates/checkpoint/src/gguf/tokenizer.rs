//! [`GgufTokenizer`]: the vocabulary and the chat template as the metadata of a GGUF file has them. Plain data; what it
//! means is the tokenizer's business.

use super::metadata::Metadata;
use crate::Result;

/// The keys `tokenizer.*` of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: the kind, such as `gpt2` for byte-level BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
    pub pre: Option<String>,
    /// Every token by id, in the spelling of the kind.
    pub tokens: Vec<String>,
    /// What each token is: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty if the file does not
    /// say.
    pub token_types: Vec<u64>,
    /// The merges of a BPE in order, both halves with a space between.
    pub merges: Vec<String>,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Token that ends a turn.
    pub eot_token_id: Option<u32>,
    /// Token that fills up.
    pub padding_token_id: Option<u32>,
    /// Whether a plain text is encoded with BOS in front.
    pub add_bos_token: Option<bool>,
    /// The Jinja template of conversations.
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// `None` for a file without a vocabulary.
    pub(super) fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let Some(model) = metadata.text(&key("model"))? else { return Ok(None) };
        let tokens = metadata.texts(&key("tokens"))?.unwrap_or_default();
        let id = |name: &str| metadata.id(&key(&format!("{name}_token_id")));
        Ok(Some(Self {
            model: model.to_owned(),
            pre: metadata.text(&key("pre"))?.map(str::to_owned),
            tokens,
            token_types: metadata.unsigneds(&key("token_type"))?.unwrap_or_default(),
            merges: metadata.texts(&key("merges"))?.unwrap_or_default(),
            bos_token_id: id("bos")?,
            eos_token_id: id("eos")?,
            eot_token_id: id("eot")?,
            padding_token_id: id("padding")?,
            add_bos_token: metadata.flag(&key("add_bos_token"))?,
            chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
        }))
    }
}
