//! The body of Anthropic's `/v1/messages`, and of its `count_tokens`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::{Arguments, ChatRequest, FunctionCall, Message, Role, ToolCall};

use super::fields::{count_in_range, unexpected, user_id};
use super::sampling::SamplingFields;
use super::thinking;
use super::tools::{ToolChoice, ToolList};
use super::{AnswerFormat, GenerateRequest, OutputForm, PromptSource};
use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::json as body_json;
use crate::limits;
use crate::state::App;

#[derive(Debug, Deserialize)]
struct MessagesFields {
    model: Option<String>,
    max_tokens: Option<u64>,
    messages: Option<Vec<WireTurn>>,
    system: Option<Blocks>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    metadata: Option<Metadata>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<WireChoice>,
    thinking: Option<thinking::ThinkingField>,
    output_config: Option<OutputConfig>,
}

#[derive(Debug, Deserialize)]
struct WireTurn {
    role: String,
    content: Blocks,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    user_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OutputConfig {
    effort: Option<Value>,
    format: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct WireChoice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

/// Text, or blocks.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
enum Blocks {
    Text(String),
    List(Vec<Value>),
}

impl TryFrom<Value> for Blocks {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(blocks) => Ok(Self::List(blocks)),
            other => Err(unexpected(&other, "a string or a list of blocks")),
        }
    }
}

/// A request for a message, checked.
#[derive(Debug)]
pub(crate) struct MessagesCall {
    /// As the client writes it, which the answer repeats.
    pub(crate) model: String,
    pub(crate) streamed: bool,
    pub(crate) generate: GenerateRequest,
}

impl MessagesCall {
    /// `counts_only` is whether nothing is to be generated, and nothing has to be said about how much.
    pub(crate) fn from_body(body: &[u8], app: &App, counts_only: bool) -> ApiResult<Self> {
        let sampling: SamplingFields = body_json::parse(body)?;
        let fields: MessagesFields = body_json::parse(body)?;
        let Some(model) = fields.model else { return Err(ApiError::missing("model")) };
        let alias = app.resolve_model(&model)?;
        let max_tokens = count_in_range("max_tokens", fields.max_tokens, 1, limits::MAX_TOKENS)?;
        if max_tokens.is_none() && !counts_only {
            return Err(ApiError::missing("max_tokens"));
        }
        let (effort, format) = fields.output_config.map_or((None, None), |c| (c.effort, c.format));
        let format = AnswerFormat::parse("output_config.format", format.as_ref())?;
        let wish = fields.thinking.map(thinking::ThinkingField::is_on);
        let mode = thinking::mode(wish, effort.as_ref(), alias, app)?;
        let Some(turns) = fields.messages else { return Err(ApiError::missing("messages")) };
        let messages = conversation(fields.system, turns, app.options.dialect)?;
        let tools = tools(fields.tools.unwrap_or_default())?;
        let (choice, parallel) = choice(fields.tool_choice)?;
        choice.check("tool_choice", &tools.tools)?;
        choice.check_format("output_config.format", &tools.tools, format.as_ref())?;
        choice.check_mode(app.options.dialect, &mode)?;
        let offered = if choice == ToolChoice::None { Vec::new() } else { tools.tools };
        let params = sampling.params(app, &mode, !offered.is_empty())?;
        let stops = fields.stop_sequences.unwrap_or_default();
        // Checked like the stop strings of the other front ends, under its own name.
        let stop = SamplingFields::check_stops("stop_sequences", stops)?;
        let continues = messages.last().is_some_and(|message| message.role == Role::Assistant);
        let chat = ChatRequest {
            messages,
            tools: offered.clone(),
            thinking: mode.thinking,
            reasoning_effort: mode.effort,
            response_format: format.as_ref().and_then(AnswerFormat::to_json),
            tool_choice: (!offered.is_empty()).then(|| choice.to_json()),
            continue_final_message: continues,
            add_generation_prompt: !continues,
            ..ChatRequest::default()
        };
        let generate = GenerateRequest {
            prompts: vec![PromptSource::Chat(Box::new(chat))],
            n: 1,
            max_tokens,
            sampling: params,
            stop,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            show_special_tokens: false,
            user_id: metadata_user(fields.metadata),
            output: OutputForm::Turn { tools: offered, choice, parallel },
            format,
        };
        Ok(Self { model, streamed: fields.stream.unwrap_or(false), generate })
    }
}

/// Anthropic's ids of users have no form; one that is not DeepSeek's separates nothing.
fn metadata_user(metadata: Option<Metadata>) -> Option<String> {
    metadata.and_then(|metadata| user_id(metadata.user_id).ok().flatten())
}

fn tools(wire: Vec<Value>) -> ApiResult<ToolList> {
    let mut tools = ToolList::new("tools");
    for (index, mut tool) in wire.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        // The type may be left out; any other is a tool of Anthropic's own servers.
        match tool.as_object_mut().and_then(|tool| tool.remove("type")) {
            None | Some(Value::Null) => {}
            Some(kind) if kind == "custom" => {}
            Some(kind) => return Err(ApiError::value(format!("{path}.type"), "\"custom\"", kind)),
        }
        if let Some(tool) = tool.as_object_mut() {
            tool.remove("cache_control");
        }
        tools.push(&path, "input_schema", tool)?;
    }
    Ok(tools)
}

fn choice(wire: Option<WireChoice>) -> ApiResult<(ToolChoice, bool)> {
    let Some(WireChoice { kind, name, disable_parallel_tool_use }) = wire else {
        return Ok((ToolChoice::Auto, true));
    };
    let choice = match (kind.as_str(), name) {
        ("auto", _) => ToolChoice::Auto,
        ("none", _) => ToolChoice::None,
        ("any", _) => ToolChoice::Required,
        ("tool", Some(name)) => ToolChoice::Named(name),
        ("tool", None) => return Err(ApiError::missing("tool_choice.name")),
        _ => {
            let expected = "auto, any, tool or none";
            return Err(ApiError::value("tool_choice.type", expected, format!("{kind:?}")));
        }
    };
    Ok((choice, !disable_parallel_tool_use.unwrap_or(false)))
}

/// The turns as messages of OpenAI's form, where results of tools are messages of their own.
fn conversation(system: Option<Blocks>, turns: Vec<WireTurn>, dialect: Dialect) -> ApiResult<Vec<Message>> {
    if turns.is_empty() || turns.len() > limits::MAX_MESSAGES {
        let expected = format!("1 to {} messages", limits::MAX_MESSAGES);
        return Err(ApiError::value("messages", expected, format!("a list of {}", turns.len())));
    }
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = system {
        messages.push(Message::system(text_of("system", system, dialect)?));
    }
    let mut called = Vec::new();
    for (index, turn) in turns.into_iter().enumerate() {
        let path = format!("messages[{index}].content");
        match turn.role.as_str() {
            "user" => user(&path, turn.content, &called, dialect, &mut messages)?,
            "assistant" => {
                let message = assistant(&path, turn.content, dialect)?;
                called = message.tool_calls.iter().filter_map(|call| call.id.clone()).collect();
                messages.push(message);
            }
            "system" => messages.push(Message::system(text_of(&path, turn.content, dialect)?)),
            other => {
                let field = format!("messages[{index}].role");
                return Err(ApiError::value(field, "user or assistant", format!("{other:?}")));
            }
        }
    }
    Ok(messages)
}

/// A user's turn: first the results of tools, then what is said.
fn user(
    path: &str,
    content: Blocks,
    called: &[String],
    dialect: Dialect,
    messages: &mut Vec<Message>,
) -> ApiResult<()> {
    let blocks = match content {
        Blocks::Text(text) => {
            messages.push(Message::user(text));
            return Ok(());
        }
        Blocks::List(blocks) => blocks,
    };
    let mut texts = Vec::new();
    let mut results = 0;
    for (index, mut block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        if block["type"] != "tool_result" {
            texts.push(text_block(&path, &block, dialect)?);
            continue;
        }
        let id = block["tool_use_id"].as_str().unwrap_or_default().to_owned();
        if !called.contains(&id) {
            let expected = "the id of a tool_use in the message before";
            return Err(ApiError::value(format!("{path}.tool_use_id"), expected, &block["tool_use_id"]));
        }
        let content = match block["content"].take() {
            Value::Null => String::new(),
            content => {
                let field = format!("{path}.content");
                let blocks = Blocks::try_from(content)
                    .map_err(|reason| ApiError::Type { field: field.clone(), reason })?;
                text_of(&field, blocks, dialect)?
            }
        };
        messages.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, content) });
        results += 1;
    }
    if results == 0 || !texts.is_empty() {
        messages.push(Message::user(texts.join(dialect.part_separator())));
    }
    Ok(())
}

/// A model's turn: what it thought, said and called.
fn assistant(path: &str, content: Blocks, dialect: Dialect) -> ApiResult<Message> {
    let blocks = match content {
        Blocks::Text(text) => return Ok(Message::assistant(text)),
        Blocks::List(blocks) => blocks,
    };
    let (mut texts, mut thoughts, mut tool_calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, mut block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        match block["type"].as_str() {
            Some("thinking") => match block["thinking"].as_str() {
                Some(text) => thoughts.push(text.to_owned()),
                None => return Err(wrong(&path, "thinking", &block["thinking"], "a string")),
            },
            // Nobody but its author can read it.
            Some("redacted_thinking") => {}
            Some("tool_use") => tool_calls.push(tool_use(&path, &mut block)?),
            _ => texts.push(text_block(&path, &block, dialect)?),
        }
    }
    let content = texts.join(dialect.part_separator());
    Ok(Message {
        content: Some(content).filter(|content| !content.is_empty() || tool_calls.is_empty()),
        reasoning_content: Some(thoughts.concat()).filter(|_| !thoughts.is_empty()),
        tool_calls,
        ..Message::assistant("")
    })
}

fn tool_use(path: &str, block: &mut Value) -> ApiResult<ToolCall> {
    let string = |field: &str, value: &Value| match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(wrong(path, field, value, "a string that is not empty")),
    };
    let (id, name) = (string("id", &block["id"])?, string("name", &block["name"])?);
    let input: Map<String, Value> = match block["input"].take() {
        Value::Object(input) => input,
        Value::Null => Map::new(),
        other => return Err(wrong(path, "input", &other, "an object")),
    };
    let function = FunctionCall { name, arguments: Arguments::Text(json!(input).to_string()) };
    Ok(ToolCall { id: Some(id), kind: "function".to_owned(), function })
}

fn text_of(path: &str, content: Blocks, dialect: Dialect) -> ApiResult<String> {
    match content {
        Blocks::Text(text) => Ok(text),
        Blocks::List(blocks) => {
            let text =
                |(index, block): (usize, &Value)| text_block(&format!("{path}[{index}]"), block, dialect);
            let texts: Vec<String> = blocks.iter().enumerate().map(text).collect::<Result<_, _>>()?;
            Ok(texts.join(dialect.part_separator()))
        }
    }
}

fn text_block(path: &str, block: &Value, dialect: Dialect) -> ApiResult<String> {
    match (block["type"].as_str(), block["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some("text"), None) => Err(wrong(path, "text", &block["text"], "a string")),
        (Some("image"), _) if dialect == Dialect::DeepSeek => Ok(super::messages::NO_IMAGE.to_owned()),
        (Some(other), _) => {
            let expected =
                "a type of block that this model reads, which are text, thinking, tool_use and tool_result";
            Err(ApiError::value(format!("{path}.type"), expected, format!("{other:?}")))
        }
        (None, _) => Err(wrong(path, "type", &block["type"], "a string")),
    }
}

fn wrong(path: &str, field: &str, found: &Value, expected: &str) -> ApiError {
    ApiError::Type { field: format!("{path}.{field}"), reason: unexpected(found, expected) }
}
