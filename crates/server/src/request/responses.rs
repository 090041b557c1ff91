//! The body of OpenAI's `/v1/responses`, without state: everything that the model is to know is in the request.

use serde::Deserialize;
use serde_json::{Value, json};
use text::{Arguments, ChatRequest, FunctionCall, Message, Role, ToolCall};

use super::common::CommonFields;
use super::fields::{Content, count_in_range, unexpected};
use super::messages::{check_tool_results, join};
use super::thinking;
use super::tools::{ToolChoice, ToolList, tool_choice};
use super::{AnswerFormat, GenerateRequest, OutputForm, PromptSource, SamplingFields};
use crate::error::{ApiError, ApiResult};
use crate::json as body_json;
use crate::limits;
use crate::state::App;

#[derive(Debug, Deserialize)]
struct ResponsesFields {
    input: Option<Input>,
    instructions: Option<String>,
    max_output_tokens: Option<u64>,
    reasoning: Option<ReasoningFields>,
    thinking: Option<thinking::ThinkingField>,
    text: Option<TextFields>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    previous_response_id: Option<String>,
    conversation: Option<Value>,
    background: Option<bool>,
    metadata: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ReasoningFields {
    effort: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct TextFields {
    format: Option<Value>,
}

/// Text, or items.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
enum Input {
    Text(String),
    Items(Vec<Value>),
}

impl TryFrom<Value> for Input {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(items) => Ok(Self::Items(items)),
            other => Err(unexpected(&other, "a string or a list of items")),
        }
    }
}

/// A request for a response, checked.
#[derive(Debug)]
pub(crate) struct ResponsesCall {
    pub(crate) streamed: bool,
    pub(crate) generate: GenerateRequest,
    /// What the answer repeats of the request.
    pub(crate) echo: Value,
}

impl ResponsesCall {
    pub(crate) fn from_body(body: &[u8], app: &App) -> ApiResult<Self> {
        let envelope = body_json::parse::<CommonFields>(body)?.validate()?;
        let sampling: SamplingFields = body_json::parse(body)?;
        let fields: ResponsesFields = body_json::parse(body)?;
        fields.check_state()?;
        let alias = app.resolve_model(&envelope.model)?;
        let effort = fields.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref());
        let mode = thinking::mode(fields.thinking.map(|t| t.is_on()), effort, alias, app)?;
        let tools = tools(fields.tools.clone().unwrap_or_default())?;
        let choice = fields.tool_choice.as_ref().filter(|choice| !choice.is_null());
        let choice = choice.map(|choice| tool_choice("tool_choice", choice, &tools.tools)).transpose()?;
        let choice = choice.unwrap_or_default();
        choice.check_mode(app.options.dialect, &mode)?;
        let parallel = fields.parallel_tool_calls.unwrap_or(true);
        let format = fields.text.as_ref().and_then(|text| text.format.as_ref());
        let answer_format = AnswerFormat::parse("text.format", format)?;
        choice.check_format("text.format", &tools.tools, answer_format.as_ref())?;
        let max_tokens =
            count_in_range("max_output_tokens", fields.max_output_tokens, 1, limits::MAX_TOKENS)?
                .or(app.options.dialect.default_max_tokens(&mode));
        let offered = if choice == ToolChoice::None { Vec::new() } else { tools.tools };
        let params = sampling.params(app, &mode, !offered.is_empty())?;
        let echo = json!({
            "model": envelope.model,
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "metadata": fields.metadata.clone().unwrap_or_else(|| json!({})),
            "parallel_tool_calls": parallel,
            "reasoning": {"effort": effort, "summary": null},
            "temperature": params.temperature,
            "text": {"format": format.cloned().unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": fields.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": fields.tools.clone().unwrap_or_default(),
            "top_p": params.top_p,
        });
        let messages = conversation(fields.instructions, fields.input, app)?;
        let chat = ChatRequest {
            messages,
            tools: offered.clone(),
            thinking: mode.thinking,
            reasoning_effort: mode.effort,
            response_format: answer_format.as_ref().and_then(AnswerFormat::to_json),
            tool_choice: (!offered.is_empty()).then(|| choice.to_json()),
            ..ChatRequest::default()
        };
        let generate = GenerateRequest {
            prompts: vec![PromptSource::Chat(Box::new(chat))],
            n: 1,
            max_tokens,
            sampling: params,
            stop: sampling.stops()?,
            stop_token_ids: sampling.stop_tokens()?,
            ignore_eos: sampling.ignore_eos.unwrap_or(false),
            show_special_tokens: false,
            user_id: envelope.user_id,
            output: OutputForm::Turn { tools: offered, choice, parallel },
            format: answer_format,
        };
        Ok(Self { streamed: envelope.stream.is_some(), generate, echo })
    }
}

impl ResponsesFields {
    /// What only a server that keeps answers could do.
    fn check_state(&self) -> ApiResult<()> {
        let refuse = |field, found: &dyn std::fmt::Display| {
            Err(ApiError::value(
                field,
                "absent: this server keeps nothing, send the whole conversation",
                found,
            ))
        };
        match self {
            Self { previous_response_id: Some(id), .. } => refuse("previous_response_id", id),
            Self { conversation: Some(conversation), .. } => refuse("conversation", conversation),
            Self { background: Some(true), .. } => refuse("background", &true),
            _ => Ok(()),
        }
    }
}

fn tools(wire: Vec<Value>) -> ApiResult<ToolList> {
    let mut tools = ToolList::new("tools");
    for (index, mut tool) in wire.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        if tool["type"] != "function" {
            let expected = "\"function\": this server has no tools of its own";
            return Err(ApiError::value(format!("{path}.type"), expected, &tool["type"]));
        }
        if let Some(tool) = tool.as_object_mut() {
            tool.remove("type");
        }
        tools.push(&path, "parameters", tool)?;
    }
    Ok(tools)
}

fn conversation(instructions: Option<String>, input: Option<Input>, app: &App) -> ApiResult<Vec<Message>> {
    let mut messages: Vec<Message> = instructions.map(Message::system).into_iter().collect();
    match input {
        None => return Err(ApiError::missing("input")),
        Some(Input::Text(text)) => messages.push(Message::user(text)),
        Some(Input::Items(items)) if items.is_empty() || items.len() > limits::MAX_MESSAGES => {
            let expected = format!("1 to {} items", limits::MAX_MESSAGES);
            return Err(ApiError::value("input", expected, format!("a list of {}", items.len())));
        }
        Some(Input::Items(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                push_item(&format!("input[{index}]"), item, app, &mut messages)?;
            }
        }
    }
    check_tool_results("input", &messages)?;
    Ok(messages)
}

/// One item of the input. Reasoning, text and calls that follow each other are one message of the assistant.
fn push_item(path: &str, mut item: Value, app: &App, messages: &mut Vec<Message>) -> ApiResult<()> {
    match item["type"].as_str() {
        Some("function_call") => {
            let function = FunctionCall {
                name: string(path, "name", &item)?,
                arguments: Arguments::Text(string(path, "arguments", &item)?),
            };
            let call =
                ToolCall { id: Some(string(path, "call_id", &item)?), kind: "function".into(), function };
            assistant(messages).tool_calls.push(call);
        }
        Some("function_call_output") => {
            let id = string(path, "call_id", &item)?;
            let content = content(path, "output", item["output"].take(), app)?;
            messages.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, content) });
        }
        Some("reasoning") => {
            let text = reasoning_text(&item);
            messages.push(Message { content: None, reasoning_content: Some(text), ..Message::assistant("") });
        }
        None | Some("message") => {
            let role = string(path, "role", &item)?;
            let text = content(path, "content", item["content"].take(), app)?;
            match role.as_str() {
                "assistant" => assistant(messages).content = Some(text),
                "user" => messages.push(Message::user(text)),
                "system" | "developer" => messages.push(Message::system(text)),
                other => {
                    let expected = "user, assistant, system or developer";
                    return Err(ApiError::value(format!("{path}.role"), expected, format!("{other:?}")));
                }
            }
        }
        Some(other) => {
            let expected = "message, reasoning, function_call or function_call_output";
            return Err(ApiError::value(format!("{path}.type"), expected, format!("{other:?}")));
        }
    }
    Ok(())
}

/// The message that the model's items add to: the last one, if it is the model's and has not come to its calls.
fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    let open = messages.last().is_some_and(|last| last.role == Role::Assistant);
    if !open {
        messages.push(Message { content: None, ..Message::assistant("") });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

fn reasoning_text(item: &Value) -> String {
    let parts = item["content"].as_array().or_else(|| item["summary"].as_array());
    parts.into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
}

fn string(path: &str, field: &str, item: &Value) -> ApiResult<String> {
    match item[field].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let reason = unexpected(&item[field], "a string");
            Err(ApiError::Type { field: format!("{path}.{field}"), reason })
        }
    }
}

fn content(path: &str, field: &str, value: Value, app: &App) -> ApiResult<String> {
    let field = format!("{path}.{field}");
    let content =
        Content::try_from(value).map_err(|reason| ApiError::Type { field: field.clone(), reason })?;
    join(content, &field, app.options.dialect)
}
