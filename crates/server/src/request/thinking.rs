//! Whether the model reasons before it answers, and how hard: what several fields, the dialect and the model's name
//! have to say about it.

use serde::Deserialize;
use serde_json::Value;

use crate::dialect::Dialect;
use crate::error::{ApiError, ApiResult};
use crate::state::App;

/// The field `thinking`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct ThinkingField {
    #[serde(rename = "type")]
    kind: ThinkingKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ThinkingKind {
    Enabled,
    Disabled,
    Adaptive,
}

impl ThinkingField {
    pub(crate) fn is_on(self) -> bool {
        self.kind != ThinkingKind::Disabled
    }
}

/// What the prompt's format is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mode {
    /// `None` leaves it to the format.
    pub(crate) thinking: Option<bool>,
    /// As the client names it; what it means to a model is the business of the prompt's format.
    pub(crate) effort: Option<String>,
    /// Whether the table counts the effort as the highest, which may write longer.
    pub(crate) is_max: bool,
}

/// The mode of a request. `wish` is what the client says outright, which comes before everything else; then an effort
/// speaks, then the name under which the model was asked for, then the dialect.
pub(crate) fn mode(
    wish: Option<bool>,
    effort: Option<&Value>,
    alias: Option<bool>,
    app: &App,
) -> ApiResult<Mode> {
    let effort = effort.filter(|effort| !effort.is_null()).map(|effort| resolve(effort, app)).transpose()?;
    let by_effort = effort.as_ref().map(Option::is_some);
    let by_dialect = match app.options.dialect {
        Dialect::OpenAi => None,
        Dialect::DeepSeek => Some(true),
    };
    let thinking = wish.or(by_effort).or(alias).or(by_dialect);
    let effort = effort.flatten().filter(|_| thinking != Some(false));
    let is_max = effort.as_ref().is_some_and(|(_, tier)| tier == "max");
    Ok(Mode { thinking, effort: effort.map(|(name, _)| name), is_max })
}

/// The effort's name and what the table makes of it; `None` for one that switches reasoning off.
fn resolve(effort: &Value, app: &App) -> ApiResult<Option<(String, String)>> {
    let known = || format!("one of {}", app.efforts.names().join(", "));
    let name = match effort {
        Value::String(name) => name,
        other => return Err(ApiError::value("reasoning_effort", known(), other)),
    };
    match app.efforts.resolve(name) {
        Some(tier) => Ok(tier.map(|tier| (name.clone(), tier.to_owned()))),
        None => Err(ApiError::value("reasoning_effort", known(), format!("{name:?}"))),
    }
}
