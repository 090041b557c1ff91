//! Continuing the last assistant message where it has reasoning: the turn is opened as for a new answer, and what the message holds follows.
//!
//! Reasoning alone is continued as reasoning; with content after it, the block is closed and the content is continued. A message with
//! nothing but content is the formats' own affair.

use crate::chat::{ChatRequest, Message, Role};
use crate::encoding::markers::END_THINK;
use crate::error::{Error, Result};
use crate::prompt::Prompt;

/// Renders a request whose last message continues with reasoning; `None` when the message has none or the format leaves it out.
///
/// # Errors
/// [`Error::CannotContinue`] for reasoning alone where the format or the request has no reasoning; else as `render`.
pub(crate) fn with_reasoning(
    request: &ChatRequest,
    render: impl FnOnce(&ChatRequest) -> Result<Prompt>,
) -> Result<Option<Prompt>> {
    let Some((message, earlier)) = request.messages.split_last() else { return Ok(None) };
    let Message { role: Role::Assistant, content, reasoning_content: Some(reasoning), tool_calls, .. } =
        message
    else {
        return Ok(None);
    };
    if !request.continue_final_message || reasoning.is_empty() || !tool_calls.is_empty() {
        return Ok(None);
    }
    let content = content.as_deref().filter(|content| !content.is_empty());
    let opened = match request.thinking {
        Some(false) => None,
        _ => Some(render(&ChatRequest {
            messages: earlier.to_vec(),
            thinking: Some(true),
            add_generation_prompt: true,
            continue_final_message: false,
            ..request.clone()
        })?),
    };
    match (opened.filter(Prompt::opens_reasoning), content) {
        (Some(mut prompt), None) => {
            prompt.text(reasoning);
            Ok(Some(prompt))
        }
        (Some(mut prompt), Some(content)) => {
            prompt.text(reasoning).control(END_THINK).text(content);
            Ok(Some(prompt))
        }
        (None, Some(_)) => Ok(None),
        (None, None) => Err(Error::CannotContinue {
            found: "nothing but reasoning, and the model is not to reason".to_owned(),
        }),
    }
}
