//! `/metrics`, for Prometheus: counts and times of all requests together, nothing of any one, so no key is asked for.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ApiResult};
use crate::state::App;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Handles the route.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> ApiResult<Response> {
    let text = app.metrics.text().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
