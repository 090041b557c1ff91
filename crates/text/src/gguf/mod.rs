//! [`GgufVocabulary`]: a tokenizer from the metadata of a GGUF file.
//!
//! Only normal tokens go into the merges; control tokens and added ones come from control segments alone, as with tokenizer.json. Tokens
//! marked as unused fill up the embedding and spell nothing.

mod pre_tokenization;

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};

use crate::error::{Error, Result};
use crate::tokenizer::{SequenceIds, Tokenizer};
use crate::tokenizer_config::TokenizerConfig;
use crate::vocabulary::AddedToken;
use pre_tokenization::{NAMES, PreTokenization};

/// The keys `tokenizer.*` of a GGUF file that this crate reads, by their names there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: the kind; `gpt2` is byte-level BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: every token by id; normal ones in the byte alphabet.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. If empty, all are normal.
    pub token_types: Vec<u64>,
    /// `tokenizer.ggml.merges`: both halves of each with a space between, the first merge first.
    pub merges: Vec<String>,
    /// Token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Token that ends a sequence.
    pub eos_token_id: Option<u32>,
    /// Token that ends a turn; it ends an answer as well.
    pub eot_token_id: Option<u32>,
    /// Token that fills up.
    pub padding_token_id: Option<u32>,
    /// Whether a plain text is encoded with BOS in front.
    pub add_bos_token: Option<bool>,
    /// `tokenizer.chat_template`: Jinja.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// The tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the key: a kind other than byte-level BPE, a pre-tokenizer that this build does not know, tokens and
    /// merges that do not belong together, ids beyond the tokens.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self> {
        if vocabulary.model != "gpt2" {
            return Err(malformed(
                "model",
                "gpt2, which is byte-level BPE",
                format!("{:?}", vocabulary.model),
            ));
        }
        let pre = PreTokenization::named(vocabulary.pre.as_deref()).ok_or_else(|| {
            malformed("pre", NAMES, format!("{:?}", vocabulary.pre.as_deref().unwrap_or_default()))
        })?;
        let (pieces, added) = vocabulary.kinds()?;
        let merges = vocabulary.merges(&pieces)?;
        let table: Vocab = pieces.iter().map(|(spelling, id)| (spelling.clone(), *id)).collect();
        let refused = |reason: tokenizers::Error| {
            malformed("merges", "merges that the tokenizers library takes", reason.to_string())
        };
        let bpe = BPE::builder().vocab_and_merges(table, merges).ignore_merges(pre.whole_tokens);
        let mut model = tokenizers::Tokenizer::new(bpe.build().map_err(refused)?);
        pre.apply(&mut model).map_err(refused)?;
        let (bos, eos) = (
            vocabulary.spelled("bos", vocabulary.bos_token_id)?,
            vocabulary.spelled("eos", vocabulary.eos_token_id)?,
        );
        let pad = vocabulary.spelled("padding", vocabulary.padding_token_id)?;
        vocabulary.spelled("eot", vocabulary.eot_token_id)?;
        let config = TokenizerConfig {
            bos_token: bos,
            eos_token: eos,
            pad_token: pad,
            add_bos_token: vocabulary.add_bos_token.unwrap_or(pre.adds_bos),
            chat_template: vocabulary.chat_template.clone(),
        };
        let mut eos: Vec<u32> =
            [vocabulary.eos_token_id, vocabulary.eot_token_id].into_iter().flatten().collect();
        eos.dedup();
        let ids = SequenceIds { bos: vocabulary.bos_token_id, pad: vocabulary.padding_token_id, eos };
        Ok(Self::assemble(model, &pieces, &added, config, ids))
    }
}

impl GgufVocabulary {
    /// The normal tokens and the added ones.
    fn kinds(&self) -> Result<(HashMap<String, u32>, Vec<AddedToken>)> {
        let (count, types) = (self.tokens.len(), self.token_types.len());
        if types != 0 && types != count {
            return Err(malformed("token_type", "as many as tokens", format!("{types} for {count} tokens")));
        }
        let (mut pieces, mut added) = (HashMap::with_capacity(count), Vec::new());
        for (index, (id, token)) in (0u32..).zip(&self.tokens).enumerate() {
            let mut add = |special| added.push(AddedToken { id, content: token.clone(), special });
            match self.token_types.get(index).copied().unwrap_or(1) {
                1 => {
                    if pieces.insert(token.clone(), id).is_some() {
                        let key = format!("tokens[{index}]");
                        return Err(malformed(
                            &key,
                            "a token of its own",
                            format!("{token:?} a second time"),
                        ));
                    }
                }
                2 | 3 => add(true),
                4 => add(false),
                5 => {}
                other => {
                    let key = format!("token_type[{index}]");
                    return Err(malformed(&key, "1 to 5, the types of a byte-level BPE", other.to_string()));
                }
            }
        }
        Ok((pieces, added))
    }

    /// The merges, each of two tokens that make a token.
    fn merges(&self, pieces: &HashMap<String, u32>) -> Result<Merges> {
        if self.merges.is_empty() {
            return Err(malformed("merges", "the merges of a BPE", "nothing".to_owned()));
        }
        let known = |(left, right): &(&str, &str)| {
            pieces.contains_key(*left)
                && pieces.contains_key(*right)
                && pieces.contains_key(&format!("{left}{right}"))
        };
        let merge = |(index, merge): (usize, &String)| match merge.split_once(' ').filter(known) {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => {
                let expected = "two tokens that together are one, with a space between";
                Err(malformed(&format!("merges[{index}]"), expected, format!("{merge:?}")))
            }
        };
        self.merges.iter().enumerate().map(merge).collect()
    }

    fn spelled(&self, name: &str, id: Option<u32>) -> Result<Option<String>> {
        let Some(id) = id else { return Ok(None) };
        match self.tokens.get(id as usize) {
            Some(token) => Ok(Some(token.clone())),
            None => {
                let found = format!("{id} of {}", self.tokens.len());
                Err(malformed(&format!("{name}_token_id"), "the id of a token", found))
            }
        }
    }
}

fn malformed(key: &str, expected: &'static str, found: String) -> Error {
    Error::Malformed {
        file: "GGUF metadata".to_owned(),
        field: format!("tokenizer.ggml.{key}"),
        expected,
        found,
    }
}
