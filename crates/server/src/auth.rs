//! Keys: kept as digests, compared in constant time, and what a key gives its requests.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::audit::Audit;
use crate::error::{ApiError, ApiResult, ServerError};
use crate::options::ServerOptions;
use crate::state::App;

/// A key, by its digest.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    digest: [u8; 32],
}

/// On whose behalf a request runs.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None` where the server asks for no key.
    pub(crate) key: Option<Arc<Key>>,
}

/// All keys that open the server.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: Vec<Arc<Key>>,
}

impl Keyring {
    pub(crate) fn new(options: &ServerOptions) -> Result<Self, ServerError> {
        let named = options.api_keys.iter().enumerate();
        let keys = named.map(|(index, key)| {
            Arc::new(Key { name: format!("key-{}", index + 1), digest: Sha256::digest(key).into() })
        });
        Ok(Self { keys: keys.collect() })
    }

    /// The caller that the headers name.
    fn authenticate(&self, headers: &HeaderMap) -> ApiResult<Caller> {
        if self.keys.is_empty() {
            return Ok(Caller { key: None });
        }
        let Some(presented) = presented(headers) else { return Err(ApiError::NoKey) };
        let digest: [u8; 32] = Sha256::digest(presented).into();
        // Every key is looked at whole, so that the time says nothing about which one came close.
        let mut found = None;
        for key in &self.keys {
            let same: Choice = key.digest.ct_eq(&digest);
            if bool::from(same) {
                found = Some(Arc::clone(key));
            }
        }
        found.map(|key| Caller { key: Some(key) }).ok_or(ApiError::WrongKey)
    }
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

impl Caller {
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
    let caller = app.keys.authenticate(request.headers())?;
    if let (Some(key), Some(audit)) = (&caller.key, request.extensions().get::<Arc<Audit>>()) {
        audit.set_key(&key.name);
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}
