//! `/health` and `/ready`, for whoever watches the server: no key, no body to speak of.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::json::json_response;
use crate::state::App;

/// A step that takes longer than this hangs. A rank that hangs ends its step after the engine's own, longer deadline.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// 200 while the engine's thread lives and steps, 503 once it does not.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let health = app.model.service.health();
    let hangs = health.since_last_step > HANGS_AFTER;
    let status = match (health.alive, hangs) {
        (true, false) => "ok",
        (true, true) => "hanging",
        (false, _) => "dead",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status,
        "error": health.error,
        "seconds_since_last_step": health.since_last_step.as_secs_f64(),
        "running": health.running,
        "waiting": health.waiting,
    });
    json_response(code, &body)
}

/// 200 while new requests are taken, 503 while the server stops or the engine is dead.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let health = app.model.service.health();
    let ready = health.alive && !health.draining;
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(code, &json!({"ready": ready}))
}
