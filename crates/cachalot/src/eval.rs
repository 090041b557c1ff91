//! Exact match on held-out prompts: how the demo model's abilities are measured.
//!
//! A file has one JSON object per line: `skill`, `thinking`, `messages` (or `prefix` and `suffix`), and `expect`, which
//! is one of `{"content": text}` (equal after trimming), `{"tool_calls": [{"name", "arguments"}]}` (equal as JSON),
//! `{"json": value}` (the answer parses to an equal value) and `{"contains": [text]}`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use text::{ChatRequest, Message, SpecialTokens};

use crate::{Error, GenerateOptions, Input, LanguageModel, demo};

/// Most tokens of an answer; one that needs more has gone astray.
const MAX_TOKENS: usize = 320;

/// Name of the embedded file in errors.
const EMBEDDED_FILE: &str = "eval.jsonl";

/// One held-out prompt.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// The ability that it measures.
    pub skill: String,
    /// Whether the model reasons first.
    #[serde(default)]
    pub thinking: bool,
    #[serde(default)]
    messages: Vec<Message>,
    prefix: Option<String>,
    suffix: Option<String>,
    expect: Expect,
}

/// What the answer must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Content(String),
    ToolCalls(Vec<Call>),
    Json(Value),
    Contains(Vec<String>),
}

/// A tool call with its arguments as a JSON value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Call {
    name: String,
    arguments: Value,
}

/// How one case went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The case's skill.
    pub skill: String,
    /// Whether the model reasoned first.
    pub thinking: bool,
    /// Whether the answer was what it had to be.
    pub exact: bool,
    /// Everything that was generated, control tokens included.
    pub generated: String,
    /// The last message or the prefix, for people.
    pub prompt: String,
}

/// Reads cases from lines of JSON; `path` is named in errors.
///
/// # Errors
/// [`Error::File`] with the line number for a line that is no case, and for a file without any.
pub fn parse_cases(lines: &str, path: &Path) -> Result<Vec<Case>, Error> {
    let numbered = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let cases: Vec<Case> = numbered
        .map(|(i, line)| {
            let located = || format!("{}:{}", path.display(), i + 1);
            let case: Case = serde_json::from_str(line)
                .map_err(|e| Error::file(Path::new(&located()), "an evaluation case", e.to_string()))?;
            if case.messages.is_empty() && case.prefix.is_none() {
                let expected = "`messages`, or `prefix` and `suffix`";
                return Err(Error::file(Path::new(&located()), expected, "neither"));
            }
            Ok(case)
        })
        .collect::<Result<_, Error>>()?;
    if cases.is_empty() {
        return Err(Error::file(path, "at least one evaluation case", "none"));
    }
    Ok(cases)
}

/// The demo model's held-out prompts.
///
/// # Errors
/// [`Error::File`] if the embedded file were damaged.
pub fn embedded_cases() -> Result<Vec<Case>, Error> {
    parse_cases(demo::EVALUATION, Path::new(EMBEDDED_FILE))
}

/// Answers one case greedily.
///
/// # Errors
/// Any error of the generation.
pub fn answer(model: &LanguageModel, case: &Case) -> Result<Answer, Error> {
    let input: Input = match (&case.prefix, &case.suffix) {
        (Some(prefix), suffix) => {
            Input::FillInTheMiddle { prefix: prefix.clone(), suffix: suffix.clone().unwrap_or_default() }
        }
        (None, _) => ChatRequest::new(case.messages.clone()).into(),
    };
    let thinking = case.prefix.is_none().then_some(case.thinking);
    let options = GenerateOptions { thinking, ..GenerateOptions::greedy() };
    let prompt_len = model.encode(input.clone(), &options)?.len();
    let room = model.engine().context_len().saturating_sub(prompt_len).clamp(1, MAX_TOKENS);
    let output = model.generate(input, &GenerateOptions { max_tokens: Some(room), ..options })?;
    let generated = model.tokenizer().decode(&output.tokens, SpecialTokens::Show);
    let exact = case.expect.accepts(&generated, thinking == Some(true));
    let prompt = case.messages.last().and_then(|m| m.content.clone()).or(case.prefix.clone());
    let Case { skill, thinking, .. } = case.clone();
    Ok(Answer { skill, thinking, exact, generated, prompt: prompt.unwrap_or_default() })
}

impl Expect {
    /// Whether `generated`, which starts inside the reasoning if `thinking`, is what was expected.
    fn accepts(&self, generated: &str, thinking: bool) -> bool {
        let answer = match (thinking, generated.split_once("</think>")) {
            (true, Some((_, answer))) => answer,
            (true, None) => "",
            (false, _) => generated,
        };
        let (content, calls) = split_calls(answer);
        match self {
            Self::Content(expected) => content == expected,
            Self::ToolCalls(expected) => calls.is_some_and(|calls| calls == *expected),
            Self::Json(expected) => serde_json::from_str::<Value>(content).is_ok_and(|v| v == *expected),
            Self::Contains(expected) => expected.iter().all(|part| content.contains(part.as_str())),
        }
    }
}

/// Trimmed content before the calls, and the calls of V3.1's format; `None` if one is malformed.
fn split_calls(answer: &str) -> (&str, Option<Vec<Call>>) {
    let Some((content, calls)) = answer.split_once("<｜tool▁calls▁begin｜>") else {
        return (answer.trim(), Some(Vec::new()));
    };
    let call = |text: &str| {
        let (name, rest) = text.split_once("<｜tool▁sep｜>")?;
        let (arguments, _) = rest.split_once("<｜tool▁call▁end｜>")?;
        Some(Call { name: name.to_owned(), arguments: serde_json::from_str(arguments).ok()? })
    };
    let calls = calls.split("<｜tool▁call▁begin｜>").skip(1).map(call).collect();
    (content.trim(), calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(expect: &str, generated: &str, thinking: bool) -> bool {
        serde_json::from_str::<Expect>(expect).unwrap().accepts(generated, thinking)
    }

    #[test]
    fn content_is_trimmed_and_exact() {
        assert!(accepts(r#"{"content": "53"}"#, " 53\n", false));
        assert!(!accepts(r#"{"content": "53"}"#, "53.", false));
        assert!(accepts(r#"{"content": "53"}"#, "50 + 3</think>53", true));
        assert!(!accepts(r#"{"content": "53"}"#, "53", true), "the reasoning never ended");
    }

    #[test]
    fn calls_are_compared_as_json() {
        let one = r#"{"tool_calls": [{"name": "f", "arguments": {"a": 1, "b": [2]}}]}"#;
        let call = |name: &str, arguments: &str| {
            format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>")
        };
        let calls =
            |calls: &[String]| format!("<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>", calls.concat());
        let good = call("f", r#"{"b":[2], "a": 1}"#);
        assert!(accepts(one, &calls(std::slice::from_ref(&good)), false));
        assert!(!accepts(one, &calls(&[good.clone(), good.clone()]), false));
        assert!(!accepts(one, &calls(&[call("g", r#"{"a": 1, "b": [2]}"#)]), false));
        assert!(!accepts(one, &calls(&[call("f", "{")]), false));
        assert!(!accepts(one, "no call", false));
        assert!(accepts(r#"{"content": "hm"}"#, &format!("hm {}", calls(&[good])), false));
    }

    #[test]
    fn json_and_contains() {
        assert!(accepts(r#"{"json": {"a": 1}}"#, "{\"a\":1}\n", false));
        assert!(!accepts(r#"{"json": {"a": 1}}"#, "{\"a\":2}", false));
        assert!(accepts(r#"{"contains": ["fox", "end"]}"#, "a fox. The end", false));
        assert!(!accepts(r#"{"contains": ["fox", "end"]}"#, "a fox", false));
    }

    #[test]
    fn bad_lines_are_named() {
        let parse = |lines| parse_cases(lines, Path::new("x.jsonl")).map(|c| c.len());
        assert_eq!(parse("{\"skill\":\"a\",\"prefix\":\"p\",\"expect\":{\"content\":\"\"}}\n\n").unwrap(), 1);
        let error = parse("\n{\"skill\": 1}\n").unwrap_err().to_string();
        assert!(error.contains("x.jsonl:2"), "{error}");
        assert!(parse("{\"skill\":\"a\",\"expect\":{\"content\":\"\"}}").is_err());
        assert!(parse("").is_err());
    }
}
