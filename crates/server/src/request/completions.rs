//! The body of `/completions`, fill-in-the-middle included.

use serde::Deserialize;
use serde_json::Value;

use super::chat::choices;
use super::common::{CommonFields, Envelope};
use super::fields::{Prompts, count_in_range};
use super::{AnswerFormat, GenerateRequest, Mode, OutputForm, PromptSource, SamplingFields};
use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::json;
use crate::limits;
use crate::state::App;

/// Tokens of a completion whose request says nothing, as OpenAI's API has it.
const OPENAI_MAX_TOKENS: usize = 16;

#[derive(Debug, Deserialize)]
struct CompletionFields {
    prompt: Option<Prompts>,
    suffix: Option<String>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    echo: Option<bool>,
    logprobs: Option<u64>,
    skip_special_tokens: Option<bool>,
    response_format: Option<Value>,
}

/// A completion request, checked.
#[derive(Debug)]
pub(crate) struct CompletionCall {
    pub(crate) envelope: Envelope,
    pub(crate) generate: GenerateRequest,
    /// Whether the prompt comes before its continuation.
    pub(crate) echo: bool,
}

impl CompletionCall {
    pub(crate) fn from_body(body: &[u8], app: &App) -> ApiResult<Self> {
        let envelope = json::parse::<CommonFields>(body)?.validate()?;
        let sampling: SamplingFields = json::parse(body)?;
        let fields: CompletionFields = json::parse(body)?;
        app.resolve_model(&envelope.model)?;
        let dialect = app.options.dialect;
        let n = choices(fields.n, dialect)?;
        if let Some(best_of) = fields.best_of.filter(|&best_of| best_of != n as u64) {
            return Err(ApiError::value("best_of", format!("absent or {n}, the same as `n`"), best_of));
        }
        let Some(prompt) = fields.prompt else { return Err(ApiError::missing("prompt")) };
        let mut params = sampling.params(app, &Mode::default(), false)?;
        params.logprobs = count_in_range("logprobs", fields.logprobs, 0, limits::MAX_TOP_LOGPROBS)?;
        let echo = fields.echo.unwrap_or(false);
        if echo && params.logprobs.is_some() {
            let reason =
                "`logprobs` of a prompt that `echo` repeats are not computed; ask for one of the two";
            return Err(ApiError::Refused { field: "echo".to_owned(), reason: reason.to_owned() });
        }
        let default_max = match dialect {
            Dialect::OpenAi => Some(OPENAI_MAX_TOKENS),
            Dialect::DeepSeek => None,
        };
        let generate = GenerateRequest {
            prompts: prompts(prompt, fields.suffix)?,
            n,
            max_tokens: count_in_range("max_tokens", fields.max_tokens, 1, limits::MAX_TOKENS)?
                .or(default_max),
            sampling: params,
            stop: sampling.stops()?,
            stop_token_ids: sampling.stop_tokens()?,
            ignore_eos: sampling.ignore_eos.unwrap_or(false),
            show_special_tokens: !fields.skip_special_tokens.unwrap_or(true),
            user_id: envelope.user_id.clone(),
            output: OutputForm::Text,
            format: AnswerFormat::parse("response_format", fields.response_format.as_ref())?,
        };
        Ok(Self { envelope, generate, echo })
    }
}

fn prompts(prompt: Prompts, suffix: Option<String>) -> ApiResult<Vec<PromptSource>> {
    let sources: Vec<PromptSource> = match (prompt, suffix) {
        (Prompts::Texts(texts), None) => texts.into_iter().map(PromptSource::Text).collect(),
        (Prompts::Tokens(lists), None) => lists.into_iter().map(PromptSource::Tokens).collect(),
        (Prompts::Texts(texts), Some(suffix)) => {
            texts.into_iter().map(|prefix| PromptSource::Fim { prefix, suffix: suffix.clone() }).collect()
        }
        (Prompts::Tokens(_), Some(_)) => {
            return Err(ApiError::value("prompt", "text where there is a suffix", "token ids"));
        }
    };
    if sources.is_empty() || sources.len() > limits::MAX_PROMPTS {
        let expected = format!("1 to {} prompts", limits::MAX_PROMPTS);
        return Err(ApiError::value("prompt", expected, format!("a list of {}", sources.len())));
    }
    Ok(sources)
}
