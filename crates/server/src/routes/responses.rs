//! OpenAI's `/v1/responses`.

mod stream;

use axum::response::Response;
use serde_json::{Value, json};
use text::ParsedOutput;

use super::Call;
use crate::answer::{Answer, Block, Finish, Usage};
use crate::error::ApiResult;
use crate::error_body::ErrorForm;
use crate::request::responses::ResponsesCall;
use crate::request_id::fresh_id;
use crate::sse;
use crate::state::unix_time;
use crate::whole;

use stream::ResponseStream;

/// Handles the route.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let ResponsesCall { streamed, generate, echo } = ResponsesCall::from_body(&body, &app)?;
    drop(body);
    let form = Form { id: fresh_id("resp_"), created_at: unix_time(), echo };
    let answer = Answer::start(&app, &caller, audit.clone(), generate, streamed).await?;
    if streamed {
        let renderer = ResponseStream::new(form);
        return Ok(sse::respond(answer, renderer, audit, app.options.limits.keep_alive));
    }
    let body = async move {
        let (choice, usage) = answer.collect_one().await?;
        Ok(form.response(Status::of(&choice.finish), items(&choice.output), Some(usage)))
    };
    let error_form = ErrorForm::of("/responses", app.options.dialect);
    whole::respond(body, error_form, audit, app.options.limits.keep_alive).await
}

/// How far a response has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    /// Cut off by `max_output_tokens` or the end of the context.
    Incomplete,
    Failed,
}

impl Status {
    fn of(finish: &Finish) -> Self {
        match finish {
            Finish::Length => Self::Incomplete,
            Finish::Stop | Finish::StopString(_) | Finish::ToolCalls => Self::Completed,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// What all forms of one response have in common.
struct Form {
    id: String,
    created_at: u64,
    echo: Value,
}

impl Form {
    fn response(&self, status: Status, output: Vec<Value>, usage: Option<Usage>) -> Value {
        let incomplete = (status == Status::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status.as_str(),
            "error": null,
            "incomplete_details": incomplete,
            "output": output,
            "previous_response_id": null,
            "store": false,
            "truncation": "disabled",
            "usage": usage.map(usage_json),
            "user": null,
        });
        for (key, value) in self.echo.as_object().into_iter().flatten() {
            response[key] = value.clone();
        }
        response
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        // Writing to the cache costs nothing here.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}

/// A whole answer as items.
fn items(output: &ParsedOutput) -> Vec<Value> {
    let mut items = Vec::new();
    if !output.reasoning.is_empty() {
        items.push(Item::new(Block::Reasoning).json(&output.reasoning, Status::Completed));
    }
    if !output.content.is_empty() || output.tool_calls.is_empty() {
        items.push(Item::new(Block::Text).json(&output.content, Status::Completed));
    }
    for call in &output.tool_calls {
        let item = Item::new(Block::Call { name: call.name.clone() });
        items.push(item.json(&call.arguments.text(), Status::Completed));
    }
    items
}

/// One item of the output, by its kind and ids.
struct Item {
    block: Block,
    id: String,
    /// Of a call, for its result.
    call_id: String,
}

impl Item {
    fn new(block: Block) -> Self {
        let prefix = match block {
            Block::Reasoning => "rs_",
            Block::Text => "msg_",
            Block::Call { .. } => "fc_",
        };
        Self { block, id: fresh_id(prefix), call_id: fresh_id("call_") }
    }

    /// The item with the text that it has so far.
    fn json(&self, text: &str, status: Status) -> Value {
        let begun = !(status == Status::InProgress && text.is_empty());
        let content: Vec<Value> = begun.then(|| self.part(text)).into_iter().collect();
        match &self.block {
            Block::Reasoning => json!({
                "id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status.as_str(),
            }),
            Block::Text => json!({
                "id": self.id, "type": "message", "role": "assistant", "status": status.as_str(),
                "content": content,
            }),
            Block::Call { name } => json!({
                "id": self.id, "type": "function_call", "call_id": self.call_id, "name": name,
                "arguments": text, "status": status.as_str(),
            }),
        }
    }

    /// The one part of an item's content.
    fn part(&self, text: &str) -> Value {
        match self.block {
            Block::Reasoning => json!({"type": "reasoning_text", "text": text}),
            _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        }
    }
}
