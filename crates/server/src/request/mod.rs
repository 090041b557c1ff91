//! From the body of a front end to [`GenerateRequest`], the one validated request that all of them share.

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod completions;
pub(crate) mod fields;
pub(crate) mod format;
mod generate;
pub(crate) mod messages;
pub(crate) mod responses;
mod sampling;
mod strict;
mod thinking;
pub(crate) mod tools;

pub(crate) use format::AnswerFormat;
pub(crate) use generate::{GenerateRequest, OutputForm, PromptSource};
pub(crate) use sampling::SamplingFields;
pub(crate) use thinking::Mode;
pub(crate) use tools::ToolChoice;
