//! An answer that is sent whole, with blank lines before it while the client waits: what is silent for a minute, a proxy
//! takes for dead.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::time::timeout;

use crate::audit::Audit;
use crate::error::ApiResult;
use crate::error_body::ErrorForm;
use crate::json::json_response;

/// A body in the making. Dropping it, which is what happens when the client goes away, ends the generation.
type Pending = Pin<Box<dyn Future<Output = ApiResult<Value>> + Send>>;

/// The response whose body `answer` resolves to.
///
/// What comes within `keep_alive` has a status of its own. After that 200 is sent and a blank line every `keep_alive`,
/// as DeepSeek's API does; JSON may begin with white space. An error then can only be told in the body, in the same
/// form as any other.
pub(crate) async fn respond(
    answer: impl Future<Output = ApiResult<Value>> + Send + 'static,
    error_form: ErrorForm,
    audit: Arc<Audit>,
    keep_alive: Duration,
) -> ApiResult<Response> {
    let mut answer: Pending = Box::pin(answer);
    if let Ok(body) = timeout(keep_alive, &mut answer).await {
        return Ok(json_response(StatusCode::OK, &body?));
    }
    // Until somebody says otherwise, the client went away.
    audit.set_outcome("cancelled");
    let late = Late { answer: Some(answer), error_form, audit, keep_alive };
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"\n"))]);
    let rest = stream::unfold(late, |mut late| async move { Some((Ok(late.next().await?), late)) });
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok((StatusCode::OK, [kind], body).into_response())
}

/// An answer whose status is already sent.
struct Late {
    /// `None` once it is sent.
    answer: Option<Pending>,
    error_form: ErrorForm,
    audit: Arc<Audit>,
    keep_alive: Duration,
}

impl Late {
    /// The next bytes of the body: a blank line, or all of the answer.
    async fn next(&mut self) -> Option<Bytes> {
        let answer = self.answer.as_mut()?;
        let Ok(body) = timeout(self.keep_alive, answer).await else { return Some(Bytes::from_static(b"\n")) };
        self.answer = None;
        self.audit.set_outcome(if body.is_ok() { "ok" } else { "failed" });
        let body = body.unwrap_or_else(|error| {
            tracing::warn!("an answer failed after blank lines: {error}");
            self.error_form.body(&error)
        });
        Some(Bytes::from(body.to_string()))
    }
}
