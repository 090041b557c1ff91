//! `Detokenizer`: token ids in, whole characters out, one token at a time.
//!
//! A byte-level token may end in the middle of a character, so the bytes of an unfinished character wait for the next token. Bytes that can
//! no longer become a character leave as U+FFFD exactly as `String::from_utf8_lossy` would show the whole output: the concatenation of all
//! pieces equals the lossy decode of all bytes.

use std::sync::Arc;

use crate::vocabulary::Vocabulary;

/// Whether tokens that the tokenizer file marks as special (bos, eos, pad, placeholders) appear in the text.
///
/// Markers such as `<think>` are added tokens but not special in DeepSeek's files, and always appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// Leave special tokens out.
    #[default]
    Skip,
    /// Spell special tokens out.
    Show,
}

/// Turns a stream of token ids into text; made by [`Tokenizer::detokenizer`](crate::Tokenizer::detokenizer).
#[derive(Debug, Clone)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    special_tokens: SpecialTokens,
    pending: Vec<u8>,
}

impl Detokenizer {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, special_tokens: SpecialTokens) -> Self {
        Self { vocabulary, special_tokens, pending: Vec::new() }
    }

    /// Takes one token and returns the text that is complete now, often empty.
    ///
    /// An id without a token (a padding row of the embedding) adds nothing, as in the reference decoder.
    pub fn push(&mut self, id: u32) -> String {
        if self.special_tokens == SpecialTokens::Skip && self.vocabulary.is_special(id) {
            return String::new();
        }
        let Some(bytes) = self.vocabulary.token_bytes(id) else {
            return String::new();
        };
        self.pending.extend_from_slice(bytes);
        take_complete(&mut self.pending)
    }

    /// Ends the stream: an unfinished character leaves as U+FFFD. The detokenizer is ready for a new stream afterwards.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Takes all of `bytes` but an unfinished character at the end, with what cannot be UTF-8 replaced.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        if done + invalid.len() == bytes.len() && could_continue(invalid) {
            break;
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        done += invalid.len();
    }
    bytes.drain(..done);
    text
}

/// Whether more bytes could complete `invalid` to a character.
fn could_continue(invalid: &[u8]) -> bool {
    !invalid.is_empty() && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(chunks: &[Vec<u8>]) -> (Vec<String>, String) {
        let mut pending = Vec::new();
        let pieces = chunks
            .iter()
            .map(|chunk| {
                pending.extend_from_slice(chunk);
                take_complete(&mut pending)
            })
            .collect();
        (pieces, String::from_utf8_lossy(&pending).into_owned())
    }

    #[test]
    fn a_split_character_waits() {
        let whale = "🐋".as_bytes();
        let (pieces, rest) = stream(&[whale[..1].to_vec(), whale[1..3].to_vec(), whale[3..].to_vec()]);
        assert_eq!((pieces, rest), (vec![String::new(), String::new(), "🐋".to_owned()], String::new()));
    }

    #[test]
    fn an_impossible_byte_does_not_wait() {
        let (pieces, rest) = stream(&[vec![b'a', 0xFF], vec![0xE6], vec![b'b']]);
        assert_eq!(
            (pieces, rest),
            (vec!["a\u{FFFD}".to_owned(), String::new(), "\u{FFFD}b".to_owned()], String::new())
        );
    }

    proptest! {
        #[test]
        fn any_chunking_equals_the_lossy_decode(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..40)) {
            let (pieces, rest) = stream(&chunks);
            prop_assert_eq!(pieces.concat() + &rest, String::from_utf8_lossy(&chunks.concat()).into_owned());
        }

        #[test]
        fn valid_text_never_shows_a_replacement(text in "\\PC{0,40}", size in 1usize..5) {
            let chunks: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            let (pieces, rest) = stream(&chunks);
            prop_assert!(rest.is_empty());
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
