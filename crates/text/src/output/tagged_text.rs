//! `read`: the calls in a text of V3.2 that begins with a tag.
//!
//! There are two readings, and the text decides. What DeepSeek's own parser (`encoding_dsv32.py`) takes is read as it reads it: exactly one
//! list to the end of the text, values as they stand, calls of any tool. What it refuses is read as SGLang's detector does: every closed
//! list, or calls without a list; a call is left out when it is broken or names a tool that nobody offered; values lose the white space
//! around them, and a call may hold its arguments as one JSON object.

use serde_json::{Map, Value};

use crate::encoding::markers::DSML;
use crate::python_json;

const LIST: &str = "<｜DSML｜function_calls>";
const LIST_END: &str = "</｜DSML｜function_calls>";
const INVOKE: &str = "<｜DSML｜invoke";
const INVOKE_END: &str = "</｜DSML｜invoke";
const PARAMETER: &str = "<｜DSML｜parameter";
const PARAMETER_END: &str = "/｜DSML｜parameter";

/// A call with its arguments as JSON text.
#[derive(Debug, PartialEq)]
pub(super) struct TaggedCall {
    pub(super) name: String,
    pub(super) arguments: String,
}

/// Divides the text into content and calls. `text` begins with a tag, or with an empty line and a tag.
pub(super) fn read<'a>(text: &'a str, offered: &[String]) -> (&'a str, Vec<TaggedCall>) {
    if let Some(calls) = exactly(text) {
        return ("", calls);
    }
    let (content, sections) = match (text.find(LIST), text.find(INVOKE)) {
        (Some(list), _) => (&text[..list], closed_lists(&text[list..])),
        (None, Some(invoke)) => ("", vec![&text[invoke..]]),
        (None, None) => return (text, Vec::new()),
    };
    let mut calls: Vec<TaggedCall> = sections.into_iter().flat_map(broadly).collect();
    calls.retain(|call| offered.contains(&call.name));
    (content.strip_suffix("\n\n").unwrap_or(content), calls)
}

/// The calls of a text that is one list in DeepSeek's own form to the letter.
fn exactly(text: &str) -> Option<Vec<TaggedCall>> {
    let rest = &mut text.strip_prefix("\n\n")?.strip_prefix(LIST.strip_suffix('>')?)?;
    let mut calls = Vec::new();
    loop {
        let (between, tag) = up_to(rest, &[INVOKE, LIST_END])?;
        match (between, tag) {
            (">\n", INVOKE) => calls.push(exact_call(rest)?),
            (">\n", _) if rest.is_empty() => return Some(calls),
            _ => return None,
        }
    }
}

fn exact_call(rest: &mut &str) -> Option<TaggedCall> {
    let (head, mut tag) = up_to(rest, &[PARAMETER, INVOKE_END])?;
    let name = head.trim_start().strip_prefix("name=\"")?;
    // A call without arguments has an empty line in their place.
    let name = name.strip_suffix("\">\n\n").or_else(|| name.strip_suffix("\">\n"))?;
    let mut parameters: Vec<(&str, String)> = Vec::new();
    while tag == PARAMETER {
        let (parameter, _) = up_to(rest, &[PARAMETER_END])?;
        let parameter = &mut parameter.strip_prefix(" name=\"")?.strip_suffix('<')?;
        let (name, kind) = up_to(parameter, &["\" string=\"true\">", "\" string=\"false\">"])?;
        if parameters.iter().any(|(earlier, _)| *earlier == name) {
            return None;
        }
        let value = if kind.contains("true") { json_text(parameter) } else { (*parameter).to_owned() };
        parameters.push((name, value));
        let (between, next) = up_to(rest, &[PARAMETER, INVOKE_END])?;
        if between != ">\n" {
            return None;
        }
        tag = next;
    }
    let members: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{}: {value}", json_text(name))).collect();
    Some(TaggedCall { name: name.to_owned(), arguments: format!("{{{}}}", members.join(", ")) })
}

/// Takes the text up to the nearest of the marks, and that mark. Marks begin with `<`, `/` or `"`.
fn up_to<'a>(rest: &mut &'a str, marks: &[&'static str]) -> Option<(&'a str, &'static str)> {
    let text = *rest;
    let begun = |at: usize| marks.iter().copied().find(|mark| text[at..].starts_with(mark));
    let (at, mark) =
        text.match_indices(['<', '/', '"']).find_map(|(at, _)| begun(at).map(|mark| (at, mark)))?;
    *rest = &text[at + mark.len()..];
    Some((&text[..at], mark))
}

/// What stands in the lists that have an end.
fn closed_lists(text: &str) -> Vec<&str> {
    let (mut lists, rest) = (Vec::new(), &mut { text });
    while let (Some(_), Some((list, _))) = (up_to(rest, &[LIST]), up_to(rest, &[LIST_END])) {
        lists.push(list);
    }
    lists
}

/// The calls in a text, broken ones left out.
fn broadly(text: &str) -> Vec<TaggedCall> {
    let (mut calls, rest) = (Vec::new(), &mut { text });
    while up_to(rest, &[INVOKE]).is_some() {
        let Some((name, after)) = attribute(rest, "name=\"") else { continue };
        let after = after.trim_start();
        let arguments = if let Some(after) = after.strip_prefix("/>") {
            *rest = after;
            arguments("")
        } else if let Some(after) = after.strip_prefix('>') {
            let Some((body, after)) = after.split_once("</｜DSML｜invoke>") else { break };
            *rest = after;
            arguments(body)
        } else {
            continue;
        };
        let name = name.trim().to_owned();
        calls.extend(arguments.map(|arguments| TaggedCall { name, arguments }));
    }
    calls
}

/// The value of an attribute at the start of the text, and what follows.
fn attribute<'a>(text: &'a str, opening: &str) -> Option<(&'a str, &'a str)> {
    let attribute = text.trim_start();
    let (value, rest) = attribute.strip_prefix(opening)?.split_once('"')?;
    (attribute.len() < text.len() && !value.is_empty()).then_some((value, rest))
}

/// The arguments in a call's body; `None` when the body is broken. Text between parameters is passed over, other tags are not.
fn arguments(body: &str) -> Option<String> {
    let whole = body.trim();
    if whole.starts_with('{') {
        let object: Map<String, Value> = serde_json::from_str(whole).ok()?;
        return Some(python_json::dumps(&Value::Object(object), None));
    }
    let (mut found, rest) = (Map::new(), &mut { body });
    let mut outside = String::new();
    while let Some((between, _)) = up_to(rest, &[PARAMETER]) {
        let (name, after) = attribute(rest, "name=\"")?;
        let (kind, after) = attribute(after, "string=\"")?;
        let (value, after) = after.trim_start().strip_prefix('>')?.split_once("</｜DSML｜parameter>")?;
        let text = || Value::from(value.trim());
        let value = if kind == "true" {
            text()
        } else {
            serde_json::from_str(value.trim()).unwrap_or_else(|_| text())
        };
        found.insert(name.to_owned(), value);
        outside.push_str(between);
        *rest = after;
    }
    outside.push_str(rest);
    let broken = outside.contains(DSML) || (found.is_empty() && !outside.trim().is_empty());
    (!broken).then(|| python_json::dumps(&Value::Object(found), None))
}

fn json_text(text: &str) -> String {
    python_json::dumps(&Value::from(text), None)
}
