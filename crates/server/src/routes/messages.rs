//! Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::Call;
use crate::answer::{Answer, AnswerEvent, Block, BlockEvent, Blocks, Finish, Finished, Usage, encode};
use crate::error::{ApiError, ApiResult};
use crate::error_body::ErrorForm;
use crate::json::json_response;
use crate::request::anthropic::MessagesCall;
use crate::request_id::fresh_id;
use crate::sse::{self, Frames, Renderer};
use crate::whole;

/// Handles `/v1/messages`.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let MessagesCall { model, streamed, generate } = MessagesCall::from_body(&body, &app, false)?;
    drop(body);
    let form = Form { id: fresh_id("msg_"), model };
    let answer = Answer::start(&app, &caller, audit.clone(), generate, streamed).await?;
    if streamed {
        let renderer =
            MessageStream { form, begun: false, blocks: Blocks::default(), index: 0, finish: None };
        return Ok(sse::respond(answer, renderer, audit, app.options.limits.keep_alive));
    }
    let body = async move {
        let (choice, usage) = answer.collect_one().await?;
        Ok(form.whole(&choice, usage))
    };
    whole::respond(body, ErrorForm::Anthropic, audit, app.options.limits.keep_alive).await
}

/// Handles `/v1/messages/count_tokens`.
pub(crate) async fn count_tokens(call: Call) -> ApiResult<Response> {
    let Call { app, body, .. } = call;
    let MessagesCall { generate, .. } = MessagesCall::from_body(&body, &app, true)?;
    let work = {
        let app = Arc::clone(&app);
        move || {
            generate
                .prompts
                .iter()
                .map(|prompt| Ok(encode(&app, prompt)?.ids.len()))
                .sum::<ApiResult<usize>>()
        }
    };
    let count = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??;
    Ok(json_response(StatusCode::OK, &json!({"input_tokens": count})))
}

/// What all parts of one message have in common.
struct Form {
    id: String,
    model: String,
}

impl Form {
    fn message(&self, content: Vec<Value>, finish: Option<&Finish>, usage: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": finish.map(stop_reason),
            "stop_sequence": finish.and_then(stop_sequence),
            "usage": usage_json(usage),
        })
    }

    fn whole(&self, choice: &Finished, usage: Usage) -> Value {
        let output = &choice.output;
        let mut content = Vec::new();
        if !output.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": output.reasoning, "signature": ""}));
        }
        if !output.content.is_empty() {
            content.push(json!({"type": "text", "text": output.content}));
        }
        for call in &output.tool_calls {
            // The parser lets no call pass whose arguments are no JSON.
            let input: Value = serde_json::from_str(&call.arguments.text()).unwrap_or_else(|_| json!({}));
            content.push(
                json!({"type": "tool_use", "id": fresh_id("toolu_"), "name": call.name, "input": input}),
            );
        }
        self.message(content, Some(&choice.finish), usage)
    }
}

fn stop_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::StopString(_) => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}

fn stop_sequence(finish: &Finish) -> Option<&str> {
    match finish {
        Finish::StopString(stop) => Some(stop),
        _ => None,
    }
}

/// Anthropic counts the tokens that the cache had beside the others, not among them.
fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    })
}

/// The stream of a message.
struct MessageStream {
    form: Form,
    begun: bool,
    blocks: Blocks,
    /// Of the block that is open, or of the next.
    index: usize,
    finish: Option<Finish>,
}

impl MessageStream {
    fn begin(&mut self, usage: Usage, frames: &mut Frames) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let usage = Usage { completion_tokens: 0, ..usage };
        let message = self.form.message(Vec::new(), None, usage);
        frames.named("message_start", &json!({"type": "message_start", "message": message}));
        frames.named("ping", &json!({"type": "ping"}));
    }

    fn block(&mut self, event: BlockEvent, kind: Option<&Block>, frames: &mut Frames) {
        let index = self.index;
        match event {
            BlockEvent::Open(block) => {
                let block = match block {
                    Block::Reasoning => json!({"type": "thinking", "thinking": "", "signature": ""}),
                    Block::Text => json!({"type": "text", "text": ""}),
                    Block::Call { name } => {
                        json!({"type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": {}})
                    }
                };
                let data = json!({"type": "content_block_start", "index": index, "content_block": block});
                frames.named("content_block_start", &data);
            }
            BlockEvent::Text(text) => {
                let delta = match kind {
                    Some(Block::Reasoning) => json!({"type": "thinking_delta", "thinking": text}),
                    Some(Block::Call { .. }) => json!({"type": "input_json_delta", "partial_json": text}),
                    Some(Block::Text) | None => json!({"type": "text_delta", "text": text}),
                };
                let data = json!({"type": "content_block_delta", "index": index, "delta": delta});
                frames.named("content_block_delta", &data);
            }
            BlockEvent::Close => {
                frames.named("content_block_stop", &json!({"type": "content_block_stop", "index": index}));
                self.index += 1;
            }
        }
    }
}

impl Renderer for MessageStream {
    fn event(&mut self, event: AnswerEvent, answer: &Answer, frames: &mut Frames) {
        self.begin(answer.usage(), frames);
        match event {
            AnswerEvent::Delta { delta, .. } => {
                for event in self.blocks.push(delta) {
                    let kind = self.blocks.open().cloned();
                    self.block(event, kind.as_ref(), frames);
                }
            }
            AnswerEvent::Finish { finish, .. } => {
                if let Some(event) = self.blocks.close() {
                    self.block(event, None, frames);
                }
                self.finish = Some(finish);
            }
        }
    }

    fn end(&mut self, answer: &Answer, frames: &mut Frames) {
        let finish = self.finish.as_ref();
        let delta = json!({
            "stop_reason": finish.map(stop_reason),
            "stop_sequence": finish.and_then(stop_sequence),
        });
        let usage = usage_json(answer.usage());
        frames.named("message_delta", &json!({"type": "message_delta", "delta": delta, "usage": usage}));
        frames.named("message_stop", &json!({"type": "message_stop"}));
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.named("error", &ErrorForm::Anthropic.body(error));
    }
}
