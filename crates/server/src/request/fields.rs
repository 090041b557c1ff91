//! Fields with several shapes in JSON, and the checks that many fields share.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// A string, or a list of strings.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct OneOrMany(Vec<String>);

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl TryFrom<Value> for OneOrMany {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(one) => Ok(Self(vec![one])),
            Value::Array(many) => strings(many).map(Self),
            other => Err(unexpected(&other, "a string or a list of strings")),
        }
    }
}

/// What a completion continues: one text or several, one list of token ids or several.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    Tokens(Vec<Vec<u32>>),
}

impl TryFrom<Value> for Prompts {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        const EXPECTED: &str = "a string, a list of strings, a list of token ids or a list of such lists";
        match value {
            Value::String(text) => Ok(Self::Texts(vec![text])),
            Value::Array(items) => match items.first() {
                Some(Value::Number(_)) => Ok(Self::Tokens(vec![token_ids(items)?])),
                Some(Value::Array(_)) => {
                    let list = |item| match item {
                        Value::Array(ids) => token_ids(ids),
                        other => Err(unexpected(&other, "a list of token ids")),
                    };
                    Ok(Self::Tokens(items.into_iter().map(list).collect::<Result<_, _>>()?))
                }
                _ => Ok(Self::Texts(strings(items)?)),
            },
            other => Err(unexpected(&other, EXPECTED)),
        }
    }
}

fn strings(items: Vec<Value>) -> Result<Vec<String>, String> {
    let string = |item| match item {
        Value::String(text) => Ok(text),
        other => Err(unexpected(&other, "a string")),
    };
    items.into_iter().map(string).collect()
}

fn token_ids(items: Vec<Value>) -> Result<Vec<u32>, String> {
    let id = |item: Value| match item.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(id),
        None => Err(unexpected(&item, "a token id")),
    };
    items.into_iter().map(id).collect()
}

/// The content of a message: text, parts, or nothing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Text(String),
    /// A part of another type, by its name.
    Other(String),
}

impl TryFrom<Value> for Content {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(parts) => {
                Ok(Self::Parts(parts.into_iter().map(Part::try_from).collect::<Result<_, _>>()?))
            }
            other => Err(unexpected(&other, "a string or a list of parts")),
        }
    }
}

impl TryFrom<Value> for Part {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let Some(kind) = value["type"].as_str() else {
            return Err(unexpected(&value["type"], "a part with the string field type"));
        };
        match (kind, value["text"].as_str()) {
            // The second is what OpenAI's Responses API calls them, the third what it answers with.
            ("text" | "input_text" | "output_text", Some(text)) => Ok(Self::Text(text.to_owned())),
            ("text" | "input_text" | "output_text", None) => {
                Err(unexpected(&value["text"], "a part with the string field text"))
            }
            ("refusal", _) => Ok(Self::Text(value["refusal"].as_str().unwrap_or_default().to_owned())),
            _ => Ok(Self::Other(kind.to_owned())),
        }
    }
}

/// A JSON value of the wrong kind, in the words that `serde_json` has for it.
pub(crate) fn unexpected(value: &Value, expected: &str) -> String {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean `{value}`"),
        Value::Number(value) => format!("number `{value}`"),
        Value::String(value) => format!("string {value:?}"),
        Value::Array(_) => "sequence".to_owned(),
        Value::Object(_) => "map".to_owned(),
    };
    format!("invalid type: {found}, expected {expected}")
}

/// A number between two bounds, both included. A number that is none fails.
pub(crate) fn in_range(
    field: impl Into<String>,
    value: Option<f64>,
    least: f64,
    most: f64,
) -> ApiResult<Option<f32>> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ApiError::value(field, format!("{least} to {most}"), value))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// A count between two bounds, both included.
pub(crate) fn count_in_range(
    field: &'static str,
    value: Option<u64>,
    least: usize,
    most: usize,
) -> ApiResult<Option<usize>> {
    match value {
        None => Ok(None),
        Some(value) => match usize::try_from(value) {
            Ok(value) if (least..=most).contains(&value) => Ok(Some(value)),
            _ => Err(ApiError::value(field, format!("{least} to {most}"), value)),
        },
    }
}

/// DeepSeek's name for a user: letters, digits, `-` and `_`.
pub(crate) fn user_id(value: Option<String>) -> ApiResult<Option<String>> {
    let Some(id) = value else { return Ok(None) };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if id.is_empty() || id.len() > crate::limits::MAX_USER_ID || !id.bytes().all(allowed) {
        let expected = format!("1 to {} letters, digits, - and _", crate::limits::MAX_USER_ID);
        return Err(ApiError::value("user_id", expected, format!("{} bytes of text", id.len())));
    }
    Ok(Some(id))
}
