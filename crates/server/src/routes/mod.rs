//! The routes: one file each, thin over requests and answers.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod heading;
pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod responses;
pub(crate) mod tokenize;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;

use crate::audit::Audit;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::read_body;
use crate::state::App;

/// What every handler of a request with a body gets.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    pub(crate) audit: Arc<Audit>,
    pub(crate) body: Vec<u8>,
}

impl axum::extract::FromRequest<Arc<App>> for Call {
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let State(app) =
            State::<Arc<App>>::from_request_parts(&mut parts, app).await.map_err(ApiError::internal)?;
        let caller = extension::<Caller>(&mut parts, &app).await?;
        let audit = extension::<Arc<Audit>>(&mut parts, &app).await?;
        let limits = &app.options.limits;
        let body = read_body(body, limits.max_body_bytes, limits.body_timeout).await?;
        Ok(Self { app, caller, audit, body })
    }
}

/// What a middleware left for the handlers.
async fn extension<T: Clone + Send + Sync + 'static>(
    parts: &mut Parts,
    app: &Arc<App>,
) -> Result<T, ApiError> {
    let found = Extension::<T>::from_request_parts(parts, app).await;
    found.map(|Extension(value)| value).map_err(ApiError::internal)
}
