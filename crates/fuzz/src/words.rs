//! [`Words`]: texts and JSON made of what the code under test looks for, so that few bytes lead deep into it.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

/// What parsers and tokenizers look for, whole and in parts.
const MARKERS: &[&str] = &[
    "<think>",
    "</think>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜System｜>",
    "<｜latest_reminder｜>",
    "<｜image｜>",
    "<｜ref｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>",
    "<｜DSML｜tool_calls>",
    "</｜DSML｜tool_calls>",
    "<｜DSML｜ calls>",
    "<｜DSML｜invoke name=\"f\">",
    "</｜DSML｜invoke>",
    "<｜DSML｜parameter name=\"a\" string=\"true\">",
    "</｜DSML｜parameter>",
    "｜DSML｜",
    "<|EOT|>",
    "<｜",
    "｜>",
    "<",
    ">",
    "\n```json\n",
    "\n```",
    "function",
    "f",
    "{}",
    "{\"a\": \"é\"}",
    "{\"a\": [1, {\"b\": null}]}",
    "think",
    "json",
    "\u{F0000}",
    "🐋",
    "\n",
    " ",
    "\"",
    "\\",
    "0",
    "a",
    "",
];

/// Pieces that inputs are made of.
pub(crate) struct Words(Vec<String>);

impl Words {
    /// The markers that everybody looks for, and some of the target's own.
    pub(crate) fn new(own: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(MARKERS.iter().copied().map(String::from).chain(own.into_iter().map(Into::into)).collect())
    }

    /// A text of words and arbitrary characters.
    pub(crate) fn text(&self, bytes: &mut Unstructured<'_>) -> Result<String> {
        let mut text = String::new();
        for _ in 0..bytes.int_in_range(0..=10)? {
            match bytes.ratio(1, 8)? {
                true => text.push(bytes.arbitrary()?),
                false => text.push_str(bytes.choose(&self.0)?),
            }
        }
        Ok(text)
    }

    /// Changes a few places of a document: values of other types and ranges, new fields, missing ones.
    pub(crate) fn edit(&self, document: &mut Value, bytes: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..bytes.int_in_range(0..=6)? {
            // Without bytes every choice is the first one, which would be the same edit again.
            if bytes.is_empty() {
                break;
            }
            let mut index = bytes.choose_index(size(document))?;
            if let Some(node) = nth(document, &mut index) {
                self.edit_node(node, bytes)?;
            }
        }
        Ok(())
    }

    fn edit_node(&self, node: &mut Value, bytes: &mut Unstructured<'_>) -> Result<()> {
        match node {
            Value::Object(fields) if bytes.arbitrary()? => {
                fields.insert(bytes.choose(&self.0)?.clone(), self.value(bytes, 2)?);
            }
            Value::Object(fields) if !fields.is_empty() && bytes.ratio(3, 4)? => {
                let index = bytes.choose_index(fields.len())?;
                let key = fields.keys().nth(index).cloned();
                key.and_then(|key| fields.remove(&key));
            }
            Value::String(text) if bytes.ratio(3, 4)? => *text = self.text(bytes)?,
            other => *other = self.value(bytes, 2)?,
        }
        Ok(())
    }

    /// Any value, nested up to `depth`.
    fn value(&self, bytes: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
        let kinds = if depth == 0 { 7 } else { 9 };
        Ok(match bytes.int_in_range(1..=kinds)? {
            1 | 2 => self.text(bytes)?.into(),
            3 => bytes.int_in_range(-2i64..=200)?.into(),
            4 => bytes.arbitrary::<bool>()?.into(),
            5 => bytes.arbitrary::<u64>()?.into(),
            6 => json!(bytes.arbitrary::<f64>()?),
            7 => Value::Null,
            8 => {
                let items = 0..bytes.int_in_range(0..=3)?;
                Value::Array(items.map(|_| self.value(bytes, depth - 1)).collect::<Result<_>>()?)
            }
            _ => {
                let mut fields = Map::new();
                for _ in 0..bytes.int_in_range(0..=3)? {
                    fields.insert(bytes.choose(&self.0)?.clone(), self.value(bytes, depth - 1)?);
                }
                Value::Object(fields)
            }
        })
    }
}

/// Values in a document, itself included.
fn size(document: &Value) -> usize {
    match document {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// The value of that index, counted from the root to the leaves; counts `index` down on the way.
fn nth<'v>(node: &'v mut Value, index: &mut usize) -> Option<&'v mut Value> {
    if *index == 0 {
        return Some(node);
    }
    *index -= 1;
    match node {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, index)),
        Value::Object(fields) => fields.values_mut().find_map(|value| nth(value, index)),
        _ => None,
    }
}
