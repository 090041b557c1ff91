//! `/models`: what is served.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::error::ApiResult;
use crate::json::json_response;
use crate::state::App;

/// The list: the model under its own name and those that the operator gave it. Aliases are answered, not listed.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let names = std::iter::once(&app.model.name).chain(&app.options.served_names);
    let models: Vec<Value> = names.map(|name| model(&app, name)).collect();
    json_response(StatusCode::OK, &json!({"object": "list", "data": models}))
}

/// One model by name, which may hold slashes.
pub(crate) async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> ApiResult<Response> {
    app.resolve_model(&name)?;
    Ok(json_response(StatusCode::OK, &model(&app, &name)))
}

fn model(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.started,
        "owned_by": "cachalot",
        "root": app.model.name,
        "max_model_len": app.model.service.engine().context_len(),
    })
}
