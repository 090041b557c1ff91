//! Who asks: the key in the headers, and what it gives its requests.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use crate::audit::Audit;
use crate::error::{ApiError, ApiResult};
use crate::keys::Key;
use crate::quota::Permit;
use crate::state::App;

/// On whose behalf a request runs.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None` where the server asks for no key.
    key: Option<Arc<Key>>,
}

impl Caller {
    /// Lets a request in, within the quota of the key.
    pub(crate) fn admit(&self) -> ApiResult<Option<Permit>> {
        self.key.as_ref().map(|key| key.admit()).transpose()
    }

    /// Whom the engine charges for the time.
    pub(crate) fn owner(&self) -> u64 {
        self.key.as_ref().map_or(0, |key| number(&[&key.digest]))
    }

    /// The namespace of the prefix cache: one per key, and per user inside it.
    pub(crate) fn salt(&self, user_id: Option<&str>) -> u64 {
        match (&self.key, user_id) {
            (None, None) => 0,
            (key, user) => {
                let digest = key.as_ref().map_or(&[][..], |key| &key.digest);
                number(&[digest, b"/", user.unwrap_or_default().as_bytes()])
            }
        }
    }
}

/// A number that differs where the parts do.
fn number(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize()[..8]);
    u64::from_le_bytes(bytes)
}

/// Middleware: lets known callers pass, and says who they are.
pub(crate) async fn authenticate(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = match presented(request.headers()) {
        _ if app.keys.is_open() => None,
        None => return Err(ApiError::NoKey),
        Some(presented) => Some(app.keys.find(presented).ok_or(ApiError::WrongKey)?),
    };
    if let (Some(key), Some(audit)) = (&key, request.extensions().get::<Arc<Audit>>()) {
        audit.set_key(&key.name);
    }
    request.extensions_mut().insert(Caller { key });
    Ok(next.run(request).await)
}

/// The key in OpenAI's header, or in Anthropic's.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
    key.filter(|key| !key.is_empty())
}
