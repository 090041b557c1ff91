//! [`RequestId`]: what a request is called in the logs and in its answer's header `x-request-id`.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::limits::MAX_REQUEST_ID;

const HEADER: &str = "x-request-id";

/// The client's name for a request, or one of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A client's id is taken over if a log line can hold it.
    fn of(request: &Request) -> Self {
        let plain =
            |id: &&str| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        let header = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        Self(header.filter(plain).map_or_else(|| fresh_id("req-"), str::to_owned))
    }
}

/// A new id with a prefix.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

/// Middleware: names the request, and says the name in the answer.
pub(crate) async fn name_request(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}
