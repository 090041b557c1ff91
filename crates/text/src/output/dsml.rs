//! `DsmlParser`: what V4 and V4.1 write, read by DeepSeek's own stream processor.
//!
//! The processor is a stream that takes chunks from another stream. No runtime is needed to drive it: it is polled after every chunk until
//! it has nothing more to say.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use deepseek_recipe::stream::{
    ChunkGenerator, InferenceChunk, OutputChunk, ParsingOptions, StreamError, StreamProcessor,
    ThinkingInitialStage,
};
use futures_core::Stream;

use super::{OutputDelta, OutputStart};

/// Chunks on their way into the processor.
#[derive(Debug, Clone, Default)]
struct Feed {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<InferenceChunk>,
    ended: bool,
}

impl Feed {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Feed {
    type Item = InferenceChunk;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<InferenceChunk>> {
        let mut queue = self.queue();
        match queue.chunks.pop_front() {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None if queue.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Passes the parsed pieces on as they are.
struct Pieces;

impl ChunkGenerator for Pieces {
    type Chunk = OutputChunk;

    async fn generate(&mut self, chunk: OutputChunk) -> Vec<OutputChunk> {
        vec![chunk]
    }
}

/// Parses one output.
pub(super) struct DsmlParser {
    feed: Feed,
    output: Pin<Box<dyn Stream<Item = Result<OutputChunk, StreamError>> + Send>>,
    /// Calls begun.
    count: usize,
    over: bool,
}

impl fmt::Debug for DsmlParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DsmlParser").field("count", &self.count).field("over", &self.over).finish()
    }
}

impl DsmlParser {
    pub(super) fn new(start: OutputStart, parse_tool_calls: bool) -> Self {
        let thinking_initial_stage = match start {
            OutputStart::Content | OutputStart::ToolCalls => None,
            OutputStart::Reasoning => Some(ThinkingInitialStage::ReasoningStart),
            OutputStart::ContinuedReasoning => Some(ThinkingInitialStage::ReasoningContinuation),
            OutputStart::ContinuedContent => Some(ThinkingInitialStage::ContentContinuation),
        };
        let options = ParsingOptions {
            parse_tool_calls,
            starts_in_tool_calls: start == OutputStart::ToolCalls,
            thinking_initial_stage,
            ..ParsingOptions::default()
        };
        let feed = Feed::default();
        let output = StreamProcessor::new(Pieces, options).into_protocol_stream(feed.clone());
        Self { feed, output: Box::pin(output), count: 0, over: false }
    }

    pub(super) fn push(&mut self, chunk: &str) -> Vec<OutputDelta> {
        if chunk.is_empty() {
            return Vec::new();
        }
        // The processor counts tokens for a usage that nobody reads here.
        let chunk = InferenceChunk::Text { content: chunk.to_owned(), token_count: 0 };
        self.feed.queue().chunks.push_back(chunk);
        self.drain()
    }

    pub(super) fn finish(&mut self) -> Vec<OutputDelta> {
        self.feed.queue().ended = true;
        self.drain()
    }

    fn drain(&mut self) -> Vec<OutputDelta> {
        let mut deltas = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while !self.over {
            match self.output.as_mut().poll_next(&mut context) {
                Poll::Ready(Some(Ok(piece))) => deltas.extend(self.delta(piece)),
                // Its errors are about token ids, and it only ever gets text.
                Poll::Ready(Some(Err(_)) | None) => self.over = true,
                Poll::Pending => break,
            }
        }
        deltas
    }

    fn delta(&mut self, piece: OutputChunk) -> Option<OutputDelta> {
        let full = |text: &String| !text.is_empty();
        match piece {
            OutputChunk::Content { content, .. } => Some(content).filter(full).map(OutputDelta::Content),
            OutputChunk::Reasoning { content, .. } => Some(content).filter(full).map(OutputDelta::Reasoning),
            OutputChunk::ToolCallNamed { tool_name } => {
                self.count += 1;
                Some(OutputDelta::ToolCall { index: self.count - 1, name: tool_name })
            }
            OutputChunk::ToolCallArgumentsDelta { arguments } => {
                let index = self.count.checked_sub(1)?;
                Some(arguments).filter(full).map(|text| OutputDelta::Arguments { index, text })
            }
            OutputChunk::Start { .. } | OutputChunk::ToolCallBegin | OutputChunk::Finish { .. } => None,
        }
    }
}
