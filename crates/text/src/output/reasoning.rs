//! `ReasoningSplitter`: divides streamed text into reasoning and content around `<think>` and `</think>`, whatever the chunks.
//!
//! A prompt that ends with `<think>` makes the text start inside the block ([`Prompt::opens_reasoning`](crate::Prompt::opens_reasoning)).
//! Otherwise a block counts only when it opens the text; a tag later on is content, since a model may well write about tags. The characters
//! between the tags are passed on as they are, line breaks included.

use super::markers::begun;
use crate::encoding::markers::{END_THINK as CLOSE, THINK as OPEN};

/// A run of text with its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// Text of the reasoning block.
    Reasoning(String),
    /// Text of the answer.
    Content(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space yet; an opening tag may follow. `inside`: the prompt opened the block.
    Start {
        inside: bool,
    },
    Reasoning,
    Content,
}

/// Splits one stream of text.
#[derive(Debug, Clone)]
pub struct ReasoningSplitter {
    state: State,
    held: String,
    /// Bytes at the start of `held` that are white space before a possible opening tag.
    blank: usize,
}

impl ReasoningSplitter {
    /// A splitter for a text that starts inside the reasoning block (`inside`) or before it.
    pub fn new(inside: bool) -> Self {
        Self { state: State::Start { inside }, held: String::new(), blank: 0 }
    }

    /// Takes a chunk and returns what is certain now. A possible beginning of a tag is held back.
    pub fn push(&mut self, chunk: &str) -> Vec<Piece> {
        self.held.push_str(chunk);
        let mut pieces = Vec::new();
        if let State::Start { inside } = self.state {
            self.leave_start(inside);
        }
        if self.state == State::Reasoning {
            match self.held.find(CLOSE) {
                Some(at) => {
                    let rest = self.held.split_off(at + CLOSE.len());
                    self.held.truncate(at);
                    self.emit(&mut pieces);
                    self.held = rest;
                    self.state = State::Content;
                }
                None => {
                    let rest = self.held.split_off(self.held.len() - begun(&self.held, CLOSE));
                    self.emit(&mut pieces);
                    self.held = rest;
                }
            }
        }
        if self.state == State::Content {
            self.emit(&mut pieces);
        }
        pieces
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        if let State::Start { inside } = self.state {
            self.state = if inside { State::Reasoning } else { State::Content };
        }
        let mut pieces = Vec::new();
        self.emit(&mut pieces);
        pieces
    }

    /// Leaves the start once it is clear whether an opening tag comes first. A model that repeats the tag that the prompt already wrote
    /// does not open a second block.
    fn leave_start(&mut self, inside: bool) {
        let text = self.held[self.blank..].trim_start();
        self.blank = self.held.len() - text.len();
        if let Some(rest) = text.strip_prefix(OPEN) {
            self.held = rest.to_owned();
            self.state = State::Reasoning;
        } else if !OPEN.starts_with(text) {
            self.state = if inside { State::Reasoning } else { State::Content };
        }
    }

    fn emit(&mut self, pieces: &mut Vec<Piece>) {
        let text = std::mem::take(&mut self.held);
        if !text.is_empty() {
            pieces.push(if self.state == State::Reasoning {
                Piece::Reasoning(text)
            } else {
                Piece::Content(text)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&str], inside: bool) -> (String, String) {
        let mut splitter = ReasoningSplitter::new(inside);
        let mut pieces: Vec<Piece> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        pieces.extend(splitter.finish());
        let (mut reasoning, mut content) = (String::new(), String::new());
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => reasoning.push_str(&text),
                Piece::Content(text) => content.push_str(&text),
            }
        }
        (reasoning, content)
    }

    #[test]
    fn tags_divide_the_text() {
        for (chunks, inside, reasoning, content) in [
            (&["a</think>b"][..], true, "a", "b"),
            (&["<think>a</th", "ink>b"], false, "a", "b"),
            (&["\n<thi", "nk>a</think>b"], false, "a", "b"),
            (&["<think>a</think>b"], true, "a", "b"),
            (&["plain <think>x</think>"], false, "", "plain <think>x</think>"),
            (&["never closed"], true, "never closed", ""),
            (&["a</think>b</think>c"], true, "a", "b</think>c"),
            (&["  "], false, "", "  "),
            (&["<th"], false, "", "<th"),
            (&["a</thin", "g"], true, "a</thing", ""),
        ] {
            assert_eq!(split(chunks, inside), (reasoning.to_owned(), content.to_owned()), "{chunks:?}");
        }
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(parts in prop::collection::vec("(<think>|</think>|<|/|think|>| |a|é){0,4}", 0..8), inside: bool) {
            let whole = parts.concat();
            let chunks: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(split(&chunks, inside), split(&[&whole], inside));
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            prop_assert_eq!(split(&chars, inside), split(&[&whole], inside));
        }
    }
}
