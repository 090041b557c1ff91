//! V4 and V4.1, written by DeepSeek's own crate `deepseek-recipe-encoding`; here the conversation becomes its types, and its prompt ours.
//!
//! The crate lets the spellings of grounding tokens in an assistant's text become control tokens. A client writes that text, so here they
//! stay text.

use deepseek_recipe_core::conversation::{Conversation, ResponseFormat};
use deepseek_recipe_core::messages::{InputMessage, ToolCall};
use deepseek_recipe_core::prompt::Prompt as RecipePrompt;
use deepseek_recipe_core::special_tokens::SpecialToken;
use deepseek_recipe_core::tools::{ToolChoice, ToolDefinition};
use deepseek_recipe_encoding::dsv4::DeepseekV4Encoding;
use deepseek_recipe_encoding::dsv41::DeepseekV41Encoding;
use deepseek_recipe_encoding::{PromptEncoding, RenderedPrompt};
use serde_json::{Value, json};

use super::effort::{self, EffortTable};
use super::turns::{Turn, turns};
use crate::chat::{ChatRequest, Role, Tool};
use crate::error::{Error, Result};
use crate::prompt::Prompt;

/// The weights that share the encoder's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V4_0731,
    V41,
}

/// Control tokens that the encoder writes by itself; others come from texts.
const CONTROL: [SpecialToken; 9] = [
    SpecialToken::Bos,
    SpecialToken::Eos,
    SpecialToken::ThinkingStart,
    SpecialToken::ThinkingEnd,
    SpecialToken::System,
    SpecialToken::User,
    SpecialToken::Assistant,
    SpecialToken::LatestReminder,
    SpecialToken::Dsml,
];

impl Version {
    pub(super) fn efforts(self) -> &'static EffortTable {
        match self {
            Self::V4 => &effort::V4,
            Self::V4_0731 => &effort::V4_0731,
            Self::V41 => &effort::V41,
        }
    }
}

pub(super) fn encode(version: Version, request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let conversation = conversation(version, request)?;
    let rendered = match version {
        Version::V4 | Version::V4_0731 => DeepseekV4Encoding::new().render_conversation(&conversation),
        Version::V41 => DeepseekV41Encoding::new().render_conversation(&conversation),
    };
    let mut prompt = prompt(&rendered);
    if !open_turn && !request.continue_final_message {
        close(&mut prompt, &conversation);
    }
    Ok(prompt)
}

fn conversation(version: Version, request: &ChatRequest) -> Result<Conversation> {
    let effort = request.reasoning_effort.as_deref();
    let thinking_mode = request.thinking.unwrap_or(effort != Some("none"));
    let effort = effort.filter(|effort| *effort != "none");
    let (tools, tool_choice) = tools(request, thinking_mode);
    let count = request.messages.len();
    let message = |(index, turn)| {
        let prefix = request.continue_final_message && index + 1 == count;
        message(turn, thinking_mode, prefix)
    };
    // As DeepSeek's API does, which also says what the reference prompts of V4.1 are.
    let silent = |turn: &Turn<'_>| {
        turn.message().role == Role::System && turn.message().content.as_deref() == Some("")
    };
    let spoken = turns(&request.messages).enumerate().filter(|(_, turn)| !silent(turn));
    let messages = spoken.map(message).collect::<Result<_>>()?;
    Ok(Conversation {
        messages,
        thinking_mode,
        tools,
        tool_choice,
        reasoning_effort: Some(version.efforts().tier(effort)?),
        response_format: response_format(request.response_format.as_ref()),
    })
}

fn message(turn: Turn<'_>, thinking: bool, prefix: bool) -> Result<InputMessage> {
    let message = turn.message();
    let content = || Ok::<_, Error>(RecipePrompt::plain(turn.content()?));
    Ok(match &message.role {
        Role::System => InputMessage::System { content: content()?, image_sources: Vec::new(), tools: None },
        Role::User => InputMessage::User { content: content()?, image_sources: Vec::new() },
        Role::Tool => InputMessage::Tool {
            content: content()?,
            image_sources: Vec::new(),
            tool_call_id: message.tool_call_id.clone(),
        },
        Role::Assistant => {
            let calls: Vec<ToolCall> = message.tool_calls.iter().map(tool_call).collect();
            let reasoning = message.reasoning_content.clone().unwrap_or_default();
            let content = match message.content.as_deref() {
                None if !calls.is_empty() || !reasoning.is_empty() => "",
                _ => turn.content()?,
            };
            InputMessage::Assistant {
                content: content.to_owned(),
                reasoning_content: thinking.then_some(reasoning),
                tool_calls: (!calls.is_empty()).then_some(calls),
                prefix,
            }
        }
        Role::Other(role) if role == "latest_reminder" => {
            InputMessage::LatestReminder { content: turn.content()?.to_owned() }
        }
        Role::Other(_) => {
            return Err(turn.unknown_role("system, user, assistant, tool, latest_reminder"));
        }
    })
}

fn tool_call(call: &crate::chat::ToolCall) -> ToolCall {
    ToolCall {
        id: call.id.clone().unwrap_or_default(),
        name: call.function.name.clone(),
        arguments: call.function.arguments.text().into_owned(),
    }
}

/// The tools that are announced, and whether the prompt opens the list of calls: a named choice is the one tool, and required. A model that
/// reasons first cannot be made to call in the prompt.
fn tools(request: &ChatRequest, thinking: bool) -> (Vec<ToolDefinition>, ToolChoice) {
    let choice = request.tool_choice.as_ref();
    let named = choice.and_then(|choice| choice["function"]["name"].as_str());
    let chosen = |tool: &&Tool| named.is_none_or(|name| tool.name() == name);
    let tools = request.tools.iter().filter(chosen).map(definition).collect();
    match choice.and_then(Value::as_str) {
        Some("none") => (Vec::new(), ToolChoice::None),
        choice if !thinking && (choice == Some("required") || named.is_some()) => {
            (tools, ToolChoice::Required)
        }
        _ => (tools, ToolChoice::Auto),
    }
}

fn definition(tool: &Tool) -> ToolDefinition {
    ToolDefinition {
        name: tool.name().to_owned(),
        description: tool.description().map(str::to_owned),
        parameters: tool.parameters().cloned().unwrap_or_else(|| json!({})),
        strict: None,
        defer_loading: false,
    }
}

/// What the prompt says of the answer's form; of other forms than JSON it says nothing.
fn response_format(format: Option<&Value>) -> ResponseFormat {
    match format.map(|format| (format["type"].as_str(), &format["json_schema"]["schema"])) {
        Some((Some("json_object"), _)) => ResponseFormat::JsonObject,
        Some((Some("json_schema"), schema)) if !schema.is_null() => {
            ResponseFormat::JsonSchema(schema.clone())
        }
        _ => ResponseFormat::Text,
    }
}

fn prompt(rendered: &RenderedPrompt) -> Prompt {
    let text = rendered.prompt.as_str();
    let mut prompt = Prompt::new();
    let mut done = 0;
    for range in &rendered.special_ranges {
        let token = &text[range.clone()];
        if CONTROL.iter().any(|control| control.default_str() == token) {
            prompt.text(&text[done..range.start]).control(token);
            done = range.end;
        }
    }
    prompt.text(&text[done..]);
    prompt
}

/// Takes back the header of the model's turn, which the encoder always writes.
fn close(prompt: &mut Prompt, conversation: &Conversation) {
    let text = prompt.to_string();
    let header = match conversation.thinking_mode {
        true => SpecialToken::ThinkingStart,
        false => SpecialToken::ThinkingEnd,
    };
    let header = format!("{}{}", SpecialToken::Assistant.default_str(), header.default_str());
    if let Some(at) = text.rfind(&header) {
        prompt.truncate(at);
    }
}
