//! `/openapi.json`: what the server takes and answers, for generators and testers of clients.

use axum::http::StatusCode;
use axum::response::Response;

use crate::json::json_response;
use crate::openapi::document;

/// Handles the route.
pub(crate) async fn openapi() -> Response {
    json_response(StatusCode::OK, &document())
}
