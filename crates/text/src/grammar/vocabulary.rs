//! The tokenizer as llguidance wants it: a trie of every token's bytes, control tokens marked so that no text spells them.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Lays out the vocabulary.
///
/// # Errors
/// [`Error::Malformed`] when the tokenizer has no token that ends an answer.
pub(super) fn environment(tokenizer: &Tokenizer) -> Result<TokEnv> {
    let eos = tokenizer.eos_ids();
    let first = *eos.first().ok_or_else(|| Error::Malformed {
        file: "tokenizer_config.json".to_owned(),
        field: "eos_token".to_owned(),
        expected: "a token that ends an answer",
        found: "nothing".to_owned(),
    })?;
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words);
    // Grammars never force tokens here, so how a text would be cut into tokens does not matter.
    Ok(Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(eos))))
}

fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if tokenizer.is_control(id) {
        let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        marked.extend_from_slice(bytes);
        return marked;
    }
    bytes.to_vec()
}
