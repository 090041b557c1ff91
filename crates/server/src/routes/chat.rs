//! `/chat/completions`: a conversation goes in, the model's turn comes out.

use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};
use text::OutputDelta;

use super::Call;
use super::heading::{Heading, NO_CHOICES, Part};
use crate::answer::{Answer, AnswerEvent, Finish, Finished, TokenLogprob, Usage, chat_logprobs};
use crate::error::{ApiError, ApiResult};
use crate::error_body::ErrorForm;
use crate::request::chat::ChatCall;
use crate::request::common::StreamOptions;
use crate::request_id::fresh_id;
use crate::sse::{self, Frames, Renderer};
use crate::whole;

/// Handles the route.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let ChatCall { envelope, generate, legacy_functions } = ChatCall::from_body(&body, &app)?;
    drop(body);
    let form = Form {
        heading: Heading::new("chatcmpl-", envelope.model, &app),
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
            let (error_form, keep_alive) = (form.error_form, app.options.limits.keep_alive);
            let body = async move {
                let (choices, usage) = answer.collect().await?;
                form.whole(&choices, usage)
            };
            whole::respond(body, error_form, audit, keep_alive).await
        }
    }
}

/// What all parts of one answer have in common.
struct Form {
    heading: Heading,
    error_form: ErrorForm,
    legacy_functions: bool,
    logprobs: bool,
    /// Clients that asked for reasoning read its field in every part, whether the model reasoned or not.
    thinks: bool,
}

impl Form {
    fn whole(&self, choices: &[Finished], usage: Usage) -> ApiResult<Value> {
        let choices = choices.iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "message": self.message(choice),
                "logprobs": chat_logprobs(self.logprobs, &choice.logprobs),
                "finish_reason": self.finish_reason(&choice.finish),
            })
        });
        let choices: Vec<Value> = choices.collect();
        let body = self.heading.part("chat.completion", choices, Some(Some(usage)));
        serde_json::to_value(body).map_err(ApiError::internal)
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

/// A choice in a chunk.
#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Value,
    logprobs: Value,
    finish_reason: Option<&'static str>,
}

/// The stream of a chat answer.
struct ChatStream {
    form: Form,
    options: StreamOptions,
    choices: Vec<Begun>,
}

impl ChatStream {
    fn chunk<C: Serialize>(&self, choices: C, usage: Option<Option<Usage>>) -> Part<'_, C> {
        self.form.heading.part("chat.completion.chunk", choices, usage)
    }

    /// A chunk about one choice.
    fn say(&self, choice: ChunkChoice, usage: Usage, frames: &mut Frames) {
        frames.data(&self.chunk([choice], self.options.usage_so_far(usage)));
    }

    fn choice(
        &self,
        index: usize,
        delta: Value,
        logprobs: &[TokenLogprob],
        finish: Option<&Finish>,
    ) -> ChunkChoice {
        ChunkChoice {
            index,
            delta,
            logprobs: chat_logprobs(self.form.logprobs && !logprobs.is_empty(), logprobs),
            finish_reason: finish.map(|finish| self.form.finish_reason(finish)),
        }
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
        self.say(self.choice(index, delta, &[], None), usage, frames);
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
                let choice = self.choice(index, self.delta(index, delta), &logprobs, None);
                self.say(choice, usage, frames);
            }
            AnswerEvent::Finish { index, finish, logprobs } => {
                self.begin(index, false, usage, frames);
                // Loops that add up texts take the last delta like any other.
                let delta = self.delta(index, OutputDelta::Content(String::new()));
                self.say(self.choice(index, delta, &logprobs, Some(&finish)), usage, frames);
            }
        }
    }

    fn end(&mut self, answer: &Answer, frames: &mut Frames) {
        if self.options.include_usage {
            frames.data(&self.chunk(NO_CHOICES, Some(Some(answer.usage()))));
        }
        frames.done();
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&self.form.error_form.body(error));
        frames.done();
    }
}
