//! The paths, and the layers that every request passes: id, audit, error bodies, panics, keys.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{OriginalUri, State};
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract::Request};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::routes::{
    chat, completions, embeddings, health, messages, metrics, models, openapi, page, responses, tokenize,
};
use crate::state::App;
use crate::{audit, auth, error_body, request_id};

/// Everything that the server answers.
pub(crate) fn router(app: Arc<App>) -> Router {
    let api = api();
    let locked = Router::new()
        .merge(api.clone())
        .nest("/v1", api)
        // DeepSeek's base URL for prefix completion and FIM.
        .nest("/beta", generation())
        // DeepSeek's base URL for clients of Anthropic's API, which add /v1 themselves.
        .nest("/anthropic", Router::new().merge(messages()).nest("/v1", messages()))
        .route_layer(from_fn_with_state(Arc::clone(&app), auth::authenticate));
    Router::new()
        .merge(locked)
        .merge(page::routes())
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), audit::audit))
        .layer(from_fn_with_state(Arc::clone(&app), error_body::render))
        .layer(from_fn(request_id::name_request))
        .with_state(app)
}

/// The paths that need a key, which are there with `/v1` and without.
fn api() -> Router<Arc<App>> {
    generation()
        .merge(messages())
        .route("/responses", post(responses::handle))
        .route("/embeddings", post(embeddings::handle))
        .route("/models", get(models::list))
        .route("/models/{*name}", get(models::one))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
}

fn generation() -> Router<Arc<App>> {
    Router::new()
        .route("/chat/completions", post(chat::handle))
        .route("/completions", post(completions::handle))
}

fn messages() -> Router<Arc<App>> {
    Router::new()
        .route("/messages", post(messages::handle))
        .route("/messages/count_tokens", post(messages::count_tokens))
}

async fn no_route(method: Method, OriginalUri(uri): OriginalUri, _: State<Arc<App>>) -> ApiError {
    ApiError::NoRoute { method: method.to_string(), path: uri.path().to_owned() }
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::Method { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
    tracing::error!("a handler panicked: {}", words.as_deref().unwrap_or("no words"));
    ApiError::internal("the request hit a bug of the server").into_response()
}
