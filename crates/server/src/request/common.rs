//! The fields around a request: which model, streamed or not, on whose behalf. They share the body with the fields of
//! each front end, and are read from it on their own.

use serde::Deserialize;

use super::fields;
use crate::answer::Usage;
use crate::error::{ApiError, ApiResult};

#[derive(Debug, Deserialize)]
pub(crate) struct CommonFields {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptionsFields>,
    user_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptionsFields {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// The same, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Envelope {
    /// The model's name as the client writes it, which the answer repeats.
    pub(crate) model: String,
    /// `None` for an answer in one piece.
    pub(crate) stream: Option<StreamOptions>,
    pub(crate) user_id: Option<String>,
}

/// What a stream tells beside the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// The usage, in a chunk of its own at the end.
    pub(crate) include_usage: bool,
    /// The usage so far, in every chunk.
    pub(crate) continuous_usage: bool,
}

impl StreamOptions {
    /// The field `usage` of a chunk: absent, `null`, or what was used up to here.
    pub(crate) fn usage_so_far(self, usage: Usage) -> Option<Option<Usage>> {
        (self.continuous_usage || self.include_usage).then(|| self.continuous_usage.then_some(usage))
    }
}

impl CommonFields {
    pub(crate) fn validate(self) -> ApiResult<Envelope> {
        let Some(model) = self.model else { return Err(ApiError::missing("model")) };
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::value("stream_options", "absent unless `stream` is true", "set"));
        }
        let options = self.stream_options.unwrap_or_default();
        let stream = stream.then_some(StreamOptions {
            include_usage: options.include_usage.unwrap_or(false),
            continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        });
        Ok(Envelope { model, stream, user_id: fields::user_id(self.user_id)? })
    }
}
