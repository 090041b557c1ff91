//! JSON bodies: read within limits, refused by the name of the field, written.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::error::Category;

use crate::error::{ApiError, ApiResult};

/// Reads a body of at most `limit` bytes that is complete within `patience`.
pub(crate) async fn read_body(body: Body, limit: usize, patience: Duration) -> ApiResult<Vec<u8>> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge { limit });
    }
    let read = async {
        let mut bytes = Vec::new();
        let mut frames = body.into_data_stream();
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(|error| ApiError::Body { reason: error.to_string() })?;
            if bytes.len() + frame.len() > limit {
                return Err(ApiError::TooLarge { limit });
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes)
    };
    tokio::time::timeout(patience, read).await.unwrap_or(Err(ApiError::BodyTimeout { limit: patience }))
}

/// Parses a body, which has to be an object. Nesting is bounded by `serde_json`, at 128 levels; fields that
/// nobody asks for are skipped without recursion.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        // A list would be taken for the fields in their order.
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => ApiError::Type { field: String::new(), reason: "expected a JSON object".to_owned() },
            Err(error) => ApiError::Json { reason: error.to_string() },
        });
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // A number in the place of an enum's name is a wrong type too, which `serde_json` calls a wrong syntax.
        match error.classify() == Category::Data || serde_json::from_slice::<Value>(bytes).is_ok() {
            // The path of a body that is wrong as a whole is a dot.
            true => ApiError::Type {
                field: if path == "." { String::new() } else { path },
                reason: error.to_string(),
            },
            false => ApiError::Json { reason: error.to_string() },
        }
    })?;
    json.end().map_err(|error| ApiError::Json { reason: error.to_string() })?;
    Ok(value)
}

/// A response with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [kind], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Probe {
        #[expect(dead_code)]
        messages: Vec<Message>,
        #[expect(dead_code)]
        anything: Option<Value>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Message {
        #[expect(dead_code)]
        role: String,
        #[expect(dead_code)]
        kind: Option<Kind>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Text,
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let error = parse::<Probe>(br#"{"messages": [{"role": "user"}, {"role": 5}]}"#).unwrap_err();
        assert_eq!(error.param(), Some("messages[1].role"));
        assert_eq!(error.code(), Some("invalid_type"));
        for kind in ["5", "[]", "true", "\"image\""] {
            let body = format!(r#"{{"messages": [{{"role": "user", "kind": {kind}}}]}}"#);
            let error = parse::<Probe>(body.as_bytes()).unwrap_err();
            assert_eq!(
                (error.param(), error.code()),
                (Some("messages[0].kind"), Some("invalid_type")),
                "{kind}"
            );
        }
        let error = parse::<Probe>(b"[]").unwrap_err();
        assert_eq!((error.param(), error.code()), (None, Some("invalid_type")));
    }

    #[test]
    fn what_is_no_json_is_told_apart() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let nested = format!(r#"{{"messages": [], "anything": {deep}}}"#);
        for body in ["", "{", "{\"messages\": []} x", "nonsense", &nested] {
            let error = parse::<Probe>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code(), Some("invalid_json"), "{body}: {error}");
        }
    }
}
