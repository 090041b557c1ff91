//! What a model writes: the deltas are the same however the text is cut, calls are in order, and nothing is invented.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};
use text::{Generation, OutputDelta, OutputParser, OutputStart, Tool};

use crate::Target;
use crate::words::Words;

const STARTS: [OutputStart; 5] = [
    OutputStart::Content,
    OutputStart::Reasoning,
    OutputStart::ContinuedReasoning,
    OutputStart::ContinuedContent,
    OutputStart::ToolCalls,
];

/// [`OutputParser`] of every generation.
pub struct OutputParserTarget {
    tools: Vec<Tool>,
    words: Words,
}

impl Target for OutputParserTarget {
    fn new() -> Self {
        let tool = |name| serde_json::from_value(json!({"type": "function", "function": {"name": name}}));
        Self { tools: ["f", "g"].map(|name| tool(name).unwrap()).into(), words: Words::new(["g", "[1]"]) }
    }

    fn run(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let generation = *bytes.choose(&Generation::ALL)?;
        let start = *bytes.choose(&STARTS)?;
        let tools = if bytes.ratio(1, 4)? { &self.tools[..0] } else { &self.tools[..] };
        let chunks = (0..bytes.int_in_range(0..=8)?).map(|_| self.words.text(bytes));
        let chunks = chunks.collect::<Result<Vec<String>>>()?;
        let text = chunks.concat();
        let parser = || generation.parser(start, tools);

        let whole = deltas(parser(), [text.as_str()]);
        check(&whole, generation);
        let in_chunks = deltas(parser(), chunks.iter().map(String::as_str));
        assert_eq!(in_chunks, whole, "{generation:?} {start:?} {chunks:?}");
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let by_char = deltas(parser(), chars.iter().map(String::as_str));
        assert_eq!(by_char, whole, "{generation:?} {start:?} {text:?}");
        assert_eq!(
            parser().parse(chunks.iter().map(String::as_str)),
            parser().parse([text.as_str()]),
            "{generation:?} {start:?} {chunks:?}"
        );
        // A prompt opens a list of calls only where there are tools.
        if tools.is_empty() && start != OutputStart::ToolCalls {
            let written: usize = whole.iter().map(|delta| printed(text_of(delta))).sum();
            assert!(written <= printed(&text), "{generation:?} {start:?} {text:?} became {whole:?}");
        }
        Ok(())
    }
}

/// All deltas, neighbours of one kind merged.
fn deltas<'a>(mut parser: OutputParser, chunks: impl IntoIterator<Item = &'a str>) -> Vec<OutputDelta> {
    use OutputDelta::{Arguments, Content, Reasoning};
    let mut all: Vec<OutputDelta> = chunks.into_iter().flat_map(|chunk| parser.push(chunk)).collect();
    all.extend(parser.finish());
    let mut merged: Vec<OutputDelta> = Vec::new();
    for delta in all {
        let is_call = matches!(delta, OutputDelta::ToolCall { .. });
        assert!(is_call || !text_of(&delta).is_empty(), "an empty delta");
        match (merged.last_mut(), delta) {
            (Some(Reasoning(text)), Reasoning(more)) | (Some(Content(text)), Content(more)) => *text += &more,
            (Some(Arguments { index, text }), Arguments { index: at, text: more }) if *index == at => {
                *text += &more;
            }
            (_, other) => merged.push(other),
        }
    }
    merged
}

/// Calls are counted from 0, arguments follow their call, and where calls are passed on whole they are JSON objects.
fn check(deltas: &[OutputDelta], generation: Generation) {
    let mut calls = 0;
    for delta in deltas {
        match delta {
            OutputDelta::ToolCall { index, .. } => {
                assert_eq!(*index, calls);
                calls += 1;
            }
            OutputDelta::Arguments { index, text } => {
                assert_eq!(*index + 1, calls);
                let is_object = serde_json::from_str::<Map<String, Value>>(text).is_ok();
                let in_pieces = matches!(generation, Generation::V4 | Generation::V4_0731 | Generation::V41);
                assert!(in_pieces || is_object, "{text:?}");
            }
            _ => {}
        }
    }
}

fn text_of(delta: &OutputDelta) -> &str {
    match delta {
        OutputDelta::Content(text) | OutputDelta::Reasoning(text) => text,
        OutputDelta::Arguments { text, .. } => text,
        OutputDelta::ToolCall { name, .. } => name,
        _ => "",
    }
}

/// Characters that are not white space.
fn printed(text: &str) -> usize {
    text.chars().filter(|c| !c.is_whitespace()).count()
}
