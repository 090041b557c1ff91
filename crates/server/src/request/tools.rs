//! Tools, the choice among them, and the `functions` that came before them.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Value, json};
use text::Tool;

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
        let wire = match self.functions {
            Some(functions) => {
                let wrap = |function| json!({"type": "function", "function": function});
                functions.into_iter().map(wrap).collect()
            }
            None => self.tools.unwrap_or_default(),
        };
        let tools = tools(list_field, wire)?;
        let wire = self.tool_choice.or(self.function_call).filter(|choice| !choice.is_null());
        let choice = wire.map(|choice| tool_choice(choice_field, &choice, &tools)).transpose()?;
        let parallel = !legacy && self.parallel_tool_calls.unwrap_or(true);
        Ok(ToolSet { tools, choice: choice.unwrap_or_default(), parallel, legacy })
    }
}

/// Checks a list of tools in OpenAI's form.
pub(crate) fn tools(field: &str, wire: Vec<Value>) -> ApiResult<Vec<Tool>> {
    if wire.len() > limits::MAX_TOOLS {
        let expected = format!("at most {}", limits::MAX_TOOLS);
        return Err(ApiError::value(field, expected, format!("a list of {}", wire.len())));
    }
    let mut names = HashSet::new();
    let mut tools = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let path = format!("{field}[{index}]");
        if wire["type"] != "function" {
            return Err(ApiError::value(format!("{path}.type"), "\"function\"", &wire["type"]));
        }
        let parameters = &wire["function"]["parameters"];
        if !parameters.is_null() && !parameters.is_object() {
            let reason = super::fields::unexpected(parameters, "a JSON schema as an object");
            return Err(ApiError::Type { field: format!("{path}.function.parameters"), reason });
        }
        let tool = Tool::try_from(wire).map_err(|error| ApiError::Type {
            field: format!("{path}.function.name"),
            reason: error.to_string(),
        })?;
        check_name(&format!("{path}.function.name"), tool.name())?;
        if !names.insert(tool.name().to_owned()) {
            let found = format!("{:?} a second time", tool.name());
            return Err(ApiError::value(format!("{path}.function.name"), "a name of its own", found));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn check_name(field: &str, name: &str) -> ApiResult<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > limits::MAX_TOOL_NAME || !name.bytes().all(allowed) {
        let expected = format!("1 to {} letters, digits, - and _", limits::MAX_TOOL_NAME);
        return Err(ApiError::value(field, expected, format!("{name:?}")));
    }
    Ok(())
}

fn tool_choice(field: &str, wire: &Value, tools: &[Tool]) -> ApiResult<ToolChoice> {
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
    match &choice {
        ToolChoice::Required if tools.is_empty() => {
            Err(ApiError::value(field, "\"none\" or \"auto\" where there are no tools", wire))
        }
        ToolChoice::Named(name) if tools.iter().all(|tool| tool.name() != name) => {
            Err(ApiError::value(field, "the name of one of the tools", format!("{name:?}")))
        }
        _ => Ok(choice),
    }
}
