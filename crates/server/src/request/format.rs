//! The form that an answer is held to.

use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Checks the field `field`, whose `type` names the form.
pub(crate) fn check(field: &str, format: Option<&Value>) -> ApiResult<()> {
    match format {
        None | Some(Value::Null) => Ok(()),
        Some(format) if !format.is_object() => Err(ApiError::value(field, "an object", format)),
        Some(format) => match format["type"].as_str() {
            Some("text") => Ok(()),
            _ => Err(ApiError::value(format!("{field}.type"), "\"text\"", &format["type"])),
        },
    }
}
