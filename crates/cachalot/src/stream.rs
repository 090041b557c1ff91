//! [`TextStream`]: engine steps become events, one token at a time.

use std::collections::VecDeque;

use engine::{CancelHandle, Generation, GenerationStats, Sequence, Step};
use text::{Detokenizer, Piece, ReasoningSplitter, SpecialTokens, StopMatcher, Tokenizer};

use crate::{Error, Event, FinishReason, Output};

/// A running generation as an iterator of [`Event`]s. Dropping it ends the generation and frees its memory.
pub struct TextStream {
    generation: Generation,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    stop_strings: Vec<String>,
    /// `None` where text is not a model's turn: raw continuations and fill in the middle.
    reasoning: Option<ReasoningSplitter>,
    ready: VecDeque<Event>,
    tokens: Vec<u32>,
    over: bool,
}

impl std::fmt::Debug for TextStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream").field("tokens", &self.tokens.len()).field("over", &self.over).finish()
    }
}

impl TextStream {
    pub(crate) fn new(
        generation: Generation,
        tokenizer: &Tokenizer,
        stop_strings: &[String],
        reasoning: Option<ReasoningSplitter>,
    ) -> Result<Self, Error> {
        Ok(Self {
            generation,
            detokenizer: tokenizer.detokenizer(SpecialTokens::Skip),
            stops: StopMatcher::new(stop_strings.to_vec())?,
            stop_strings: stop_strings.to_vec(),
            reasoning,
            ready: VecDeque::new(),
            tokens: Vec::new(),
            over: false,
        })
    }

    /// A handle that ends this generation from another thread; the stream then closes with
    /// [`FinishReason::Cancelled`].
    pub fn cancel_handle(&self) -> CancelHandle {
        self.generation.cancel_handle()
    }

    /// The token ids generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Counts and times so far.
    pub fn stats(&self) -> GenerationStats {
        self.generation.stats()
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Whatever error ends the stream.
    pub fn collect_output(mut self) -> Result<Output, Error> {
        let (mut text, mut reasoning) = (String::new(), String::new());
        loop {
            match self.next().transpose()? {
                Some(Event::Text(piece)) => text.push_str(&piece),
                Some(Event::Reasoning(piece)) => reasoning.push_str(&piece),
                Some(Event::Prefill { .. }) => {}
                Some(Event::Finish { reason, stats }) => {
                    let tokens = std::mem::take(&mut self.tokens);
                    return Ok(Output { text, reasoning, tokens, finish_reason: reason, stats });
                }
                None => return Err(Error::WorkerLost),
            }
        }
    }

    pub(crate) fn into_sequence(self) -> Sequence {
        self.generation.into_sequence()
    }

    /// Runs one engine step and queues what it says.
    fn advance(&mut self) -> Result<(), Error> {
        match self.generation.step().transpose()? {
            Some(Step::Prefill { done, total }) => self.ready.push_back(Event::Prefill { done, total }),
            Some(Step::Token(sampled)) => {
                self.tokens.push(sampled.token);
                let chunk = self.detokenizer.push(sampled.token);
                self.say(&chunk);
            }
            Some(Step::Finish(reason)) => {
                let rest = self.detokenizer.finish();
                self.say(&rest);
                if !self.over {
                    let rest = self.stops.finish();
                    self.split(&rest);
                    self.finish(match reason {
                        engine::FinishReason::Stop(_) => FinishReason::EndOfSequence,
                        engine::FinishReason::Length => FinishReason::Length,
                        engine::FinishReason::Cancelled => FinishReason::Cancelled,
                    });
                }
            }
            None => self.over = true,
        }
        Ok(())
    }

    /// Passes decoded text through the stop strings.
    fn say(&mut self, chunk: &str) {
        if chunk.is_empty() || self.over {
            return;
        }
        let step = self.stops.push(chunk);
        self.split(&step.text);
        if let Some(index) = step.hit {
            self.finish(FinishReason::StopString(self.stop_strings[index].clone()));
        }
    }

    /// Passes text that is certain through the reasoning splitter.
    fn split(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match &mut self.reasoning {
            Some(splitter) => {
                let pieces = splitter.push(text);
                self.queue(pieces);
            }
            None => self.ready.push_back(Event::Text(text.to_owned())),
        }
    }

    fn queue(&mut self, pieces: Vec<Piece>) {
        self.ready.extend(pieces.into_iter().filter_map(|piece| match piece {
            Piece::Reasoning(text) if !text.is_empty() => Some(Event::Reasoning(text)),
            Piece::Content(text) if !text.is_empty() => Some(Event::Text(text)),
            _ => None,
        }));
    }

    fn finish(&mut self, reason: FinishReason) {
        if let Some(splitter) = &mut self.reasoning {
            let rest = splitter.finish();
            self.queue(rest);
        }
        self.ready.push_back(Event::Finish { reason, stats: self.generation.stats() });
        self.over = true;
    }
}

impl Iterator for TextStream {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.advance() {
                self.over = true;
                return Some(Err(error));
            }
        }
    }
}
