//! Tools, the choice among them, and the `functions` that came before them.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Value, json};
use text::Tool;

use super::{AnswerFormat, Mode};
use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::limits;

/// Which tools the model may or must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ToolChoice {
    /// As it sees fit.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one, whichever.
    Required,
    /// This one.
    Named(String),
}

/// The fields of a chat request that speak of tools.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ToolFields {
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    /// The old form of `tools`.
    functions: Option<Vec<Value>>,
    /// The old form of `tool_choice`.
    function_call: Option<Value>,
}

/// The same, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ToolSet {
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub(crate) parallel: bool,
    /// Whether the client speaks of `functions`, and wants to hear of `function_call`.
    pub(crate) legacy: bool,
}

impl ToolFields {
    pub(crate) fn validate(self) -> ApiResult<ToolSet> {
        let legacy = self.functions.is_some() || self.function_call.is_some();
        if legacy && (self.tools.is_some() || self.tool_choice.is_some()) {
            let field = if self.functions.is_some() { "functions" } else { "function_call" };
            return Err(ApiError::value(field, "absent where `tools` or `tool_choice` is set", "set"));
        }
        let (list_field, choice_field) =
            if legacy { ("functions", "function_call") } else { ("tools", "tool_choice") };
        let mut tools = ToolList::new(list_field);
        for (index, function) in self.functions.unwrap_or_default().into_iter().enumerate() {
            tools.push(&format!("functions[{index}]"), "parameters", function)?;
        }
        for (index, mut tool) in self.tools.unwrap_or_default().into_iter().enumerate() {
            if tool["type"] != "function" {
                return Err(ApiError::value(format!("tools[{index}].type"), "\"function\"", &tool["type"]));
            }
            tools.push(&format!("tools[{index}].function"), "parameters", tool["function"].take())?;
        }
        let tools = tools.tools;
        let wire = self.tool_choice.or(self.function_call).filter(|choice| !choice.is_null());
        let choice = wire.map(|choice| tool_choice(choice_field, &choice, &tools)).transpose()?;
        let parallel = !legacy && self.parallel_tool_calls.unwrap_or(true);
        Ok(ToolSet { tools, choice: choice.unwrap_or_default(), parallel, legacy })
    }
}

/// Tools that passed the checks, whatever the form they came in.
pub(crate) struct ToolList {
    /// The field that holds the list.
    field: &'static str,
    pub(crate) tools: Vec<Tool>,
    names: HashSet<String>,
}

impl ToolList {
    pub(crate) fn new(field: &'static str) -> Self {
        Self { field, tools: Vec::new(), names: HashSet::new() }
    }

    /// Takes a function with `name`, `description` and a schema in the field `schema`; `path` says where it came from.
    pub(crate) fn push(&mut self, path: &str, schema: &str, mut function: Value) -> ApiResult<()> {
        if self.tools.len() == limits::MAX_TOOLS {
            let expected = format!("at most {} entries", limits::MAX_TOOLS);
            return Err(ApiError::value(self.field, expected, "more"));
        }
        let wrong = |field: &str, found: &Value, expected: &str| ApiError::Type {
            field: format!("{path}.{field}"),
            reason: super::fields::unexpected(found, expected),
        };
        let Some(object) = function.as_object_mut() else {
            let reason = super::fields::unexpected(&function, "a function");
            return Err(ApiError::Type { field: path.to_owned(), reason });
        };
        let Some(name) = object.get("name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(wrong("name", object.get("name").unwrap_or(&Value::Null), "a string"));
        };
        check_name(&format!("{path}.name"), &name)?;
        match object.get("description") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(wrong("description", other, "a string")),
        }
        match object.get(schema) {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(other) => return Err(wrong(schema, other, "a JSON schema as an object")),
        }
        if object.get("strict") == Some(&Value::Bool(true))
            && let Some(parameters) = object.get(schema)
        {
            super::strict::check(&format!("{path}.{schema}"), parameters)?;
        }
        if schema != "parameters"
            && let Some(value) = object.remove(schema)
        {
            object.insert("parameters".to_owned(), value);
        }
        if !self.names.insert(name.clone()) {
            let found = format!("{name:?} a second time");
            return Err(ApiError::value(format!("{path}.name"), "a name of its own", found));
        }
        let tool = json!({"type": "function", "function": function});
        self.tools.push(Tool::try_from(tool).map_err(ApiError::internal)?);
        Ok(())
    }
}

fn check_name(field: &str, name: &str) -> ApiResult<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > limits::MAX_TOOL_NAME || !name.bytes().all(allowed) {
        let expected = format!("1 to {} letters, digits, - and _", limits::MAX_TOOL_NAME);
        return Err(ApiError::value(field, expected, format!("{name:?}")));
    }
    Ok(())
}

/// The choice in OpenAI's form, which has to fit the tools.
pub(crate) fn tool_choice(field: &str, wire: &Value, tools: &[Tool]) -> ApiResult<ToolChoice> {
    let named = wire["function"]["name"].as_str().or_else(|| wire["name"].as_str());
    let choice = match (wire.as_str(), named) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("required"), _) => ToolChoice::Required,
        (None, Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => {
            let expected = "\"none\", \"auto\", \"required\" or the name of a function";
            return Err(ApiError::value(field, expected, wire));
        }
    };
    choice.check(field, tools)?;
    Ok(choice)
}

impl ToolChoice {
    /// DeepSeek's models cannot be made to call while they reason.
    pub(crate) fn check_mode(&self, dialect: Dialect, mode: &Mode) -> ApiResult<()> {
        match self {
            Self::Required | Self::Named(_)
                if dialect == Dialect::DeepSeek && mode.thinking == Some(true) =>
            {
                let expected = "\"auto\" or \"none\" in the thinking mode";
                Err(ApiError::value("tool_choice", expected, "a call that must be made"))
            }
            _ => Ok(()),
        }
    }

    /// The choice in OpenAI's form, for prompts that speak of it.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::None => "none".into(),
            Self::Required => "required".into(),
            Self::Named(name) => json!({"type": "function", "function": {"name": name}}),
        }
    }

    /// A form of the answer and calls that may come instead do not go together.
    pub(crate) fn check_format(
        &self,
        field: &str,
        tools: &[Tool],
        format: Option<&AnswerFormat>,
    ) -> ApiResult<()> {
        if format.is_some() && !tools.is_empty() && *self != Self::None {
            let expected = "text where tools may be called";
            return Err(ApiError::value(format!("{field}.type"), expected, "another form"));
        }
        Ok(())
    }

    /// Whether there is something to choose.
    pub(crate) fn check(&self, field: &str, tools: &[Tool]) -> ApiResult<()> {
        match self {
            ToolChoice::Required if tools.is_empty() => {
                Err(ApiError::value(field, "a choice that needs no tools, as there are none", "required"))
            }
            ToolChoice::Named(name) if tools.iter().all(|tool| tool.name() != name) => {
                Err(ApiError::value(field, "the name of one of the tools", format!("{name:?}")))
            }
            _ => Ok(()),
        }
    }
}
