//! The body of `/chat/completions`.

use serde::Deserialize;
use serde_json::Value;
use text::grammar::GrammarSpec;
use text::{ChatRequest, Message};

use super::common::{CommonFields, Envelope};
use super::fields::count_in_range;
use super::messages::{self, WireMessage};
use super::thinking::{self, ThinkingField};
use super::tools::{ToolChoice, ToolFields};
use super::{AnswerFormat, GenerateRequest, OutputForm, PromptSource, SamplingFields};
use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::json;
use crate::limits;
use crate::state::App;

#[derive(Debug, Deserialize)]
struct ChatFields {
    messages: Option<Vec<WireMessage>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    response_format: Option<Value>,
    thinking: Option<ThinkingField>,
    reasoning_effort: Option<Value>,
    chat_template_kwargs: Option<TemplateFields>,
}

/// The only template variables that a client may set.
#[derive(Debug, Default, Deserialize)]
struct TemplateFields {
    thinking: Option<bool>,
    enable_thinking: Option<bool>,
}

/// A chat request, checked.
#[derive(Debug)]
pub(crate) struct ChatCall {
    pub(crate) envelope: Envelope,
    pub(crate) generate: GenerateRequest,
    /// Whether calls are told in the old form, as `function_call`.
    pub(crate) legacy_functions: bool,
}

impl ChatCall {
    pub(crate) fn from_body(body: &[u8], app: &App) -> ApiResult<Self> {
        let envelope = json::parse::<CommonFields>(body)?.validate()?;
        let sampling: SamplingFields = json::parse(body)?;
        let tools = json::parse::<ToolFields>(body)?.validate()?;
        let fields: ChatFields = json::parse(body)?;
        let dialect = app.options.dialect;
        let alias = app.resolve_model(&envelope.model)?;

        let kwargs = fields.chat_template_kwargs.unwrap_or_default();
        let wish = fields.thinking.map(ThinkingField::is_on).or(kwargs.thinking).or(kwargs.enable_thinking);
        let mode = thinking::mode(wish, fields.reasoning_effort.as_ref(), alias, app)?;

        tools.choice.check_mode(dialect, &mode)?;

        let Some(wire) = fields.messages else { return Err(ApiError::missing("messages")) };
        let messages = messages::messages(wire, dialect, mode.thinking)?;
        let continues = messages.last().is_some_and(|message| message.prefix == Some(true));
        let json_prefix =
            fields.response_format.as_ref().is_some_and(|format| format["type"] == "json_object");
        if continues && json_prefix {
            return Err(ApiError::value("response_format.type", "text beside `prefix`", "json_object"));
        }
        if continues && (!tools.tools.is_empty() || messages.iter().any(|m| !m.tool_calls.is_empty())) {
            return Err(ApiError::value("messages", "no tools beside `prefix`", "tools and `prefix`"));
        }
        let format = AnswerFormat::parse("response_format", fields.response_format.as_ref())?;
        tools.choice.check_format("response_format", &tools.tools, format.as_ref())?;
        check_json_is_asked_for(&messages, format.as_ref())?;

        let (max_field, max_tokens) = match fields.max_completion_tokens {
            Some(max) => ("max_completion_tokens", Some(max)),
            None => ("max_tokens", fields.max_tokens),
        };
        let max_tokens = count_in_range(max_field, max_tokens, 1, limits::MAX_TOKENS)?
            .or(dialect.default_max_tokens(&mode));
        let offered = if tools.choice == ToolChoice::None { Vec::new() } else { tools.tools };
        let mut params = sampling.params(app, &mode, !offered.is_empty())?;
        params.logprobs = logprobs(fields.logprobs, fields.top_logprobs)?;
        let chat = ChatRequest {
            messages,
            tools: offered.clone(),
            thinking: mode.thinking,
            reasoning_effort: mode.effort,
            response_format: format.as_ref().and_then(AnswerFormat::to_json),
            tool_choice: (!offered.is_empty()).then(|| tools.choice.to_json()),
            continue_final_message: continues,
            add_generation_prompt: !continues,
            ..ChatRequest::default()
        };
        let generate = GenerateRequest {
            prompts: vec![PromptSource::Chat(Box::new(chat))],
            n: choices(fields.n, dialect)?,
            max_tokens,
            sampling: params,
            stop: sampling.stops()?,
            stop_token_ids: sampling.stop_tokens()?,
            ignore_eos: sampling.ignore_eos.unwrap_or(false),
            show_special_tokens: false,
            user_id: envelope.user_id.clone(),
            output: OutputForm::Turn { tools: offered, choice: tools.choice, parallel: tools.parallel },
            format,
        };
        Ok(Self { envelope, generate, legacy_functions: tools.legacy })
    }
}

/// Both APIs' rule for JSON without a schema: a model that is not told of it would write white space to the end.
fn check_json_is_asked_for(messages: &[Message], format: Option<&AnswerFormat>) -> ApiResult<()> {
    let says = |message: &Message| {
        message.content.as_deref().is_some_and(|content| content.to_ascii_lowercase().contains("json"))
    };
    match format.map(|format| &format.spec) {
        Some(GrammarSpec::JsonObject) if !messages.iter().any(says) => Err(ApiError::Refused {
            field: "messages".to_owned(),
            reason: "'messages' must contain the word 'json' in some form, to use 'response_format' of type \
                     'json_object'."
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// How many continuations of each prompt.
pub(crate) fn choices(n: Option<u64>, dialect: Dialect) -> ApiResult<usize> {
    let most = match dialect {
        Dialect::OpenAi => limits::MAX_CHOICES,
        Dialect::DeepSeek => 1,
    };
    Ok(count_in_range("n", n, 1, most)?.unwrap_or(1))
}

/// `logprobs` asks for those of the chosen tokens, `top_logprobs` for alternatives as well.
fn logprobs(logprobs: Option<bool>, top: Option<u64>) -> ApiResult<Option<usize>> {
    let top = count_in_range("top_logprobs", top, 0, limits::MAX_TOP_LOGPROBS)?;
    match (logprobs.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(top)) => Err(ApiError::value("top_logprobs", "absent unless `logprobs` is true", top)),
    }
}
