//! The bodies in which a refused request is told so: OpenAI's, DeepSeek's and Anthropic's, chosen by path and dialect
//! in one middleware, so that no handler knows them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::json::json_response;
use crate::state::App;

/// Whose form an error takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorForm {
    OpenAi,
    DeepSeek,
    Anthropic,
}

impl ErrorForm {
    /// The form that belongs to a path.
    pub(crate) fn of(path: &str, dialect: Dialect) -> Self {
        let path = path.strip_prefix("/anthropic").unwrap_or(path);
        let path = path.strip_prefix("/v1").unwrap_or(path);
        match dialect {
            _ if path == "/messages" || path.starts_with("/messages/") => Self::Anthropic,
            Dialect::OpenAi => Self::OpenAi,
            Dialect::DeepSeek => Self::DeepSeek,
        }
    }

    /// The body of an error.
    pub(crate) fn body(self, error: &ApiError) -> Value {
        match self {
            Self::OpenAi => json!({"error": {
                "message": error.to_string(),
                "type": openai_type(error.status()),
                "param": error.param(),
                "code": error.code(),
            }}),
            Self::DeepSeek => json!({"error": {
                "message": deepseek_message(error),
                "type": deepseek_type(error.status()),
                "param": null,
                "code": deepseek_type(error.status()),
            }}),
            Self::Anthropic => json!({"type": "error", "error": {
                "type": anthropic_type(error.status()),
                "message": error.to_string(),
            }}),
        }
    }
}

fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

fn deepseek_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        status if status.is_server_error() => "internal_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

/// DeepSeek's words for a body that cannot be read; clients look for them.
fn deepseek_message(error: &ApiError) -> String {
    match error {
        ApiError::Json { reason } => format!("Failed to parse the request body as JSON: {reason}"),
        ApiError::Type { .. } => {
            format!("Failed to deserialize the JSON body into the target type: {error}")
        }
        other => other.to_string(),
    }
}

impl IntoResponse for ApiError {
    /// A status and the error itself, for [`render`] to write.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Middleware: gives refusals their body, and their `Retry-After`.
pub(crate) async fn render(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let form = ErrorForm::of(request.uri().path(), app.options.dialect);
    let response = next.run(request).await;
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else {
        return response;
    };
    let mut rendered = json_response(error.status(), &form.body(&error));
    let headers = rendered.headers_mut();
    if let Some(after) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(allow) = response.headers().get(header::ALLOW) {
        headers.insert(header::ALLOW, allow.clone());
    }
    *rendered.extensions_mut() = response.extensions().clone();
    rendered
}
