//! `/completions`: text goes in, its continuation comes out, or what belongs between it and a suffix.

use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use text::{OutputDelta, SpecialTokens};

use super::Call;
use super::heading::{Heading, NO_CHOICES, Part};
use crate::answer::{Answer, AnswerEvent, Finish, Finished, TokenLogprob, Usage, completion_logprobs};
use crate::error::{ApiError, ApiResult};
use crate::error_body::ErrorForm;
use crate::request::common::StreamOptions;
use crate::request::completions::CompletionCall;
use crate::request::{GenerateRequest, PromptSource};
use crate::sse::{self, Frames, Renderer};
use crate::state::App;
use crate::whole;

/// Handles the route.
pub(crate) async fn handle(call: Call) -> ApiResult<Response> {
    let Call { app, caller, audit, body } = call;
    let CompletionCall { envelope, generate, echo } = CompletionCall::from_body(&body, &app)?;
    drop(body);
    let form = Form {
        heading: Heading::new("cmpl-", envelope.model, &app),
        error_form: ErrorForm::of("/completions", app.options.dialect),
        logprobs: generate.sampling.logprobs.is_some(),
        echoes: if echo { echoes(&generate, &app) } else { Vec::new() },
    };
    let streamed = envelope.stream.is_some();
    let answer = Answer::start(&app, &caller, audit.clone(), generate, streamed).await?;
    match envelope.stream {
        Some(options) => {
            let choices = vec![Progress::default(); answer.num_choices()];
            let renderer = CompletionStream { form, options, choices };
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

/// The prompt of each choice as text.
fn echoes(request: &GenerateRequest, app: &App) -> Vec<String> {
    let text = |prompt: &PromptSource| match prompt {
        PromptSource::Text(text) => text.clone(),
        PromptSource::Fim { prefix, .. } => prefix.clone(),
        PromptSource::Tokens(ids) => app.model.tokenizer.decode(ids, SpecialTokens::Show),
        PromptSource::Chat(_) => String::new(),
    };
    let copies = |prompt| std::iter::repeat_n(text(prompt), request.n);
    request.prompts.iter().flat_map(copies).collect()
}

/// What all parts of one answer have in common.
struct Form {
    heading: Heading,
    error_form: ErrorForm,
    logprobs: bool,
    /// What comes before each choice; empty where nothing does.
    echoes: Vec<String>,
}

impl Form {
    fn part<C: Serialize>(&self, choices: C, usage: Option<Option<Usage>>) -> Part<'_, C> {
        self.heading.part("text_completion", choices, usage)
    }

    fn choice(
        &self,
        index: usize,
        text: &str,
        logprobs: &[TokenLogprob],
        offset: &mut usize,
        finish: Option<&Finish>,
    ) -> Value {
        json!({
            "index": index,
            "text": text,
            "logprobs": completion_logprobs(self.logprobs, logprobs, offset),
            "finish_reason": finish.map(Finish::as_str),
        })
    }

    fn echo(&self, index: usize) -> &str {
        self.echoes.get(index).map_or("", String::as_str)
    }

    fn whole(&self, choices: &[Finished], usage: Usage) -> ApiResult<Value> {
        let choices = choices.iter().enumerate().map(|(index, choice)| {
            let text = format!("{}{}", self.echo(index), choice.output.content);
            self.choice(index, &text, &choice.logprobs, &mut 0, Some(&choice.finish))
        });
        let choices: Vec<Value> = choices.collect();
        serde_json::to_value(self.part(choices, Some(Some(usage)))).map_err(ApiError::internal)
    }
}

/// How far the stream of one choice has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    begun: bool,
    /// Characters of its tokens so far.
    offset: usize,
}

/// The stream of a completion.
struct CompletionStream {
    form: Form,
    options: StreamOptions,
    choices: Vec<Progress>,
}

impl CompletionStream {
    fn chunk(&mut self, index: usize, piece: Piece<'_>, usage: Usage, frames: &mut Frames) {
        let Progress { begun, offset } = &mut self.choices[index];
        let mut text = String::new();
        if !std::mem::replace(begun, true) {
            text.push_str(self.form.echo(index));
        }
        text.push_str(piece.text);
        let choice = self.form.choice(index, &text, piece.logprobs, offset, piece.finish);
        frames.data(&self.form.part([choice], self.options.usage_so_far(usage)));
    }
}

/// What a chunk tells.
struct Piece<'a> {
    text: &'a str,
    logprobs: &'a [TokenLogprob],
    finish: Option<&'a Finish>,
}

impl Renderer for CompletionStream {
    fn event(&mut self, event: AnswerEvent, answer: &Answer, frames: &mut Frames) {
        let usage = answer.usage();
        match event {
            AnswerEvent::Delta { index, delta: OutputDelta::Content(text), logprobs } => {
                let piece = Piece { text: &text, logprobs: &logprobs, finish: None };
                self.chunk(index, piece, usage, frames);
            }
            AnswerEvent::Delta { .. } => {}
            AnswerEvent::Finish { index, finish, logprobs } => {
                let piece = Piece { text: "", logprobs: &logprobs, finish: Some(&finish) };
                self.chunk(index, piece, usage, frames);
            }
        }
    }

    fn end(&mut self, answer: &Answer, frames: &mut Frames) {
        if self.options.include_usage {
            frames.data(&self.form.part(NO_CHOICES, Some(Some(answer.usage()))));
        }
        frames.done();
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&self.form.error_form.body(error));
        frames.done();
    }
}
