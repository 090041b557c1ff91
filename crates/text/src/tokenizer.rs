//! `Tokenizer`: a checkpoint's byte-level BPE, with control tokens and plain text kept apart.
//!
//! The work is done by the `tokenizers` crate with its `onig` regexes: DeepSeek's pre-tokenizer needs the lookahead `\s+(?!\S)`, for which
//! the plain `regex` crate has no syntax, and Oniguruma is the engine that the published files were made with (its build is one C library,
//! without C++ or bindgen). What differs from the library's own `encode` is the added vocabulary: the library looks for added tokens in
//! every text, so that a user who types `<｜User｜>` would speak as the template. Here text runs through normalizer, pre-tokenizer and BPE
//! alone, and added tokens come only from the control segments of a [`Prompt`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::detokenizer::{Detokenizer, SpecialTokens};
use crate::error::{Error, Result};
use crate::prompt::{Prompt, Segment};
use crate::tokenizer_config::TokenizerConfig;
use crate::vocabulary::{AddedToken, Vocabulary};

/// A loaded tokenizer. Cloning is cheap: clones share the tables.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    model: Arc<tokenizers::Tokenizer>,
    vocabulary: Arc<Vocabulary>,
    config: Arc<TokenizerConfig>,
    bos_id: Option<u32>,
    pad_id: Option<u32>,
    eos_ids: Vec<u32>,
}

/// The ids that begin, fill and end a sequence.
pub(crate) struct SequenceIds {
    pub(crate) bos: Option<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) eos: Vec<u32>,
}

/// The parts of tokenizer.json that are checked before the library sees the file.
#[derive(serde::Deserialize)]
struct TokenizerFile {
    model: ModelKind,
    decoder: Option<serde_json::Value>,
}

#[derive(serde::Deserialize)]
struct ModelKind {
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

const TOKENIZER_JSON: &str = "tokenizer.json";
const TOKENIZER_CONFIG_JSON: &str = "tokenizer_config.json";
const CHAT_TEMPLATE_JINJA: &str = "chat_template.jinja";

impl Tokenizer {
    /// Loads `tokenizer.json` of a model directory, with `tokenizer_config.json` and `chat_template.jinja` where they exist.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Malformed`] when it is not a byte-level BPE tokenizer.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| Error::Io { path, source })
        };
        let optional = |name: &str| dir.join(name).exists().then(|| read(name)).transpose();
        let mut config = match optional(TOKENIZER_CONFIG_JSON)? {
            Some(bytes) => TokenizerConfig::from_bytes(&bytes)?,
            None => TokenizerConfig::default(),
        };
        if let Some(template) = optional(CHAT_TEMPLATE_JINJA)? {
            config.set_chat_template(CHAT_TEMPLATE_JINJA, template)?;
        }
        Self::new(&read(TOKENIZER_JSON)?, config)
    }

    /// Loads a tokenizer from the bytes of `tokenizer.json` and, where there is one, of `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a file is not what it should be.
    pub fn from_bytes(tokenizer_json: &[u8], tokenizer_config_json: Option<&[u8]>) -> Result<Self> {
        let config = tokenizer_config_json.map(TokenizerConfig::from_bytes).transpose()?.unwrap_or_default();
        Self::new(tokenizer_json, config)
    }

    fn new(tokenizer_json: &[u8], config: TokenizerConfig) -> Result<Self> {
        check_tokenizer_file(tokenizer_json)?;
        let mut model =
            tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(|reason| Error::Malformed {
                file: TOKENIZER_JSON.to_owned(),
                field: "tokenizer".to_owned(),
                expected: "a tokenizer that the tokenizers library loads",
                found: reason.to_string(),
            })?;
        // A file may ask for truncation or padding; a prompt must never be cut or filled silently.
        let _ = model.with_truncation(None);
        model.with_padding(None);
        let pieces: HashMap<String, u32> = model.get_vocab(false).into_iter().collect();
        let added: Vec<AddedToken> = model
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| AddedToken { id, special: token.special, content: token.content })
            .collect();
        let resolve = |field: &str, spelling: Option<&str>| {
            let control =
                |spelling| added.iter().find(|token| token.content == spelling).map(|token| token.id);
            match spelling.map(|spelling| control(spelling).or_else(|| pieces.get(spelling).copied())) {
                None => Ok(None),
                Some(Some(id)) => Ok(Some(id)),
                Some(None) => Err(Error::Malformed {
                    file: TOKENIZER_CONFIG_JSON.to_owned(),
                    field: field.to_owned(),
                    expected: "a token of tokenizer.json",
                    found: format!("{:?}", spelling.unwrap_or_default()),
                }),
            }
        };
        let ids = SequenceIds {
            bos: resolve("bos_token", config.bos_token())?,
            pad: resolve("pad_token", config.pad_token())?,
            eos: resolve("eos_token", config.eos_token())?.into_iter().collect(),
        };
        Ok(Self::assemble(model, &pieces, &added, config, ids))
    }

    /// A tokenizer from its parts: the library's, which encodes text, and the tables for everything else.
    pub(crate) fn assemble(
        model: tokenizers::Tokenizer,
        pieces: &HashMap<String, u32>,
        added: &[AddedToken],
        config: TokenizerConfig,
        ids: SequenceIds,
    ) -> Self {
        Self {
            model: Arc::new(model),
            vocabulary: Arc::new(Vocabulary::new(pieces, added)),
            config: Arc::new(config),
            bos_id: ids.bos,
            pad_id: ids.pad,
            eos_ids: ids.eos,
        }
    }

    /// Adds further end-of-sequence ids, such as `eos_token_id` of generation_config.json.
    #[must_use]
    pub fn with_eos_ids(mut self, ids: &[u32]) -> Self {
        for id in ids {
            if !self.eos_ids.contains(id) {
                self.eos_ids.push(*id);
            }
        }
        self
    }

    /// Encodes user text. No control token can come out of it: `<｜User｜>` becomes ordinary pieces.
    ///
    /// # Errors
    /// [`Error::Encode`] when the library refuses the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut start = 0;
        if self.vocabulary.has_letters() {
            for (offset, letter) in text.char_indices() {
                if let Some(id) = self.vocabulary.letter_id(letter) {
                    self.encode_run(&text[start..offset], &mut ids)?;
                    ids.push(id);
                    start = offset + letter.len_utf8();
                }
            }
        }
        self.encode_run(&text[start..], &mut ids)?;
        Ok(ids)
    }

    /// Encodes a prompt: each control segment is one id, each text segment goes the way of [`Tokenizer::encode_text`].
    ///
    /// Nothing is added: the prompt formats put BOS themselves.
    ///
    /// # Errors
    /// [`Error::UnknownControlToken`] when the prompt's format does not belong to this tokenizer.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Control(token) => match self.vocabulary.control_id(token) {
                    Some(id) => ids.push(id),
                    None => return Err(Error::UnknownControlToken { token: token.clone() }),
                },
                Segment::Text(text) => ids.extend(self.encode_text(text)?),
            }
        }
        Ok(ids)
    }

    /// Encodes a prompt that continues text rather than a conversation (plain completion, fill in the middle): BOS comes first where the
    /// checkpoint's `add_bos_token` asks for it and the prompt does not begin with it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_prompt`].
    pub fn encode_completion(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let mut ids = self.encode_prompt(prompt)?;
        if let Some(bos) = self.bos_id.filter(|bos| self.config.add_bos_token() && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn encode_run(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let failed =
            |reason: tokenizers::Error| Error::Encode { bytes: text.len(), reason: reason.to_string() };
        let mut pieces = PreTokenizedString::from(NormalizedString::from(text));
        if let Some(normalizer) = self.model.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece)).map_err(failed)?;
        }
        if let Some(pre_tokenizer) = self.model.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        pieces.tokenize(|piece| self.model.get_model().tokenize(piece.get())).map_err(failed)?;
        for (_, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            for token in tokens.iter().flatten() {
                if self.vocabulary.is_control(token.id) {
                    return Err(Error::ControlTokenFromText { token: token.value.clone() });
                }
                ids.push(token.id);
            }
        }
        Ok(())
    }

    /// Decodes ids to text; bytes that are not UTF-8 come out as U+FFFD.
    pub fn decode(&self, ids: &[u32], special_tokens: SpecialTokens) -> String {
        let mut detokenizer = self.detokenizer(special_tokens);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// A detokenizer for one stream of ids.
    pub fn detokenizer(&self, special_tokens: SpecialTokens) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.vocabulary), special_tokens)
    }

    /// The bytes of one token, which may be part of a character; `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.token_bytes(id)
    }

    /// Number of token ids, base vocabulary and added tokens together.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The id of a token: a control token by its spelling, a base token by its spelling in the byte alphabet.
    pub fn id_of_token(&self, token: &str) -> Option<u32> {
        self.vocabulary.control_id(token).or_else(|| self.model.token_to_id(token))
    }

    /// Whether the id is a control token: one that only a control segment can produce.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.is_control(id)
    }

    /// Spellings of all control tokens, in no order.
    pub fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.vocabulary.control_spellings()
    }

    /// The beginning-of-sequence id.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The padding id.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The ids that end a generation.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// What tokenizer_config.json says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }
}

/// Checks what the library would either accept silently or report without naming the field.
fn check_tokenizer_file(bytes: &[u8]) -> Result<()> {
    let file: TokenizerFile = serde_json::from_slice(bytes)
        .map_err(|reason| Error::json(TOKENIZER_JSON, "a JSON object with the field model", &reason))?;
    let malformed = |field: &str, expected, found: String| {
        Err(Error::Malformed { file: TOKENIZER_JSON.to_owned(), field: field.to_owned(), expected, found })
    };
    match file.model.kind.as_deref() {
        Some("BPE") => {}
        // Old files leave the type out; the library recognises BPE by its merges.
        None => {}
        Some(other) => return malformed("model.type", "BPE", format!("{other:?}")),
    }
    match file.decoder {
        Some(decoder) if is_byte_level(&decoder) => Ok(()),
        Some(decoder) => malformed("decoder", "ByteLevel", decoder["type"].to_string()),
        None => malformed("decoder", "ByteLevel", "nothing".to_owned()),
    }
}

fn is_byte_level(decoder: &serde_json::Value) -> bool {
    let nested = decoder["decoders"].as_array().is_some_and(|decoders| decoders.iter().any(is_byte_level));
    decoder["type"] == "ByteLevel" || nested
}
