//! Messages as clients write them, and the checks that a conversation has to pass.

use serde::Deserialize;
use serde_json::Map;
use text::{FunctionCall, Message, Role, ToolCall};

use super::fields::{Content, Part};
use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::limits;

/// What DeepSeek's text models are given in place of a picture.
pub(super) const NO_IMAGE: &str = "[Unsupported Image]";

/// One message.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WireMessage {
    role: String,
    content: Option<Content>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    /// What `tool_calls` was before there were tools.
    function_call: Option<FunctionCall>,
    tool_call_id: Option<String>,
    name: Option<String>,
    prefix: Option<bool>,
}

/// The messages of a conversation, checked. `thinking` is whether the model is to reason now.
pub(crate) fn messages(
    wire: Vec<WireMessage>,
    dialect: Dialect,
    thinking: Option<bool>,
) -> ApiResult<Vec<Message>> {
    if wire.is_empty() || wire.len() > limits::MAX_MESSAGES {
        let expected = format!("1 to {} messages", limits::MAX_MESSAGES);
        return Err(ApiError::value("messages", expected, format!("a list of {}", wire.len())));
    }
    let last = wire.len() - 1;
    let messages: Vec<Message> = wire
        .into_iter()
        .enumerate()
        .map(|(index, message)| message.check(index, index == last, dialect))
        .collect::<Result<_, _>>()?;
    check_tool_results("messages", &messages)?;
    if dialect == Dialect::DeepSeek && thinking != Some(false) {
        check_reasoning_passed_back(&messages)?;
    }
    Ok(messages)
}

impl WireMessage {
    fn check(self, index: usize, is_last: bool, dialect: Dialect) -> ApiResult<Message> {
        let field = |name: &str| format!("messages[{index}].{name}");
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => Role::Tool,
            "latest_reminder" => Role::Other(self.role.clone()),
            other => {
                let expected = "system, developer, user, assistant, tool, function or latest_reminder";
                return Err(ApiError::value(field("role"), expected, format!("{other:?}")));
            }
        };
        let is_assistant = role == Role::Assistant;
        if self.prefix == Some(true) && !(is_assistant && is_last) {
            let expected = "set only on the last message, and that of the assistant";
            return Err(ApiError::value(field("prefix"), expected, "true"));
        }
        let mut tool_calls = self.tool_calls.unwrap_or_default();
        tool_calls.extend(self.function_call.map(|function| ToolCall {
            id: None,
            kind: "function".to_owned(),
            function,
        }));
        if !tool_calls.is_empty() && !is_assistant {
            let found = format!("on a message of role {:?}", self.role);
            return Err(ApiError::value(field("tool_calls"), "set only on assistant messages", found));
        }
        for (call_index, call) in tool_calls.iter().enumerate() {
            check_call(&format!("messages[{index}].tool_calls[{call_index}]"), call)?;
        }
        let content = self.content.map(|content| join(content, &field("content"), dialect)).transpose()?;
        // A prefix may be nothing but reasoning that is to go on.
        let continues = self.prefix == Some(true) && self.reasoning_content.is_some();
        if content.is_none() && tool_calls.is_empty() && !continues {
            let expected = if is_assistant { "set, or tool_calls" } else { "set" };
            return Err(ApiError::value(field("content"), expected, "null"));
        }
        Ok(Message {
            role,
            content,
            reasoning_content: self.reasoning_content,
            tool_calls,
            tool_call_id: self.tool_call_id,
            name: self.name,
            prefix: self.prefix,
            extra: Map::new(),
        })
    }
}

/// The parts of a content as one text.
pub(super) fn join(content: Content, field: &str, dialect: Dialect) -> ApiResult<String> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let text = |part: Part| match (part, dialect) {
        (Part::Text(text), _) => Ok(text),
        (Part::Other(kind), Dialect::DeepSeek) if kind.contains("image") => Ok(NO_IMAGE.to_owned()),
        (Part::Other(kind), _) => {
            Err(ApiError::value(field, "parts of type text, which is all this model reads", kind))
        }
    };
    let texts: Vec<String> = parts.into_iter().map(text).collect::<Result<_, _>>()?;
    Ok(texts.join(dialect.part_separator()))
}

fn check_call(field: &str, call: &ToolCall) -> ApiResult<()> {
    if call.kind != "function" {
        return Err(ApiError::value(format!("{field}.type"), "function", format!("{:?}", call.kind)));
    }
    if call.function.name.is_empty() {
        return Err(ApiError::value(format!("{field}.function.name"), "a name", "empty"));
    }
    // Arguments that are no JSON are a model's own slip, which every client sends back: passed on as they are.
    Ok(())
}

/// The result of a call follows the message that made the call.
pub(super) fn check_tool_results(field: &str, messages: &[Message]) -> ApiResult<()> {
    let mut open: Option<&Message> = None;
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::Assistant => open = Some(message).filter(|message| !message.tool_calls.is_empty()),
            Role::Tool => {
                let Some(caller) = open else {
                    if message.tool_call_id.is_none() {
                        let field = format!("{field}[{index}].tool_call_id");
                        return Err(ApiError::value(
                            field,
                            "the id of a call in the message before",
                            "nothing",
                        ));
                    }
                    let expected = "a message that follows an assistant message with tool_calls";
                    return Err(ApiError::value(format!("{field}[{index}]"), expected, "a tool result"));
                };
                let known = |id: &String| caller.tool_calls.iter().any(|call| call.id.as_ref() == Some(id));
                if let Some(id) = message.tool_call_id.as_ref().filter(|id| !known(id)) {
                    let expected = "the id of a call in the message before";
                    let field = format!("{field}[{index}].tool_call_id");
                    return Err(ApiError::value(field, expected, format!("{id:?}")));
                }
            }
            _ => open = None,
        }
    }
    Ok(())
}

/// DeepSeek's rule: a reasoning model wants back what it thought before it called a tool.
fn check_reasoning_passed_back(messages: &[Message]) -> ApiResult<()> {
    let is_bare = |message: &&Message| !message.tool_calls.is_empty() && message.reasoning_content.is_none();
    match messages.iter().any(|message| is_bare(&message)) {
        true => Err(ApiError::Refused {
            field: "messages".to_owned(),
            reason: "The `reasoning_content` in the thinking mode must be passed back to the API.".to_owned(),
        }),
        false => Ok(()),
    }
}
