//! `/embeddings`: texts go in, vectors of length 1 come out.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::{TokenEvent, TokenEvents};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Call;
use crate::answer::{Usage, encode_to_fit, refusal};
use crate::error::{ApiError, ApiResult};
use crate::json::{self, json_response};
use crate::limits;
use crate::request::PromptSource;
use crate::request::common::CommonFields;
use crate::request::fields::Prompts;
use crate::state::App;

#[derive(Debug, Deserialize)]
struct EmbeddingFields {
    input: Option<Prompts>,
    encoding_format: Option<EncodingFormat>,
    dimensions: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    #[default]
    Float,
    /// Little-endian single precision in base64, which OpenAI's own clients ask for.
    Base64,
}

/// Handles the route.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let envelope = json::parse::<CommonFields>(&body)?.validate()?;
    let fields: EmbeddingFields = json::parse(&body)?;
    drop(body);
    app.resolve_model(&envelope.model)?;
    if let Some(dimensions) = fields.dimensions {
        return Err(ApiError::value("dimensions", "absent: this model's vectors have one size", dimensions));
    }
    let mut permit = caller.admit()?;
    let prompts = encode_all(&app, sources(fields.input)?).await?;
    let mut usage = Usage::default();
    // All are queued before the first is waited for, so that they share steps.
    let mut jobs = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        usage.prompt_tokens += prompt.len();
        let salt = caller.salt(envelope.user_id.as_deref());
        jobs.push(app.model.service.embed(prompt, caller.owner(), salt).map_err(refusal)?);
    }
    audit.set_usage(usage);
    if let Some(permit) = &mut permit {
        permit.set_tokens(usage.prompt_tokens);
    }
    let format = fields.encoding_format.unwrap_or_default();
    let mut data = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.into_iter().enumerate() {
        let embedding = embedding(job).await?;
        data.push(json!({"object": "embedding", "index": index, "embedding": written(&embedding, format)}));
    }
    let body = json!({
        "object": "list",
        "data": data,
        "model": envelope.model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn sources(input: Option<Prompts>) -> ApiResult<Vec<PromptSource>> {
    let sources: Vec<PromptSource> = match input {
        None => return Err(ApiError::missing("input")),
        Some(Prompts::Texts(texts)) => texts.into_iter().map(PromptSource::Text).collect(),
        Some(Prompts::Tokens(lists)) => lists.into_iter().map(PromptSource::Tokens).collect(),
    };
    if sources.is_empty() || sources.len() > limits::MAX_PROMPTS {
        let expected = format!("1 to {} inputs", limits::MAX_PROMPTS);
        return Err(ApiError::value("input", expected, format!("a list of {}", sources.len())));
    }
    Ok(sources)
}

async fn encode_all(app: &Arc<App>, sources: Vec<PromptSource>) -> ApiResult<Vec<Vec<u32>>> {
    let app = Arc::clone(app);
    let work = move || {
        let ids = |source| Ok(encode_to_fit(&app, source, "input")?.ids);
        sources.iter().map(ids).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

async fn embedding(mut job: TokenEvents) -> ApiResult<Vec<f32>> {
    while let Some(event) = job.recv().await {
        match event {
            TokenEvent::Embedding(embedding) => return Ok(embedding),
            TokenEvent::Failed { error, is_request: true } => {
                return Err(ApiError::Refused { field: "input".to_owned(), reason: error });
            }
            TokenEvent::Failed { error, is_request: false } => return Err(ApiError::Dead { reason: error }),
            TokenEvent::Finish { .. } => return Err(ApiError::Draining),
            TokenEvent::Started { .. } | TokenEvent::Token { .. } => {}
        }
    }
    Err(ApiError::internal("an embedding that never came"))
}

fn written(embedding: &[f32], format: EncodingFormat) -> Value {
    match format {
        EncodingFormat::Float => json!(embedding),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
            BASE64_STANDARD.encode(bytes).into()
        }
    }
}
