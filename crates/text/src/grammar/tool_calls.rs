//! Calls of tools as Lark grammars, in the form that a generation's models write and its parser reads.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{invalid, schema};
use crate::chat::Tool;
use crate::encoding::Generation;
use crate::encoding::markers::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, DSML, SEP};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Ids of the control tokens that calls are written with.
#[derive(Debug)]
pub(super) struct CallTokens {
    ids: Vec<(&'static str, Option<u32>)>,
}

impl CallTokens {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let tokens = [CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEP, DSML];
        Self { ids: tokens.iter().map(|&token| (token, tokenizer.id_of_token(token))).collect() }
    }

    /// The token in a grammar.
    fn symbol(&self, token: &str) -> Result<String> {
        let id = self.ids.iter().find(|(known, _)| *known == token).and_then(|(_, id)| *id);
        id.map(|id| format!("<[{id}]>")).ok_or_else(|| Error::UnknownControlToken { token: token.to_owned() })
    }
}

/// How many calls there may be, and where the grammar begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) required: bool,
    pub(super) parallel: bool,
    pub(super) opened: bool,
}

/// Writes the grammar: text, calls, or text and then calls.
pub(super) fn lark(
    tokens: &CallTokens,
    generation: Generation,
    tools: &[Tool],
    extent: Extent,
) -> Result<String> {
    if tools.is_empty() {
        return Err(invalid("tools", "expected at least one tool"));
    }
    let writer = Writer { tokens, tools, extent };
    let (text_end, calls) = match generation {
        Generation::V31 => ("", writer.marked(["", "", ""])?),
        Generation::V3 | Generation::R1 | Generation::DistillQwen | Generation::DistillLlama => {
            ("", writer.marked(["function", "\n```json\n", "\n```"])?)
        }
        Generation::V32 => ("\\n\\n<", writer.tagged("", "function_calls")?),
        Generation::V4 | Generation::V4_0731 => ("\\n\\n<", writer.tagged("", "tool_calls")?),
        Generation::V41 => ("\\n\\n<", writer.tagged(" ", "calls")?),
        Generation::V2 | Generation::CoderV1 => {
            return Err(invalid("tools", "models of this generation cannot call tools"));
        }
    };
    if extent.opened {
        return Ok(format!("start: calls\n{calls}"));
    }
    // What opens the calls is part of the text's lexeme where it is text: a lexeme takes all it can.
    let open = match (text_end, extent.required) {
        ("", true) => String::new(),
        ("", false) => "TEXT?".to_owned(),
        (end, true) => format!("/{end}/"),
        (end, false) => format!("/(?s:.*){end}/"),
    };
    let text = if extent.required { "" } else { "TEXT | " };
    Ok(format!("start: {text}{open} calls\nTEXT: /(?s:.+)/\n{calls}"))
}

struct Writer<'a> {
    tokens: &'a CallTokens,
    tools: &'a [Tool],
    extent: Extent,
}

impl Writer<'_> {
    /// V3 to V3.1: control tokens around every call and around all. `kind` and `open` stand before and after the name, `close` after the
    /// arguments.
    fn marked(&self, [kind, open, close]: [&str; 3]) -> Result<String> {
        let token = |token| self.tokens.symbol(token);
        let (begin, end, sep) = (token(CALL_BEGIN)?, token(CALL_END)?, token(SEP)?);
        let kind = if kind.is_empty() { String::new() } else { format!("{} {sep}", literal(kind)) };
        let name_end = if open.is_empty() { sep.as_str() } else { "" };
        let close = if close.is_empty() { String::new() } else { literal(close) };
        let mut lark = String::new();
        for (index, tool) in self.tools.iter().enumerate() {
            let name = literal(&format!("{}{open}", tool.name()));
            let arguments = schema::tidied(&arguments(tool));
            // Writing to a string cannot fail.
            let _ =
                writeln!(lark, "c{index}: {begin} {kind} {name} {name_end} %json {arguments} {close} {end}");
        }
        let separator = if kind.is_empty() { "" } else { "\"\\n\"" };
        let more = if self.extent.parallel { format!("({separator} call)*") } else { String::new() };
        let close = token(CALLS_END)?;
        let open = if self.extent.opened { String::new() } else { token(CALLS_BEGIN)? };
        Ok(format!("calls: {open} call {more} {close}\n{}\n{lark}", self.call()))
    }

    /// V3.2, V4 and V4.1: tags, an argument each, in the tag `list`. The names of V4.1's tags begin with a space. The `<` of the first tag
    /// is not written here.
    fn tagged(&self, space: &str, list: &str) -> Result<String> {
        let dsml = self.tokens.symbol(DSML)?;
        let tag = |open: &str, rest: &str| format!("{open} {dsml} {}", literal(&format!("{space}{rest}")));
        let more = if self.extent.parallel { "+" } else { "" };
        let mut lark = format!(
            "calls: {} call{more} {}\n{}\n",
            if self.extent.opened { String::new() } else { tag("", &format!("{list}>\n")) },
            tag("\"</\"", &format!("{list}>")),
            self.call(),
        );
        // Everything up to the closing tag, which itself may be spelled in part.
        lark.push_str("VALUE: /(?s:.*)<\\//\n");
        for (index, tool) in self.tools.iter().enumerate() {
            let parameters = match tool.is_strict() {
                true => parameters(&arguments(tool), &tag),
                false => format!("({})*", any_parameter(&tag)),
            };
            let open = tag("\"<\"", &format!("invoke name=\"{}\">\n", tool.name()));
            let _ = writeln!(lark, "c{index}: {open} {parameters} {}", tag("\"</\"", "invoke>\n"));
        }
        Ok(lark)
    }

    fn call(&self) -> String {
        let calls: Vec<String> = (0..self.tools.len()).map(|index| format!("c{index}")).collect();
        format!("call: {}", calls.join(" | "))
    }
}

/// The schema of a tool's arguments.
fn arguments(tool: &Tool) -> Value {
    let any = || json!({"type": "object"});
    if !tool.is_strict() {
        return any();
    }
    tool.parameters().cloned().unwrap_or_else(any)
}

/// The parameters that a schema names, in its order; those that it does not require may be left out.
fn parameters(schema: &Value, tag: &impl Fn(&str, &str) -> String) -> String {
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let required = |name: &str| {
        schema["required"].as_array().is_some_and(|required| required.iter().any(|value| value == name))
    };
    let parameter = |(name, property): (&String, &Value)| {
        let written = format!("({})", parameter(name, &schema::with_definitions(property, schema), tag));
        if required(name) { written } else { format!("{written}?") }
    };
    properties.iter().map(parameter).collect::<Vec<_>>().join(" ")
}

/// One parameter: text as it is, everything else as JSON. What may be either can be written either way.
fn parameter(name: &str, schema: &Value, tag: &impl Fn(&str, &str) -> String) -> String {
    let open = |string: bool| tag("\"<\"", &format!("parameter name=\"{name}\" string=\"{string}\">"));
    let close = tag("", "parameter>\n");
    let choices = schema["enum"]
        .as_array()
        .map(Vec::as_slice)
        .or_else(|| schema.get("const").map(std::slice::from_ref));
    let texts: Option<Vec<String>> = choices.and_then(|choices| {
        choices.iter().map(|choice| Some(literal(&format!("{}</", choice.as_str()?)))).collect()
    });
    if let Some(texts) = texts {
        return format!("{} ({}) {close}", open(true), texts.join(" | "));
    }
    let text = format!("{} VALUE {close}", open(true));
    let json = format!("{} %json {} \"</\" {close}", open(false), schema::tidied(schema));
    // What limits a string is written for JSON strings, and every parser takes a text as one.
    let is_limited =
        ["pattern", "format", "minLength", "maxLength"].iter().any(|key| schema.get(key).is_some());
    match schema["type"].as_str() {
        Some("string") if !is_limited => text,
        None if !is_limited => format!("{text} | {json}"),
        _ => json,
    }
}

/// A parameter of any name and value.
fn any_parameter(tag: &impl Fn(&str, &str) -> String) -> String {
    let open = tag("\"<\"", "parameter name=\"");
    let close = tag("", "parameter>\n");
    let json = format!("\"false\\\">\" %json {} \"</\"", schema::tidied(&json!({})));
    format!("{open} /[^\"\\s]+/ \"\\\" string=\\\"\" (\"true\\\">\" VALUE | {json}) {close}")
}

/// A text as Lark writes it, which is as JSON writes it.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
