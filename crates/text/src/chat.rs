//! `ChatRequest`: a conversation in the OpenAI message format, as every prompt format and template takes it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::python_json;

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// Any other role; only a checkpoint's own template may know it.
    Other(String),
}

impl Role {
    /// The role's name in JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for Role {
    fn from(name: String) -> Self {
        match name.as_str() {
            "system" => Self::System,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            _ => Self::Other(name),
        }
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.as_str().to_owned()
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text; a list of text parts is joined. `None` beside tool calls.
    #[serde(default, deserialize_with = "content")]
    pub content: Option<String>,
    /// The model's reasoning before its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls an assistant message makes; empty and absent are the same.
    #[serde(default, deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the speaker or the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// DeepSeek's flag for an assistant message that the model is to continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<bool>,
    /// Fields that only some templates know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message with nothing but a role and a text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            prefix: None,
            extra: Map::new(),
        }
    }

    /// A user's message.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// A system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// An assistant's message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// A call the model made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Identifies the call for its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, the only kind there is.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called with what.
    pub function: FunctionCall,
}

/// Name and arguments of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// The arguments, as JSON text or as a JSON object.
    pub arguments: Arguments,
}

/// Arguments of a call: OpenAI's API carries JSON text, some clients send the object itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Arguments {
    /// JSON text, passed on as it is.
    Text(String),
    /// A JSON object.
    Object(Map<String, Value>),
}

impl Arguments {
    /// The arguments as JSON text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Object(object) => Cow::Owned(python_json::dumps(&Value::Object(object.clone()), None)),
        }
    }
}

/// A tool that the model may call, kept as the client wrote it so that its schema reaches the prompt in the client's key order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Tool {
    name: String,
    json: Value,
}

impl Tool {
    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the function does, for the model to read.
    pub fn description(&self) -> Option<&str> {
        self.json["function"]["description"].as_str()
    }

    /// JSON schema of the parameters.
    pub fn parameters(&self) -> Option<&Value> {
        self.json["function"].get("parameters").filter(|parameters| !parameters.is_null())
    }

    /// Whether the client wants the arguments to follow the schema to the letter.
    pub fn is_strict(&self) -> bool {
        self.json["function"]["strict"].as_bool().unwrap_or(false)
    }

    /// The whole tool as the client wrote it.
    pub fn as_json(&self) -> &Value {
        &self.json
    }
}

impl TryFrom<Value> for Tool {
    type Error = Error;

    fn try_from(json: Value) -> Result<Self> {
        match json["function"]["name"].as_str() {
            Some(name) => Ok(Self { name: name.to_owned(), json }),
            None => Err(Error::Malformed {
                file: "tool".to_owned(),
                field: "function.name".to_owned(),
                expected: "a string",
                found: json["function"]["name"].to_string(),
            }),
        }
    }
}

impl From<Tool> for Value {
    fn from(tool: Tool) -> Self {
        tool.json
    }
}

/// A conversation and how it is to be rendered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Tools the model may call.
    #[serde(deserialize_with = "null_as_empty")]
    pub tools: Vec<Tool>,
    /// Whether the model is to reason first; `None` leaves it to the generation.
    pub thinking: Option<bool>,
    /// How long the model is to reason, by the generation's own names.
    pub reasoning_effort: Option<String>,
    /// Whether the prompt ends with the header of the model's turn; on by default.
    pub add_generation_prompt: bool,
    /// Whether the last assistant message stays open for the model to continue; replaces the generation prompt.
    pub continue_final_message: bool,
    /// The form the answer must have.
    pub response_format: Option<Value>,
    /// Which tool the model must or must not call.
    pub tool_choice: Option<Value>,
    /// Further variables for the checkpoint's own template.
    pub chat_template_kwargs: Map<String, Value>,
}

impl Default for ChatRequest {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            tools: Vec::new(),
            thinking: None,
            reasoning_effort: None,
            add_generation_prompt: true,
            continue_final_message: false,
            response_format: None,
            tool_choice: None,
            chat_template_kwargs: Map::new(),
        }
    }
}

impl ChatRequest {
    /// A request with these messages and defaults for the rest.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Parses a request from JSON.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a field is missing or of another type.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|reason| Error::json("request", "a chat request", &reason))
    }

    /// The assistant's text that is to be continued, when `continue_final_message` asks for it; empty where only reasoning is.
    pub(crate) fn continued(&self) -> Result<Option<&str>> {
        if !self.continue_final_message {
            return Ok(None);
        }
        let found = match self.messages.last() {
            Some(Message { role: Role::Assistant, content, reasoning_content, tool_calls, .. })
                if tool_calls.is_empty() =>
            {
                let reasons = reasoning_content.as_ref().is_some_and(|reasoning| !reasoning.is_empty());
                match content {
                    Some(text) => return Ok(Some(text)),
                    None if reasons => return Ok(Some("")),
                    None => "an assistant message without content".to_owned(),
                }
            }
            Some(Message { role: Role::Assistant, .. }) => "an assistant message with tool calls".to_owned(),
            Some(message) => format!("a message of role {:?}", message.role.as_str()),
            None => "no message".to_owned(),
        };
        Err(Error::CannotContinue { found })
    }
}

fn function() -> String {
    "function".to_owned()
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// Content is a string, null, or a list of parts of which only text can become part of a prompt.
fn content<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    use serde::de::Error as _;
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Array(parts) => {
            let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                (kind, _) => Err(D::Error::custom(format!(
                    "content part: expected type \"text\" with text, found type {kind:?}"
                ))),
            };
            parts.iter().map(text).collect::<std::result::Result<String, _>>().map(Some)
        }
        other => Err(D::Error::custom(format!(
            "content: expected a string, a list of parts or null, found {other}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openai_format_round_trips() {
        let json = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]},
            {"role": "tool", "tool_call_id": "c", "content": "ok", "tool_calls": null}], "tools": null}"#;
        let request = ChatRequest::from_json(json).unwrap();
        assert_eq!(request.messages[0].content.as_deref(), Some("ab"));
        assert_eq!(request.messages[1].tool_calls[0].function.arguments.text(), r#"{"z": 1, "a": 2}"#);
        assert_eq!(request.messages[1].tool_calls[0].kind, "function");
        assert!(request.messages[2].tool_calls.is_empty() && request.add_generation_prompt);
        let again: ChatRequest = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
        assert_eq!(again, request);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (json, part) in [
            (r#"{"messages": [{"content": "x"}]}"#, "role"),
            (r#"{"messages": [{"role": "user", "content": 5}]}"#, "content: expected a string"),
            (r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, "image_url"),
            (r#"{"messages": [], "tools": [{"type": "function", "function": {}}]}"#, "function.name"),
        ] {
            let error = ChatRequest::from_json(json).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
