//! `Prompt`: a rendered conversation as a list of segments, each either one control token or plain text.
//!
//! The split is what keeps users out of the control channel: a tokenizer turns a control segment into exactly one id and a text segment into
//! ordinary pieces, so a control token arises only where an encoder put it, whatever a user types.

use crate::encoding::markers::{DSML, THINK};

/// One piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Exactly one added token of the tokenizer, by its spelling.
    Control(String),
    /// Plain text; it never becomes a control token.
    Text(String),
}

impl Segment {
    /// The characters of the segment.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Control(text) | Self::Text(text) => text,
        }
    }
}

/// A rendered conversation. Neighbouring texts are merged, so that the tokenizer sees the same runs of text as the reference encoders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// An empty prompt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one control token.
    pub fn control(&mut self, token: &str) -> &mut Self {
        self.segments.push(Segment::Control(token.to_owned()));
        self
    }

    /// Appends plain text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
        self
    }

    /// The segments in order; no two texts are neighbours and none is empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether the prompt ends inside a reasoning block that it opened itself, so that generated text starts as reasoning; the block may
    /// already hold text that the model is to continue.
    pub fn opens_reasoning(&self) -> bool {
        let control = self.segments.iter().rev().find_map(|segment| match segment {
            Segment::Control(token) => Some(token.as_str()),
            Segment::Text(_) => None,
        });
        control == Some(THINK)
    }

    /// The text after the last control token, `None` when the prompt ends with one.
    pub(crate) fn trailing_text(&self) -> Option<&str> {
        match self.segments.last()? {
            Segment::Text(text) => Some(text),
            Segment::Control(_) => None,
        }
    }

    /// Whether the prompt ends with the opening tag of V4's or V4.1's list of tool calls.
    pub(crate) fn opens_tool_calls(&self) -> bool {
        match &self.segments[..] {
            [.., Segment::Control(token), Segment::Text(tag)] => {
                token == DSML && matches!(tag.as_str(), "tool_calls>\n" | " calls>\n")
            }
            _ => false,
        }
    }

    /// Builds a prompt from its string and the half-open ranges of code points that are control tokens, one token each.
    ///
    /// Returns `None` when the ranges are not ascending, overlap, are empty or leave the string.
    pub fn from_char_ranges(text: &str, ranges: &[(usize, usize)]) -> Option<Self> {
        let mut offsets: Vec<usize> = text.char_indices().map(|(offset, _)| offset).collect();
        offsets.push(text.len());
        let mut prompt = Self::new();
        let mut done = 0;
        for &(start, end) in ranges {
            let (start, end) = (*offsets.get(start)?, *offsets.get(end)?);
            if start < done || end <= start {
                return None;
            }
            prompt.text(&text[done..start]).control(&text[start..end]);
            done = end;
        }
        prompt.text(&text[done..]);
        Some(prompt)
    }

    /// Cuts the prompt so that it ends with the byte `end` of its string. A control token that would be cut through is kept whole.
    pub(crate) fn truncate(&mut self, end: usize) {
        let mut length = 0;
        let mut keep = 0;
        for segment in &mut self.segments {
            if length >= end {
                break;
            }
            keep += 1;
            if let Segment::Text(text) = segment
                && length + text.len() > end
            {
                text.truncate(end - length);
            }
            length += segment.as_str().len();
        }
        self.segments.truncate(keep);
    }
}

/// The prompt as one string, for people and for comparison; encode the segments, never this.
impl std::fmt::Display for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.segments.iter().try_for_each(|segment| f.write_str(segment.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_texts_merge_and_empty_ones_vanish() {
        let mut prompt = Prompt::new();
        prompt.control("<a>").text("").text("x").text("y").control("<b>");
        assert_eq!(prompt.segments().len(), 3);
        assert_eq!(prompt.to_string(), "<a>xy<b>");
    }

    #[test]
    fn ranges_count_code_points() {
        let prompt = Prompt::from_char_ranges("é<b>ü", &[(1, 4)]).unwrap();
        assert_eq!(prompt.segments()[1], Segment::Control("<b>".to_owned()));
        assert_eq!(Prompt::from_char_ranges("abc", &[(1, 5)]), None);
        assert_eq!(Prompt::from_char_ranges("abc", &[(1, 2), (0, 1)]), None);
    }

    #[test]
    fn truncating_cuts_text_but_not_control() {
        let mut prompt = Prompt::new();
        prompt.control("<a>").text("hello").control("<b>");
        prompt.truncate(5);
        assert_eq!(prompt.to_string(), "<a>he");
        prompt.truncate(1);
        assert_eq!(prompt.to_string(), "<a>");
    }

    #[test]
    fn an_open_reasoning_block_is_seen_through_its_text() {
        let mut prompt = Prompt::new();
        assert!(!prompt.opens_reasoning());
        prompt.control("<think>").text("\nso");
        assert!(prompt.opens_reasoning());
        prompt.control("</think>").text("<think>");
        assert!(!prompt.opens_reasoning());
    }
}
