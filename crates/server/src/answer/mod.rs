//! [`Answer`]: a request that runs, as a series of events that every front end renders in its own form.

mod blocks;
mod choice;
mod constraint;
mod encode;
mod logprobs;
mod usage;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::{EngineError, Job, Request, SubmitError, TokenEvent, TokenEvents};
use text::{OutputDelta, ParsedOutput, SpecialTokens};

use crate::audit::Audit;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::quota::Permit;
use crate::request::{GenerateRequest, OutputForm};
use crate::state::App;

pub(crate) use blocks::{Block, BlockEvent, Blocks};
use choice::Choice;
use constraint::Held;
use encode::Encoded;
pub(crate) use encode::{encode, encode_to_fit};
pub(crate) use logprobs::{TokenLogprob, chat_logprobs, completion_logprobs};
pub(crate) use usage::Usage;

/// Why the text of a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended its turn.
    Stop,
    /// This stop string came up.
    StopString(String),
    /// `max_tokens`, or the end of the context.
    Length,
    /// The model ended its turn and waits for the results of its calls.
    ToolCalls,
}

impl Finish {
    /// The name that OpenAI's API has for it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Stop | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Something that happened to a choice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AnswerEvent {
    /// A piece of it, with the log-probabilities of the tokens that came since the last piece.
    Delta { index: usize, delta: OutputDelta, logprobs: Vec<TokenLogprob> },
    /// Its end, with the log-probabilities of tokens that gave no piece.
    Finish { index: usize, finish: Finish, logprobs: Vec<TokenLogprob> },
}

/// A choice that is complete.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) output: ParsedOutput,
    pub(crate) finish: Finish,
    pub(crate) logprobs: Vec<TokenLogprob>,
}

/// A request that runs. Dropping it ends the generation within a step.
pub(crate) struct Answer {
    jobs: Vec<Option<TokenEvents>>,
    n: usize,
    choices: Vec<Choice>,
    usage: Usage,
    ready: std::collections::VecDeque<AnswerEvent>,
    audit: Arc<Audit>,
    /// Ends with the answer.
    permit: Option<Permit>,
}

impl Answer {
    /// Encodes the prompts and queues the request. `streamed` is whether the events are passed on as they come.
    pub(crate) async fn start(
        app: &Arc<App>,
        caller: &Caller,
        audit: Arc<Audit>,
        request: GenerateRequest,
        streamed: bool,
    ) -> ApiResult<Self> {
        let total = request.prompts.len() * request.n;
        if total > crate::limits::MAX_CHOICES {
            let expected = format!("at most {} over all prompts", crate::limits::MAX_CHOICES);
            return Err(ApiError::value("n", expected, total));
        }
        let permit = caller.admit()?;
        let (request, prompts) = encode::off_thread(Arc::clone(app), request).await?;
        let mut answer = Self {
            jobs: Vec::with_capacity(prompts.len()),
            n: request.n,
            choices: Vec::with_capacity(total),
            usage: Usage::default(),
            ready: std::collections::VecDeque::new(),
            audit,
            permit,
        };
        for prompt in prompts {
            for _ in 0..request.n {
                answer.choices.push(Choice::new(app, &request, prompt.start, streamed)?);
            }
            answer.usage.prompt_tokens += prompt.ids.len();
            let job = job(app, caller, &request, prompt);
            answer.jobs.push(Some(app.model.service.submit(job).map_err(refusal)?));
        }
        answer.tell_usage();
        Ok(answer)
    }

    /// The next event; `None` when every choice is complete.
    pub(crate) async fn next(&mut self) -> ApiResult<Option<AnswerEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.jobs.iter().all(Option::is_none) {
                return Ok(None);
            }
            let (job, event) = poll_fn(|cx| self.poll_jobs(cx)).await;
            self.take(job, event)?;
        }
    }

    /// Runs to the end.
    pub(crate) async fn collect(mut self) -> ApiResult<(Vec<Finished>, Usage)> {
        let mut logprobs: Vec<Vec<TokenLogprob>> = vec![Vec::new(); self.choices.len()];
        let mut finishes = vec![Finish::Length; self.choices.len()];
        while let Some(event) = self.next().await? {
            match event {
                AnswerEvent::Delta { index, logprobs: more, .. } => logprobs[index].extend(more),
                AnswerEvent::Finish { index, finish, logprobs: more } => {
                    logprobs[index].extend(more);
                    finishes[index] = finish;
                }
            }
        }
        let outputs = self.choices.into_iter().map(Choice::into_output);
        let finished = outputs
            .zip(finishes)
            .zip(logprobs)
            .map(|((output, finish), logprobs)| Finished { output, finish, logprobs })
            .collect();
        Ok((finished, self.usage))
    }

    /// Runs to the end, for front ends that know of one choice alone.
    pub(crate) async fn collect_one(self) -> ApiResult<(Finished, Usage)> {
        let (choices, usage) = self.collect().await?;
        let choice = choices.into_iter().next();
        Ok((choice.ok_or_else(|| ApiError::internal("an answer without a choice"))?, usage))
    }

    /// Whoever wants to know the usage hears of it as it grows, because an answer may end at any time.
    fn tell_usage(&mut self) {
        self.audit.set_usage(self.usage);
        if let Some(permit) = &mut self.permit {
            permit.set_tokens(self.usage.prompt_tokens + self.usage.completion_tokens);
        }
    }

    /// What it cost so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn num_choices(&self) -> usize {
        self.choices.len()
    }

    fn poll_jobs(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Option<TokenEvent>)> {
        for (index, job) in self.jobs.iter_mut().enumerate() {
            if let Some(events) = job
                && let Poll::Ready(event) = pin!(events.recv()).poll(cx)
            {
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    }

    fn take(&mut self, job: usize, event: Option<TokenEvent>) -> ApiResult<()> {
        let first = job * self.n;
        match event {
            Some(TokenEvent::Started { cached_tokens, queued }) => {
                self.usage.cached_tokens += cached_tokens;
                self.tell_usage();
                self.audit.set_queued(queued);
            }
            Some(TokenEvent::Token { index, sampled }) => {
                let choice = &mut self.choices[first + index];
                if !choice.is_over() {
                    choice.push(first + index, sampled, &mut self.usage, &mut self.ready);
                }
                self.tell_usage();
            }
            Some(TokenEvent::Finish { index, reason, .. }) => {
                let choice = &mut self.choices[first + index];
                if !choice.is_over() {
                    choice.finish(first + index, reason, &mut self.ready)?;
                }
            }
            Some(TokenEvent::Failed { error, is_request: true }) => {
                return Err(ApiError::Refused { field: String::new(), reason: error });
            }
            Some(TokenEvent::Failed { error, is_request: false }) => {
                return Err(ApiError::Dead { reason: error });
            }
            Some(TokenEvent::Embedding(_)) => {
                return Err(ApiError::internal("an embedding in the place of a token"));
            }
            None => self.jobs[job] = None,
        }
        // The rest of a job whose choices all met a stop string is worth nothing: dropping its events ends it.
        if self.choices[first..first + self.n].iter().all(Choice::is_over) {
            self.jobs[job] = None;
        }
        Ok(())
    }
}

fn job(app: &App, caller: &Caller, request: &GenerateRequest, prompt: Encoded) -> Job {
    let mut stop_token_ids = request.stop_token_ids.clone();
    if !request.ignore_eos {
        stop_token_ids.extend(app.model.tokenizer.eos_ids());
    }
    let left = app.model.service.engine().context_len() - prompt.ids.len();
    Job {
        request: Request {
            prompt: prompt.ids,
            sampling: request.sampling.clone(),
            stop_token_ids,
            max_tokens: Some(request.max_tokens.unwrap_or(left).min(left)),
        },
        n: request.n,
        owner: caller.owner(),
        salt: caller.salt(request.user_id.as_deref()),
        constraint: prompt.grammar.map(|grammar| Held::boxed(&grammar, prompt.start)),
    }
}

/// What a client is told about a job that was not taken.
pub(crate) fn refusal(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Invalid(EngineError::Request { field, expected, found }) => {
            ApiError::value(field, expected, found)
        }
        SubmitError::QueueFull { waiting, .. } => ApiError::Busy { waiting },
        SubmitError::Draining => ApiError::Draining,
        SubmitError::Dead { reason } => ApiError::Dead { reason },
        other => ApiError::internal(other),
    }
}

impl GenerateRequest {
    fn special_tokens(&self) -> SpecialTokens {
        match (&self.output, self.show_special_tokens) {
            (OutputForm::Text, true) => SpecialTokens::Show,
            _ => SpecialTokens::Skip,
        }
    }
}
