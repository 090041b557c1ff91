//! From a prompt's source to its token ids, on a thread where it holds up nobody.

use std::sync::Arc;

use text::encoding::fim;
use text::{ChatRequest, Prompt};

use crate::error::{ApiError, ApiResult};
use crate::request::{GenerateRequest, PromptSource};
use crate::state::App;

/// A prompt as the model sees it.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    /// Whether what follows begins as reasoning.
    pub(crate) opens_reasoning: bool,
}

/// Encodes all prompts of a request on a thread for such work, and gives the request back.
pub(super) async fn off_thread(
    app: Arc<App>,
    request: GenerateRequest,
) -> ApiResult<(GenerateRequest, Vec<Encoded>)> {
    let work = move || {
        let prompts: ApiResult<Vec<Encoded>> =
            request.prompts.iter().map(|prompt| encode_to_fit(&app, prompt, prompt.field())).collect();
        prompts.map(|prompts| (request, prompts))
    };
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

/// Encodes one prompt, which has to fit the context; `field` of the request holds it.
pub(crate) fn encode_to_fit(app: &App, source: &PromptSource, field: &'static str) -> ApiResult<Encoded> {
    let encoded = encode(app, source)?;
    let context = app.model.service.engine().context_len();
    match encoded.ids.len() {
        0 => Err(ApiError::value(field, "at least 1 token", "empty")),
        length if length >= context => Err(ApiError::ContextLength { field, prompt: length, context }),
        _ => Ok(encoded),
    }
}

/// Encodes one prompt, however long.
pub(crate) fn encode(app: &App, source: &PromptSource) -> ApiResult<Encoded> {
    let tokenizer = &app.model.tokenizer;
    let (ids, opens_reasoning) = match source {
        PromptSource::Chat(request) => {
            let prompt = render(app, request)?;
            (tokenizer.encode_prompt(&prompt).map_err(ApiError::internal)?, prompt.opens_reasoning())
        }
        PromptSource::Text(text) => {
            let mut prompt = Prompt::new();
            prompt.text(text);
            (tokenizer.encode_completion(&prompt).map_err(ApiError::internal)?, false)
        }
        PromptSource::Tokens(ids) => (ids.clone(), false),
        PromptSource::Fim { prefix, suffix } => {
            let ids = tokenizer.encode_completion(&fim::encode(prefix, suffix));
            (ids.map_err(|error| unsuited("suffix", &error))?, false)
        }
    };
    Ok(Encoded { ids, opens_reasoning })
}

fn render(app: &App, request: &ChatRequest) -> ApiResult<Prompt> {
    app.model.format.render(request).map_err(|error| match error {
        text::Error::Unsupported { .. } => unsuited("tools", &error),
        _ => unsuited("messages", &error),
    })
}

/// A conversation or a form of prompt for which this model has no place.
fn unsuited(field: &str, error: &text::Error) -> ApiError {
    ApiError::Refused { field: field.to_owned(), reason: error.to_string() }
}
