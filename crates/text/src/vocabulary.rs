//! `Vocabulary`: the bytes, kind and spelling of every token id, laid out once at load so that decoding is a table look-up.
//!
//! A byte-level BPE vocabulary spells each byte as one printable character (GPT-2's alphabet); the inverse of that alphabet gives a piece's
//! bytes. Added tokens are spelled as they are.

use std::collections::{HashMap, HashSet};

/// What the tokenizer file says about one added token.
#[derive(Debug, Clone)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    pub(crate) special: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    start: u32,
    end: u32,
    known: bool,
    special: bool,
}

/// Bytes and kinds of all token ids.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    control: HashMap<String, u32>,
    control_ids: HashSet<u32>,
    letters: HashMap<char, u32>,
}

impl Vocabulary {
    /// Lays out `pieces` (spelling to id, in the byte alphabet) and the added tokens.
    pub(crate) fn new(pieces: &HashMap<String, u32>, added: &[AddedToken]) -> Self {
        let length =
            pieces.values().chain(added.iter().map(|token| &token.id)).max().map_or(0, |id| *id as usize + 1);
        let mut vocabulary = Self {
            bytes: Vec::new(),
            entries: vec![Entry::default(); length],
            control: HashMap::new(),
            control_ids: HashSet::new(),
            letters: HashMap::new(),
        };
        let alphabet = byte_alphabet();
        for (spelling, &id) in pieces {
            let bytes: Option<Vec<u8>> = spelling.chars().map(|c| alphabet.get(&c).copied()).collect();
            vocabulary.set(id, bytes.as_deref().unwrap_or(spelling.as_bytes()), false);
        }
        for token in added {
            vocabulary.set(token.id, token.content.as_bytes(), token.special);
            let mut chars = token.content.chars();
            match (chars.next(), chars.next()) {
                // Coder v1 adds a few single letters ("õ") as tokens: they are text, and text must be able to produce them.
                (Some(letter), None) if !token.special => {
                    vocabulary.letters.insert(letter, token.id);
                }
                _ => {
                    vocabulary.control.insert(token.content.clone(), token.id);
                    vocabulary.control_ids.insert(token.id);
                }
            }
        }
        vocabulary
    }

    fn set(&mut self, id: u32, bytes: &[u8], special: bool) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.entries[id as usize] = Entry { start, end: self.bytes.len() as u32, known: true, special };
    }

    /// Number of ids, gaps included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of one token, `None` for an id without a token.
    pub(crate) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let entry = self.entries.get(id as usize).filter(|entry| entry.known)?;
        Some(&self.bytes[entry.start as usize..entry.end as usize])
    }

    /// Whether the tokenizer file marks the token as special.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_some_and(|entry| entry.special)
    }

    /// Whether the id is a control token: an added token that is not a single letter.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.control_ids.contains(&id)
    }

    /// The id of a control token.
    pub(crate) fn control_id(&self, spelling: &str) -> Option<u32> {
        self.control.get(spelling).copied()
    }

    /// Spellings of all control tokens, in no order.
    pub(crate) fn control_spellings(&self) -> impl Iterator<Item = &str> {
        self.control.keys().map(String::as_str)
    }

    /// The id of a letter that is an added token of its own.
    pub(crate) fn letter_id(&self, letter: char) -> Option<u32> {
        self.letters.get(&letter).copied()
    }

    /// Whether any letter is an added token.
    pub(crate) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }
}

/// GPT-2's byte alphabet, inverted: printable Latin-1 bytes spell themselves, the others follow from U+0100 in byte order.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    let mut alphabet = HashMap::with_capacity(256);
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let spelled = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        alphabet.insert(spelled, byte);
    }
    alphabet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection_on_bytes() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet.values().collect::<HashSet<_>>().len(), 256);
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
        assert_eq!(alphabet[&'Ń'], 0xAD);
    }
}
