//! From a prompt's source to its token ids, on a thread where it holds up nobody.

use std::sync::Arc;

use text::encoding::fim;
use text::grammar::Grammar;
use text::{ChatRequest, OutputStart, Prompt};

use super::constraint;

use crate::error::{ApiError, ApiResult};
use crate::request::{GenerateRequest, PromptSource};
use crate::state::App;

/// A prompt as the model sees it.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    /// Where in an answer what follows begins.
    pub(crate) start: OutputStart,
    /// What the answer is held to.
    pub(crate) grammar: Option<Grammar>,
}

/// Encodes all prompts of a request on a thread for such work, and gives the request back.
pub(super) async fn off_thread(
    app: Arc<App>,
    request: GenerateRequest,
) -> ApiResult<(GenerateRequest, Vec<Encoded>)> {
    let work = move || {
        let prompts: ApiResult<Vec<Encoded>> =
            request.prompts.iter().map(|prompt| encode_whole(&app, &request, prompt)).collect();
        prompts.map(|prompts| (request, prompts))
    };
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

fn encode_whole(app: &App, request: &GenerateRequest, prompt: &PromptSource) -> ApiResult<Encoded> {
    let mut encoded = encode_to_fit(app, prompt, prompt.field())?;
    encoded.grammar = constraint::grammar(app, request, encoded.start)?;
    Ok(encoded)
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
    let (ids, start) = match source {
        PromptSource::Chat(request) => {
            let prompt = render(app, request)?;
            (tokenizer.encode_prompt(&prompt).map_err(ApiError::internal)?, OutputStart::from(&prompt))
        }
        PromptSource::Text(text) => {
            let mut prompt = Prompt::new();
            prompt.text(text);
            (tokenizer.encode_completion(&prompt).map_err(ApiError::internal)?, OutputStart::Content)
        }
        PromptSource::Tokens(ids) => (ids.clone(), OutputStart::Content),
        PromptSource::Fim { prefix, suffix } => {
            let ids = tokenizer.encode_completion(&fim::encode(prefix, suffix));
            (ids.map_err(|error| unsuited("suffix", &error))?, OutputStart::Content)
        }
    };
    Ok(Encoded { ids, start, grammar: None })
}

fn render(app: &App, request: &ChatRequest) -> ApiResult<Prompt> {
    app.model.format.render(request).map_err(|error| match error {
        text::Error::Unsupported { .. } => unsuited("tools", &error),
        text::Error::UnknownEffort { .. } => unsuited("reasoning_effort", &error),
        _ => unsuited("messages", &error),
    })
}

/// A conversation or a form of prompt for which this model has no place.
fn unsuited(field: &str, error: &text::Error) -> ApiError {
    ApiError::Refused { field: field.to_owned(), reason: error.to_string() }
}
