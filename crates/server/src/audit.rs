//! [`Audit`]: one line per request, written when its last byte is produced. Never the key, the prompt or the answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use crate::answer::Usage;
use crate::error::ApiError;
use crate::request_id::RequestId;
use crate::state::App;

/// What is known of a request so far. The line is written when the last owner lets go: for a stream, that is the
/// stream.
#[derive(Debug)]
pub(crate) struct Audit {
    request_id: RequestId,
    method: String,
    route: String,
    accepted: Instant,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    key: Option<String>,
    status: Option<StatusCode>,
    usage: Usage,
    queued: Duration,
    /// Why a request that was answered with 200 failed after all, or `cancelled`.
    outcome: Option<&'static str>,
}

impl Audit {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the key, never the key.
    pub(crate) fn set_key(&self, name: &str) {
        self.facts().key = Some(name.to_owned());
    }

    pub(crate) fn set_usage(&self, usage: Usage) {
        self.facts().usage = usage;
    }

    pub(crate) fn set_queued(&self, queued: Duration) {
        self.facts().queued = queued;
    }

    /// How a stream ended.
    pub(crate) fn set_outcome(&self, outcome: &'static str) {
        self.facts().outcome = Some(outcome);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let elapsed = self.accepted.elapsed();
        let Self { request_id, method, route, .. } = &*self;
        let facts = self.facts();
        let outcome = match (facts.outcome, facts.status) {
            (Some(outcome), _) => outcome,
            (None, Some(status)) if status.is_success() => "ok",
            (None, Some(_)) => "refused",
            (None, None) => "cancelled",
        };
        tracing::info!(
            target: "audit",
            request_id = request_id.as_str(),
            key = facts.key.as_deref().unwrap_or("-"),
            method = method.as_str(),
            route = route.as_str(),
            status = facts.status.map_or(0, |status| status.as_u16()),
            outcome,
            prompt_tokens = facts.usage.prompt_tokens,
            cached_tokens = facts.usage.cached_tokens,
            completion_tokens = facts.usage.completion_tokens,
            queued_ms = facts.queued.as_millis() as u64,
            elapsed_ms = elapsed.as_millis() as u64,
        );
    }
}

/// Middleware: one [`Audit`] per request, in its extensions; and the count of requests.
pub(crate) async fn audit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = request.extensions().get::<RequestId>().cloned().unwrap_or_default();
    // The route, not the path: what a client makes up does not belong in a log.
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let audit = Arc::new(Audit {
        request_id,
        method: method_name(&request),
        route,
        accepted: Instant::now(),
        facts: Mutex::default(),
    });
    request.extensions_mut().insert(Arc::clone(&audit));
    let response = next.run(request).await;
    audit.facts().status = Some(response.status());
    app.metrics.count_request(&audit.method, &audit.route, response.status());
    if let Some(error) = response.extensions().get::<Arc<ApiError>>() {
        let status = error.status();
        if status.is_server_error() {
            tracing::warn!(request_id = audit.request_id.as_str(), code = error.code(), "{error}");
        }
    }
    response
}

/// Methods that somebody made up would be labels without end.
fn method_name(request: &Request) -> String {
    match request.method().as_str() {
        method @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => method.to_owned(),
        _ => "other".to_owned(),
    }
}
