//! `/chat/completions`: a conversation goes in, the model's turn comes out.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use text::OutputDelta;

use super::Call;
use crate::answer::{Answer, AnswerEvent, Finish, Finished, TokenLogprob, Usage, chat_logprobs};
use crate::error::{ApiError, ApiResult};
use crate::error_body::ErrorForm;
use crate::json::json_response;
use crate::request::chat::ChatCall;
use crate::request::common::StreamOptions;
use crate::request_id::fresh_id;
use crate::sse::{self, Frames, Renderer};
use crate::state::unix_time;

/// Handles the route.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let ChatCall { envelope, generate, legacy_functions } = ChatCall::from_body(&body, &app)?;
    drop(body);
    let form = Form {
        id: fresh_id("chatcmpl-"),
        created: unix_time(),
        model: envelope.model,
        fingerprint: app.fingerprint.clone(),
        error_form: ErrorForm::of("/chat/completions", app.options.dialect),
        legacy_functions,
        logprobs: generate.sampling.logprobs.is_some(),
        thinks: generate.thinks(),
    };
    let streamed = envelope.stream.is_some();
    let answer = Answer::start(&app, &caller, audit.clone(), generate, streamed).await?;
    match envelope.stream {
        Some(options) => {
            let renderer =
                ChatStream { form, options, choices: vec![Begun::default(); answer.num_choices()] };
            Ok(sse::respond(answer, renderer, audit, app.options.limits.keep_alive))
        }
        None => {
            let (choices, usage) = answer.collect().await?;
            Ok(json_response(StatusCode::OK, &form.whole(&choices, usage)))
        }
    }
}

/// What all parts of one answer have in common.
struct Form {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    error_form: ErrorForm,
    legacy_functions: bool,
    logprobs: bool,
    /// Clients that asked for reasoning read its field in every part, whether the model reasoned or not.
    thinks: bool,
}

impl Form {
    fn envelope(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn whole(&self, choices: &[Finished], usage: Usage) -> Value {
        let choices = choices.iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "message": self.message(choice),
                "logprobs": chat_logprobs(self.logprobs, &choice.logprobs),
                "finish_reason": self.finish_reason(&choice.finish),
            })
        });
        let mut body = self.envelope("chat.completion", choices.collect());
        body["usage"] = usage.to_json();
        body
    }

    fn message(&self, choice: &Finished) -> Value {
        let output = &choice.output;
        let has_calls = !output.tool_calls.is_empty();
        let content = Some(&output.content).filter(|content| !content.is_empty() || !has_calls);
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), json!(content));
        message.insert("refusal".into(), Value::Null);
        let reasoning = Some(&output.reasoning).filter(|reasoning| !reasoning.is_empty());
        if reasoning.is_some() || self.thinks {
            message.insert("reasoning_content".into(), json!(reasoning));
        }
        let call = |call: &text::FunctionCall| json!({"name": call.name, "arguments": call.arguments.text()});
        if has_calls && self.legacy_functions {
            message.insert("function_call".into(), call(&output.tool_calls[0]));
        } else if has_calls {
            let calls = output.tool_calls.iter().enumerate().map(|(index, function)| {
                json!({"index": index, "id": fresh_id("call_"), "type": "function", "function": call(function)})
            });
            message.insert("tool_calls".into(), calls.collect());
        }
        message.into()
    }

    fn finish_reason(&self, finish: &Finish) -> &'static str {
        match finish {
            Finish::ToolCalls if self.legacy_functions => "function_call",
            finish => finish.as_str(),
        }
    }
}

/// What a choice has said so far.
#[derive(Debug, Clone, Copy, Default)]
struct Begun {
    /// Who speaks.
    role: bool,
    /// That it reasons; then every delta has both fields, because clients add whichever is set.
    reasons: bool,
}

/// The stream of a chat answer.
struct ChatStream {
    form: Form,
    options: StreamOptions,
    choices: Vec<Begun>,
}

impl ChatStream {
    fn chunk(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let mut chunk = self.form.envelope("chat.completion.chunk", choices);
        if self.options.continuous_usage {
            chunk["usage"] = usage.to_json();
        } else if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn choice(
        &self,
        index: usize,
        delta: &Value,
        logprobs: &[TokenLogprob],
        finish: Option<&Finish>,
    ) -> Value {
        json!({
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(self.form.logprobs && !logprobs.is_empty(), logprobs),
            "finish_reason": finish.map(|finish| self.form.finish_reason(finish)),
        })
    }

    /// The first delta says who speaks.
    fn begin(&mut self, index: usize, reasons: bool, usage: Usage, frames: &mut Frames) {
        let reasons = reasons || self.form.thinks;
        if self.choices[index].role {
            return;
        }
        self.choices[index] = Begun { role: true, reasons };
        let delta = match reasons {
            true => json!({"role": "assistant", "content": "", "reasoning_content": ""}),
            false => json!({"role": "assistant", "content": "", "refusal": null}),
        };
        let choice = self.choice(index, &delta, &[], None);
        frames.data(&self.chunk(vec![choice], usage));
    }

    fn delta(&self, index: usize, delta: OutputDelta) -> Value {
        let mut value = self.piece(delta);
        if self.choices[index].reasons {
            for field in ["content", "reasoning_content"] {
                if value.get(field).is_none() {
                    value[field] = Value::Null;
                }
            }
        }
        value
    }

    fn piece(&self, delta: OutputDelta) -> Value {
        match delta {
            OutputDelta::Reasoning(text) => json!({"reasoning_content": text}),
            OutputDelta::ToolCall { name, .. } if self.form.legacy_functions => {
                json!({"function_call": {"name": name, "arguments": ""}})
            }
            OutputDelta::ToolCall { index, name } => json!({"tool_calls": [{
                "index": index,
                "id": fresh_id("call_"),
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }]}),
            OutputDelta::Arguments { text, .. } if self.form.legacy_functions => {
                json!({"function_call": {"arguments": text}})
            }
            OutputDelta::Arguments { index, text } => {
                json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            }
            OutputDelta::Content(text) => json!({"content": text}),
            _ => json!({}),
        }
    }
}

impl Renderer for ChatStream {
    fn event(&mut self, event: AnswerEvent, answer: &Answer, frames: &mut Frames) {
        let usage = answer.usage();
        match event {
            AnswerEvent::Delta { index, delta, logprobs } => {
                self.begin(index, matches!(delta, OutputDelta::Reasoning(_)), usage, frames);
                let choice = self.choice(index, &self.delta(index, delta), &logprobs, None);
                frames.data(&self.chunk(vec![choice], usage));
            }
            AnswerEvent::Finish { index, finish, logprobs } => {
                self.begin(index, false, usage, frames);
                // Loops that add up texts take the last delta like any other.
                let delta = self.delta(index, OutputDelta::Content(String::new()));
                let choice = self.choice(index, &delta, &logprobs, Some(&finish));
                frames.data(&self.chunk(vec![choice], usage));
            }
        }
    }

    fn end(&mut self, answer: &Answer, frames: &mut Frames) {
        if self.options.include_usage {
            let mut chunk = self.chunk(Vec::new(), answer.usage());
            chunk["usage"] = answer.usage().to_json();
            frames.data(&chunk);
        }
        frames.done();
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&self.form.error_form.body(error));
        frames.done();
    }
}
