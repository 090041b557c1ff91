//! `/tokenize` and `/detokenize`, in vLLM's form.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use text::{ChatRequest, SpecialTokens};

use super::Call;
use crate::answer::encode;
use crate::error::{ApiError, ApiResult};
use crate::json::{self, json_response};
use crate::request::PromptSource;
use crate::request::messages::{WireMessage, messages};
use crate::state::App;

#[derive(Debug, Deserialize)]
struct TokenizeFields {
    model: Option<String>,
    /// Text, which becomes nothing but text tokens.
    prompt: Option<String>,
    /// Or a conversation, in the model's format.
    messages: Option<Vec<WireMessage>>,
    add_special_tokens: Option<bool>,
    add_generation_prompt: Option<bool>,
    return_token_strs: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct DetokenizeFields {
    model: Option<String>,
    tokens: Option<Vec<u32>>,
}

/// Text or a conversation to token ids.
pub(crate) async fn tokenize(call: Call) -> ApiResult<Response> {
    let fields: TokenizeFields = json::parse(&call.body)?;
    check_model(&call.app, fields.model.as_deref())?;
    let strings = fields.return_token_strs.unwrap_or(false);
    let app = Arc::clone(&call.app);
    let work = move || ids(&app, fields);
    let ids = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??;
    let spell = |&id: &u32| call.app.model.tokenizer.decode(&[id], SpecialTokens::Show);
    let strings = strings.then(|| ids.iter().map(spell).collect::<Vec<_>>());
    let body = json!({
        "count": ids.len(),
        "max_model_len": call.app.model.service.engine().context_len(),
        "tokens": ids,
        "token_strs": strings,
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn ids(app: &App, fields: TokenizeFields) -> ApiResult<Vec<u32>> {
    let source = match (fields.prompt, fields.messages) {
        (Some(text), None) if fields.add_special_tokens == Some(false) => {
            return app.model.tokenizer.encode_text(&text).map_err(ApiError::internal);
        }
        (Some(text), None) => PromptSource::Text(text),
        (None, Some(wire)) => PromptSource::Chat(Box::new(ChatRequest {
            messages: messages(wire, app.options.dialect, Some(false))?,
            add_generation_prompt: fields.add_generation_prompt.unwrap_or(true),
            ..ChatRequest::default()
        })),
        (Some(_), Some(_)) => return Err(ApiError::value("messages", "absent beside `prompt`", "set")),
        (None, None) => return Err(ApiError::missing("prompt")),
    };
    Ok(encode(app, &source)?.ids)
}

/// Token ids to text, control tokens spelled out.
pub(crate) async fn detokenize(call: Call) -> ApiResult<Response> {
    let fields: DetokenizeFields = json::parse(&call.body)?;
    check_model(&call.app, fields.model.as_deref())?;
    let Some(ids) = fields.tokens else { return Err(ApiError::missing("tokens")) };
    let vocab_size = call.app.model.service.engine().vocab_size();
    if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
        return Err(ApiError::value(format!("tokens[{index}]"), format!("ids below {vocab_size}"), id));
    }
    let text = call.app.model.tokenizer.decode(&ids, SpecialTokens::Show);
    Ok(json_response(StatusCode::OK, &json!({"prompt": text})))
}

/// The name may be left out here.
fn check_model(app: &App, name: Option<&str>) -> ApiResult<()> {
    name.map_or(Ok(()), |name| app.resolve_model(name).map(drop))
}
