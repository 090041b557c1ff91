//! [`AnswerFormat`]: the form that an answer is held to.

use serde_json::{Value, json};
use text::grammar::GrammarSpec;

use super::fields::unexpected;
use crate::error::{ApiError, ApiResult};

/// A form, and where the request says so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnswerFormat {
    pub(crate) spec: GrammarSpec,
    /// The field that holds the schema, the expression or the grammar, for errors in it.
    pub(crate) field: String,
}

impl AnswerFormat {
    /// Checks the field `field`, whose `type` names the form; `None` for text of any form.
    pub(crate) fn parse(field: &str, format: Option<&Value>) -> ApiResult<Option<Self>> {
        let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
        if !format.is_object() {
            let reason = unexpected(format, "an object with the field type");
            return Err(ApiError::Type { field: field.to_owned(), reason });
        }
        let (spec, part) = match format["type"].as_str() {
            Some("text") => return Ok(None),
            Some("json_object") => (GrammarSpec::JsonObject, "type"),
            Some("json_schema") => {
                // The Responses API has the schema beside the type, the chat API one level below.
                let (part, schema) = match &format["json_schema"] {
                    Value::Null => ("schema", &format["schema"]),
                    nested => ("json_schema.schema", &nested["schema"]),
                };
                if !schema.is_object() {
                    return Err(wrong(field, part, schema, "a JSON schema as an object"));
                }
                (GrammarSpec::JsonSchema(schema.clone()), part)
            }
            Some("regex") => (GrammarSpec::Regex(string(field, "regex", format)?), "regex"),
            Some("grammar") => (GrammarSpec::Lark(string(field, "grammar", format)?), "grammar"),
            _ => {
                let expected = "text, json_object, json_schema, regex or grammar";
                return Err(ApiError::value(format!("{field}.type"), expected, &format["type"]));
            }
        };
        Ok(Some(Self { spec, field: format!("{field}.{part}") }))
    }

    /// The form as prompts are told of it, in the way of the chat API.
    pub(crate) fn to_json(&self) -> Option<Value> {
        match &self.spec {
            GrammarSpec::JsonObject => Some(json!({"type": "json_object"})),
            GrammarSpec::JsonSchema(schema) => {
                Some(json!({"type": "json_schema", "json_schema": {"schema": schema}}))
            }
            _ => None,
        }
    }
}

fn string(field: &str, part: &str, format: &Value) -> ApiResult<String> {
    match format[part].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong(field, part, &format[part], "a string")),
    }
}

fn wrong(field: &str, part: &str, found: &Value, expected: &str) -> ApiError {
    ApiError::Type { field: format!("{field}.{part}"), reason: unexpected(found, expected) }
}
