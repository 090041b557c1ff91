//! The two error enums: [`ServerError`] for a server that cannot start, [`ApiError`] for a request that is refused.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::StatusCode;

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A public address without a key.
    #[error(
        "{addr} can be reached from other machines, and no API key is set: give --api-key or --keys, or bind to 127.0.0.1"
    )]
    PublicWithoutKey {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The socket could not be opened.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An option out of range.
    #[error("{field} is {found}, expected {expected}")]
    Option {
        /// Name of the option.
        field: &'static str,
        /// The accepted values in words.
        expected: String,
        /// What came.
        found: String,
    },
    /// The keys file cannot be read or is not one.
    #[error("{}: {reason}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// Which entry, what was expected and what was found.
        reason: String,
    },
    /// A table inside the program is damaged, which only a bug of ours can cause.
    #[error("table {name}: {reason}")]
    Table {
        /// File name of the table.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Why a request is refused or failed. The bodies that clients see are made of this in `error_body`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {reason}")]
    Json { reason: String },
    /// A field has another type, or is missing.
    #[error("{}{reason}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
    Type { field: String, reason: String },
    /// A field has the right type and a value that is not accepted.
    #[error("{field} is {found}, expected {expected}")]
    Value { field: String, expected: String, found: String },
    /// A combination that is not accepted, in words that clients know.
    #[error("{reason}")]
    Refused { field: String, reason: String },
    /// The prompt leaves no room for an answer.
    #[error(
        "this model's maximum context length is {context} tokens, but the prompt has {prompt} tokens; shorten the {field}"
    )]
    ContextLength { field: &'static str, prompt: usize, context: usize },
    /// Another model than the one that is served.
    #[error("the model `{name}` does not exist; this server has `{served}`")]
    NoModel { name: String, served: String },
    /// No such path.
    #[error("no such path: {method} {path}")]
    NoRoute { method: String, path: String },
    /// The path exists, the method does not.
    #[error("{path} does not accept {method}")]
    Method { method: String, path: String },
    /// The body is longer than the limit.
    #[error("the body is longer than the limit of {limit} bytes")]
    TooLarge { limit: usize },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} seconds", limit.as_secs())]
    BodyTimeout { limit: Duration },
    /// The connection broke while the body was read.
    #[error("the body could not be read: {reason}")]
    Body { reason: String },
    /// No key came.
    #[error("no API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    NoKey,
    /// A key came that is not known.
    #[error("the API key is not valid")]
    WrongKey,
    /// The key used up one of its limits.
    #[error("rate limit: this key may use {limit} {what}")]
    Quota { what: &'static str, limit: u64, retry_after: Duration },
    /// The engine's queue is full.
    #[error("the server is busy: {waiting} requests wait already")]
    Busy { waiting: usize },
    /// The server is about to stop.
    #[error("the server is shutting down")]
    Draining,
    /// The engine is dead.
    #[error("the engine is not running: {reason}")]
    Dead { reason: String },
    /// A request that passed all checks failed.
    #[error("internal error: {reason}")]
    Internal { reason: String },
}

/// A result of handling a request.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn value(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Value { field: field.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A field that must be there and is not.
    pub(crate) fn missing(field: &str) -> Self {
        Self::Type { field: field.to_owned(), reason: "missing field".to_owned() }
    }

    pub(crate) fn internal(reason: impl ToString) -> Self {
        Self::Internal { reason: reason.to_string() }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Json { .. }
            | Self::Type { .. }
            | Self::Value { .. }
            | Self::Refused { .. }
            | Self::ContextLength { .. }
            | Self::Body { .. } => StatusCode::BAD_REQUEST,
            Self::NoKey | Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::NoModel { .. } | Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Quota { .. } | Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Draining | Self::Dead { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The field of the request that is to blame.
    pub(crate) fn param(&self) -> Option<&str> {
        match self {
            Self::Type { field, .. } | Self::Value { field, .. } | Self::Refused { field, .. } => {
                Some(field.as_str()).filter(|field| !field.is_empty())
            }
            Self::ContextLength { field, .. } => Some(field),
            Self::NoModel { .. } => Some("model"),
            _ => None,
        }
    }

    /// A word for programs, as OpenAI's API has it.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Json { .. } => Some("invalid_json"),
            Self::Type { .. } => Some("invalid_type"),
            Self::Value { .. } | Self::Refused { .. } => Some("invalid_value"),
            Self::ContextLength { .. } => Some("context_length_exceeded"),
            Self::NoModel { .. } => Some("model_not_found"),
            Self::NoRoute { .. } => Some("unknown_url"),
            Self::Method { .. } => Some("method_not_supported"),
            Self::TooLarge { .. } => Some("request_too_large"),
            Self::BodyTimeout { .. } => Some("request_timeout"),
            Self::NoKey | Self::WrongKey => Some("invalid_api_key"),
            Self::Quota { .. } => Some("rate_limit_exceeded"),
            Self::Busy { .. } => Some("server_busy"),
            Self::Draining | Self::Dead { .. } => Some("server_unavailable"),
            Self::Body { .. } | Self::Internal { .. } => None,
        }
    }

    /// When it makes sense to come back.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quota { retry_after, .. } => Some(*retry_after),
            Self::Busy { .. } => Some(Duration::from_secs(1)),
            Self::Draining => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}
