//! [`Choice`]: the tokens of one continuation become reasoning, content and calls.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::{FinishReason, Sampled};
use text::{Detokenizer, OutputDelta, OutputParser, OutputStart, ParsedOutput, StopMatcher, Tokenizer};

use super::{AnswerEvent, Finish, TokenLogprob, Usage};
use crate::error::{ApiError, ApiResult};
use crate::request::{GenerateRequest, OutputForm};
use crate::state::App;

/// One continuation in the making.
pub(super) struct Choice {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    stop_strings: Vec<String>,
    /// `None` where the text is nothing but text.
    parser: Option<OutputParser>,
    /// Calls that the client wants to hear of.
    max_calls: usize,
    output: ParsedOutput,
    /// Of tokens that have not led to a piece of text yet.
    logprobs: Vec<TokenLogprob>,
    in_reasoning: bool,
    streamed: bool,
    over: bool,
}

impl Choice {
    pub(super) fn new(
        app: &App,
        request: &GenerateRequest,
        start: OutputStart,
        streamed: bool,
    ) -> ApiResult<Self> {
        let (parser, max_calls) = match &request.output {
            OutputForm::Turn { tools, parallel, .. } => {
                let max_calls = if *parallel { usize::MAX } else { 1 };
                (Some(app.model.format.parser(start, tools)), max_calls)
            }
            OutputForm::Text => (None, 0),
        };
        Ok(Self {
            tokenizer: Arc::clone(&app.model.tokenizer),
            detokenizer: app.model.tokenizer.detokenizer(request.special_tokens()),
            stops: StopMatcher::new(request.stop.clone()).map_err(ApiError::internal)?,
            stop_strings: request.stop.clone(),
            parser,
            max_calls,
            output: ParsedOutput::default(),
            logprobs: Vec::new(),
            in_reasoning: matches!(start, OutputStart::Reasoning | OutputStart::ContinuedReasoning),
            streamed,
            over: false,
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn into_output(self) -> ParsedOutput {
        self.output
    }

    /// Takes a token.
    pub(super) fn push(
        &mut self,
        index: usize,
        sampled: Sampled,
        usage: &mut Usage,
        ready: &mut VecDeque<AnswerEvent>,
    ) {
        usage.completion_tokens += 1;
        usage.reasoning_tokens += usize::from(self.in_reasoning);
        self.logprobs.extend(TokenLogprob::new(&self.tokenizer, &sampled, self.in_reasoning));
        let text = self.detokenizer.push(sampled.token);
        let step = self.stops.push(&text);
        let deltas = self.parse(&step.text);
        self.emit(index, deltas, ready);
        if let Some(hit) = step.hit {
            let stop = self.stop_strings[hit].clone();
            self.close(index, Finish::StopString(stop), ready);
        }
    }

    /// Takes the engine's word that nothing follows.
    pub(super) fn finish(
        &mut self,
        index: usize,
        reason: FinishReason,
        ready: &mut VecDeque<AnswerEvent>,
    ) -> ApiResult<()> {
        let finish = match reason {
            FinishReason::Stop(_) => Finish::Stop,
            FinishReason::Length => Finish::Length,
            // Nobody but the server cancels an answer that somebody reads, and only when it has to stop.
            FinishReason::Cancelled => return Err(ApiError::Draining),
        };
        let rest = self.detokenizer.finish();
        let mut text = self.stops.push(&rest).text;
        text.push_str(&self.stops.finish());
        let deltas = self.parse(&text);
        self.emit(index, deltas, ready);
        self.close(index, finish, ready);
        Ok(())
    }

    fn parse(&mut self, text: &str) -> Vec<OutputDelta> {
        if text.is_empty() {
            return Vec::new();
        }
        match &mut self.parser {
            Some(parser) => parser.push(text),
            None => vec![OutputDelta::Content(text.to_owned())],
        }
    }

    fn emit(&mut self, index: usize, deltas: Vec<OutputDelta>, ready: &mut VecDeque<AnswerEvent>) {
        for delta in deltas {
            if let OutputDelta::ToolCall { index: call, .. } | OutputDelta::Arguments { index: call, .. } =
                delta
                && call >= self.max_calls
            {
                continue;
            }
            self.in_reasoning = matches!(delta, OutputDelta::Reasoning(_));
            self.output.add(delta.clone());
            let logprobs = std::mem::take(&mut self.logprobs);
            ready.push_back(AnswerEvent::Delta { index, delta, logprobs });
        }
    }

    fn close(&mut self, index: usize, finish: Finish, ready: &mut VecDeque<AnswerEvent>) {
        if let Some(mut parser) = self.parser.take() {
            if self.streamed {
                let deltas = parser.finish();
                self.emit(index, deltas, ready);
            } else {
                parser.finish_into(&mut self.output);
                self.output.tool_calls.truncate(self.max_calls);
            }
        }
        let calls = !self.output.tool_calls.is_empty() && finish == Finish::Stop;
        let finish = if calls { Finish::ToolCalls } else { finish };
        let logprobs = std::mem::take(&mut self.logprobs);
        ready.push_back(AnswerEvent::Finish { index, finish, logprobs });
        self.over = true;
    }
}
