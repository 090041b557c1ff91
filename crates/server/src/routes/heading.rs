//! [`Heading`]: what every part of an answer has around its choices, on the routes that OpenAI's API has shaped.

use serde::Serialize;
use serde_json::Value;

use crate::answer::Usage;
use crate::request_id::fresh_id;
use crate::state::{App, unix_time};

/// The fields that all parts of one answer have in common.
pub(crate) struct Heading {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

/// The choices of a part that tells the usage.
pub(crate) const NO_CHOICES: [(); 0] = [];

/// One part of an answer. A stream has one per token, so it is written as it is and never built as a JSON value.
#[derive(Serialize)]
pub(crate) struct Part<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

impl Heading {
    /// Of an answer that begins now; its id begins with `prefix`.
    pub(crate) fn new(prefix: &str, model: String, app: &App) -> Self {
        Self { id: fresh_id(prefix), created: unix_time(), model, fingerprint: app.fingerprint.clone() }
    }

    /// A part of the kind `object`. Without `usage` it has no such field; a part that has none yet tells `null`.
    pub(crate) fn part<C: Serialize>(
        &self,
        object: &'static str,
        choices: C,
        usage: Option<Option<Usage>>,
    ) -> Part<'_, C> {
        Part {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: usage.map(|usage| usage.map_or(Value::Null, Usage::to_json)),
        }
    }
}
