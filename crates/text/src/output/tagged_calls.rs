//! `TaggedCallParser`: tool calls of V3.2 in streamed text, written as tags around `｜DSML｜`.
//!
//! A call counts only in a list that was closed, and what of a text is a call depends on all that follows, so from the first tag on the text
//! is held to its end and then read as a whole. The text before streams, but for the line breaks that lead a list.

use super::OutputDelta;
use super::markers::begun;
use super::tagged_text::read;
use crate::encoding::markers::DSML;

/// What leads a tag, the longest first, each with the tag's marker.
const LEADS: [&str; 6] =
    ["\n\n</｜DSML｜", "\n\n<｜DSML｜", "\n\n｜DSML｜", "</｜DSML｜", "<｜DSML｜", "｜DSML｜"];

/// Divides the text of an answer into content and calls.
#[derive(Debug)]
pub(super) struct TaggedCallParser {
    offered: Vec<String>,
    /// What may lead a tag; from the first tag on, all text.
    held: String,
    tagged: bool,
}

impl TaggedCallParser {
    pub(super) fn new(offered: Vec<String>) -> Self {
        Self { offered, held: String::new(), tagged: false }
    }

    /// Takes a chunk and appends what is certain now.
    pub(super) fn push(&mut self, chunk: &str, deltas: &mut Vec<OutputDelta>) {
        self.held.push_str(chunk);
        if self.tagged {
            return;
        }
        let certain = match self.held.find(DSML) {
            Some(at) => {
                self.tagged = true;
                before_lead(&self.held[..at])
            }
            None => {
                let lead = LEADS.iter().map(|lead| begun(&self.held, lead)).max().unwrap_or(0);
                self.held.len() - lead
            }
        };
        emit(self.held.drain(..certain).collect(), deltas);
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self, deltas: &mut Vec<OutputDelta>) {
        let held = std::mem::take(&mut self.held);
        if !self.tagged {
            return emit(held, deltas);
        }
        let (content, calls) = read(&held, &self.offered);
        emit(content.to_owned(), deltas);
        for (index, call) in calls.into_iter().enumerate() {
            deltas.push(OutputDelta::ToolCall { index, name: call.name });
            deltas.push(OutputDelta::Arguments { index, text: call.arguments });
        }
    }
}

/// Length of the text in front of a tag's marker, without the tag's own beginning and the empty line before it.
fn before_lead(text: &str) -> usize {
    let text = text.strip_suffix("</").or_else(|| text.strip_suffix('<')).unwrap_or(text);
    text.strip_suffix("\n\n").unwrap_or(text).len()
}

fn emit(text: String, deltas: &mut Vec<OutputDelta>) {
    if !text.is_empty() {
        deltas.push(OutputDelta::Content(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: text kept for nothing or looked at again and again, tags let through.
    #[test]
    fn only_what_may_lead_a_tag_waits() {
        let mut parser = TaggedCallParser::new(vec!["f".to_owned()]);
        let mut deltas = Vec::new();
        for (chunk, held) in
            [("a", ""), ("\n", "\n"), ("\n\n", "\n\n"), ("<｜DS", "\n\n<｜DS"), ("b<", "<"), ("/｜", "</｜")]
        {
            parser.push(chunk, &mut deltas);
            assert_eq!(parser.held, held);
        }
        parser.push("DSML｜", &mut deltas);
        let content: String = deltas
            .iter()
            .map(|delta| match delta {
                OutputDelta::Content(text) => text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(content, "a\n\n\n<｜DSb");
        parser.push("function_calls>", &mut deltas);
        assert_eq!(parser.held, "</｜DSML｜function_calls>");
    }
}
