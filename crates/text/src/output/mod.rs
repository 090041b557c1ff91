//! `OutputParser`: what a model writes becomes reasoning, content and tool calls, piece by piece, whatever the chunks.
//!
//! Markers never appear in a delta unless they turned out to be text, and the deltas of one text add up to the same output however the text
//! was cut.

pub(crate) mod calls;
mod dsml;
mod markers;
mod reasoning;
mod tagged_calls;
mod tagged_text;

use crate::chat::{Arguments, FunctionCall, Tool};
use crate::prompt::Prompt;
use calls::{CallForm, CallParser};
use dsml::DsmlParser;
pub use reasoning::{Piece, ReasoningSplitter};
use tagged_calls::TaggedCallParser;

/// A piece of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputDelta {
    /// Text of the reasoning.
    Reasoning(String),
    /// Text of the answer.
    Content(String),
    /// A call begins; its arguments follow.
    ToolCall {
        /// Place of the call in the output, from 0.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// A piece of a call's arguments, which are JSON text.
    Arguments {
        /// The call's place.
        index: usize,
        /// The piece.
        text: String,
    },
}

/// A whole output: what the deltas add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedOutput {
    /// The reasoning; empty if there was none.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The calls, their arguments as JSON text.
    pub tool_calls: Vec<FunctionCall>,
}

impl ParsedOutput {
    /// Adds a piece.
    pub fn add(&mut self, delta: OutputDelta) {
        match delta {
            OutputDelta::Reasoning(text) => self.reasoning.push_str(&text),
            OutputDelta::Content(text) => self.content.push_str(&text),
            OutputDelta::ToolCall { name, .. } => {
                self.tool_calls.push(FunctionCall { name, arguments: Arguments::Text(String::new()) });
            }
            OutputDelta::Arguments { index, text } => {
                if let Some(FunctionCall { arguments: Arguments::Text(all), .. }) =
                    self.tool_calls.get_mut(index)
                {
                    all.push_str(&text);
                }
            }
        }
    }
}

/// Where in an output a model's text begins. The prompt decides, and `true` or `false` say whether it opened the reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStart {
    /// The answer.
    Content,
    /// The reasoning.
    Reasoning,
    /// The reasoning whose beginning the prompt holds.
    ContinuedReasoning,
    /// The answer whose beginning the prompt holds.
    ContinuedContent,
    /// A list of tool calls that the prompt opened.
    ToolCalls,
}

impl From<bool> for OutputStart {
    fn from(opens_reasoning: bool) -> Self {
        if opens_reasoning { Self::Reasoning } else { Self::Content }
    }
}

impl From<&Prompt> for OutputStart {
    fn from(prompt: &Prompt) -> Self {
        let continued = prompt.trailing_text().is_some_and(|text| !text.trim().is_empty());
        match (prompt.opens_reasoning(), continued) {
            (true, false) => Self::Reasoning,
            (true, true) => Self::ContinuedReasoning,
            (false, _) if prompt.opens_tool_calls() => Self::ToolCalls,
            (false, true) => Self::ContinuedContent,
            (false, false) => Self::Content,
        }
    }
}

/// Parses one output. Made by [`PromptFormat::parser`](crate::PromptFormat::parser) or
/// [`Generation::parser`](crate::Generation::parser).
#[derive(Debug)]
pub struct OutputParser {
    syntax: Syntax,
}

#[derive(Debug)]
enum Syntax {
    /// Reasoning between tags, then text, with calls between markers; without calls where no tool was offered or the format has none.
    Tagged(ReasoningSplitter, Option<Calls>),
    Dsml(DsmlParser),
}

/// How calls stand in the text.
#[derive(Debug)]
enum Calls {
    /// Between control tokens of their own.
    Marked(CallParser),
    /// In tags.
    Tagged(TaggedCallParser),
}

impl Calls {
    fn push(&mut self, chunk: &str, deltas: &mut Vec<OutputDelta>) {
        match self {
            Self::Marked(parser) => parser.push(chunk, deltas),
            Self::Tagged(parser) => parser.push(chunk, deltas),
        }
    }

    fn finish(&mut self, deltas: &mut Vec<OutputDelta>) {
        match self {
            Self::Marked(parser) => parser.finish(deltas),
            Self::Tagged(parser) => parser.finish(deltas),
        }
    }
}

impl OutputParser {
    /// A parser for reasoning and plain content, which serves every format without calls of its own.
    pub fn plain(start: impl Into<OutputStart>) -> Self {
        Self { syntax: Syntax::Tagged(splitter(start.into()), None) }
    }

    pub(crate) fn with_calls(start: OutputStart, form: CallForm, tools: &[Tool]) -> Self {
        let calls = offered(tools).map(|offered| Calls::Marked(CallParser::new(form, offered)));
        Self { syntax: Syntax::Tagged(splitter(start), calls) }
    }

    pub(crate) fn with_tagged_calls(start: OutputStart, tools: &[Tool]) -> Self {
        let calls = offered(tools).map(|offered| Calls::Tagged(TaggedCallParser::new(offered)));
        Self { syntax: Syntax::Tagged(splitter(start), calls) }
    }

    pub(crate) fn dsml(start: OutputStart, tools: &[Tool]) -> Self {
        Self { syntax: Syntax::Dsml(DsmlParser::new(start, !tools.is_empty())) }
    }

    /// Takes a chunk of text and returns what is certain now, in order. Texts are never empty.
    pub fn push(&mut self, chunk: &str) -> Vec<OutputDelta> {
        match &mut self.syntax {
            Syntax::Tagged(reasoning, calls) => divide(reasoning.push(chunk), calls),
            Syntax::Dsml(parser) => parser.push(chunk),
        }
    }

    /// Ends the stream and returns the rest.
    pub fn finish(&mut self) -> Vec<OutputDelta> {
        match &mut self.syntax {
            Syntax::Tagged(reasoning, calls) => {
                let mut deltas = divide(reasoning.finish(), calls);
                if let Some(calls) = calls {
                    calls.finish(&mut deltas);
                }
                deltas
            }
            Syntax::Dsml(parser) => parser.finish(),
        }
    }

    /// Ends the stream for an answer that is not streamed: adds the rest to `output`, which holds all earlier pieces.
    ///
    /// White space around the text before a list of calls is dropped here. A stream has sent what led it before the list came.
    pub fn finish_into(&mut self, output: &mut ParsedOutput) {
        self.finish().into_iter().for_each(|delta| output.add(delta));
        if let Syntax::Tagged(_, Some(Calls::Marked(calls))) = &self.syntax
            && calls.has_list()
        {
            output.content = output.content.trim().to_owned();
        }
    }

    /// Parses a whole text that comes in chunks.
    pub fn parse<'a>(mut self, chunks: impl IntoIterator<Item = &'a str>) -> ParsedOutput {
        let mut output = ParsedOutput::default();
        for chunk in chunks {
            self.push(chunk).into_iter().for_each(|delta| output.add(delta));
        }
        self.finish_into(&mut output);
        output
    }
}

fn splitter(start: OutputStart) -> ReasoningSplitter {
    ReasoningSplitter::new(matches!(start, OutputStart::Reasoning | OutputStart::ContinuedReasoning))
}

/// Names of the tools, where there are any.
fn offered(tools: &[Tool]) -> Option<Vec<String>> {
    (!tools.is_empty()).then(|| tools.iter().map(|tool| tool.name().to_owned()).collect())
}

fn divide(pieces: Vec<Piece>, calls: &mut Option<Calls>) -> Vec<OutputDelta> {
    let mut deltas = Vec::new();
    for piece in pieces {
        match (piece, &mut *calls) {
            (Piece::Reasoning(text), _) => deltas.push(OutputDelta::Reasoning(text)),
            (Piece::Content(text), None) => deltas.push(OutputDelta::Content(text)),
            (Piece::Content(text), Some(calls)) => calls.push(&text, &mut deltas),
        }
    }
    deltas
}
