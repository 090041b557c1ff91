//! [`TokenEvents`]: what a job's reader hears, over a bounded channel, and the engine's end of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::shared::{Message, Shared};
use crate::{FinishReason, GenerationStats, Sampled};

/// Something that happened to a job.
///
/// `Started` comes first, unless the job ends while it waits. Then every continuation has its tokens in order and last
/// its `Finish`; those of different continuations are interleaved. `Failed` ends the whole job and may come at any time.
/// Nothing follows the last `Finish`, the `Embedding` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    /// The first step that computes something of it has begun.
    Started {
        /// Tokens of the prompt that the prefix cache had.
        cached_tokens: usize,
        /// How long the job waited.
        queued: Duration,
    },
    /// A token was chosen.
    Token {
        /// The continuation, from 0.
        index: usize,
        /// The token.
        sampled: Sampled,
    },
    /// A continuation is over.
    Finish {
        /// The continuation, from 0.
        index: usize,
        /// Why.
        reason: FinishReason,
        /// What it cost.
        stats: GenerationStats,
    },
    /// The embedding of the prompt `[D]`, of length 1.
    Embedding(Vec<f32>),
    /// The job is over and its answer cannot be had.
    Failed {
        /// Why, in words.
        error: String,
        /// True if it is the job's own fault and others are not concerned, false if it is the engine's.
        is_request: bool,
    },
}

/// The events of one job, in order; `None` follows the last one. Dropping it cancels the job within one step.
#[derive(Debug)]
pub struct TokenEvents {
    receiver: mpsc::Receiver<TokenEvent>,
    number: u64,
    /// Continuations that have not finished.
    open: usize,
    stalled: Arc<AtomicBool>,
    messages: Sender<Message>,
    shared: Arc<Shared>,
}

/// The two ends of a job's channel; `finishes` says how many continuations it has.
pub(crate) fn channel(
    number: u64,
    finishes: usize,
    capacity: usize,
    messages: Sender<Message>,
    shared: Arc<Shared>,
) -> (EventSender, TokenEvents) {
    let (sender, receiver) = mpsc::channel(capacity);
    let stalled = Arc::new(AtomicBool::new(false));
    let reader = Arc::clone(&stalled);
    let events = TokenEvents { receiver, number, open: finishes, stalled: reader, messages, shared };
    (EventSender { sender, outbox: VecDeque::new(), stalled }, events)
}

impl TokenEvents {
    /// The next event.
    pub async fn recv(&mut self) -> Option<TokenEvent> {
        let event = self.receiver.recv().await;
        self.note(event)
    }

    /// The next event, for callers outside of asynchronous code.
    ///
    /// # Panics
    /// Within an asynchronous context, which it would block.
    pub fn blocking_recv(&mut self) -> Option<TokenEvent> {
        let event = self.receiver.blocking_recv();
        self.note(event)
    }

    /// The next event if it is there already.
    pub fn try_recv(&mut self) -> Option<TokenEvent> {
        match self.receiver.try_recv() {
            Ok(event) => self.note(Some(event)),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => self.note(None),
        }
    }

    fn note(&mut self, event: Option<TokenEvent>) -> Option<TokenEvent> {
        // The engine sets the flag before it gives up on a full channel, so one of the two sides sees the other.
        if event.is_some() && self.stalled.swap(false, Ordering::SeqCst) {
            let _ = self.messages.send(Message::Resume(self.number));
        }
        match &event {
            Some(TokenEvent::Finish { .. }) => self.open = self.open.saturating_sub(1),
            Some(TokenEvent::Embedding(_) | TokenEvent::Failed { .. }) => self.open = 0,
            Some(TokenEvent::Started { .. } | TokenEvent::Token { .. }) => {}
            // The engine's thread went away in the middle, or before it had heard of the job.
            None if self.open > 0 => {
                self.open = 0;
                return Some(TokenEvent::Failed { error: self.shared.cause_of_death(), is_request: false });
            }
            None => {}
        }
        event
    }
}

impl Drop for TokenEvents {
    fn drop(&mut self) {
        if self.open > 0 {
            let _ = self.messages.send(Message::Cancel(self.number));
        }
    }
}

/// How a job's reader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It has room for more.
    Ready,
    /// It has not read; a [`Message::Resume`] follows when it does.
    Stalled,
    /// It is gone.
    Gone,
}

/// The engine's end: never waits.
#[derive(Debug)]
pub(crate) struct EventSender {
    sender: mpsc::Sender<TokenEvent>,
    /// Events that found the channel full; few, because a stalled job is not stepped.
    outbox: VecDeque<TokenEvent>,
    stalled: Arc<AtomicBool>,
}

impl EventSender {
    /// Puts an event behind all earlier ones; [`EventSender::flush`] sends it.
    pub(crate) fn push(&mut self, event: TokenEvent) {
        self.outbox.push_back(event);
    }

    /// Sends as much as fits.
    pub(crate) fn flush(&mut self) -> Reader {
        while let Some(event) = self.outbox.pop_front() {
            let event = match self.sender.try_send(event) {
                Ok(()) => continue,
                Err(TrySendError::Closed(_)) => return Reader::Gone,
                Err(TrySendError::Full(event)) => event,
            };
            self.outbox.push_front(event);
            if self.stalled.swap(true, Ordering::SeqCst) {
                return Reader::Stalled;
            }
            // Once more: the reader may have emptied the channel before it could see the flag.
        }
        Reader::Ready
    }
}
