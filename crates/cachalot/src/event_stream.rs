//! [`EventStream`]: the same events for async callers, on any runtime or none.
//!
//! A forward pass computes for milliseconds to seconds, which no async executor should sit through. It runs on a
//! thread of its own, and the events come over a bounded channel: a slow reader slows the generation down instead of
//! filling memory.

use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use engine::CancelHandle;
use futures_core::Stream;

use crate::{Error, Event, TextStream};

/// Events that may wait for the reader.
const CAPACITY: usize = 64;

/// A running generation as a [`Stream`] of [`Event`]s. Dropping it cancels the generation.
#[derive(Debug)]
pub struct EventStream {
    events: Receiver<Result<Event, Error>>,
    bell: Arc<Bell>,
    cancel: CancelHandle,
    over: bool,
}

/// Wakes the task that waits for the next event.
#[derive(Debug, Default)]
struct Bell {
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    fn set(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn ring(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// The worker's end. However the worker leaves, the channel closes first and the reader is woken after.
struct Speaker {
    events: Option<SyncSender<Result<Event, Error>>>,
    bell: Arc<Bell>,
}

impl Speaker {
    /// False once the reader is gone.
    fn say(&self, event: Result<Event, Error>) -> bool {
        let sent = self.events.as_ref().is_some_and(|events| events.send(event).is_ok());
        self.bell.ring();
        sent
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.events = None;
        self.bell.ring();
    }
}

impl EventStream {
    /// Moves `stream` to a thread of its own.
    ///
    /// # Errors
    /// [`Error::Thread`] if the operating system gives no thread.
    pub(crate) fn spawn(stream: TextStream) -> Result<Self, Error> {
        let (sender, events) = sync_channel(CAPACITY);
        let bell = Arc::new(Bell::default());
        let cancel = stream.cancel_handle();
        let speaker = Speaker { events: Some(sender), bell: Arc::clone(&bell) };
        let work = move || {
            for event in stream {
                if !speaker.say(event) {
                    break;
                }
            }
        };
        std::thread::Builder::new()
            .name("cachalot-generation".to_owned())
            .spawn(work)
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { events, bell, cancel, over: false })
    }

    /// A handle that ends this generation; the stream then closes with
    /// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// What lies in the channel, if anything does.
    fn take(&mut self) -> Option<Option<Result<Event, Error>>> {
        match self.events.try_recv() {
            Ok(event) => {
                self.over = matches!(event, Ok(Event::Finish { .. }) | Err(_));
                Some(Some(event))
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.over = true;
                Some(Some(Err(Error::WorkerLost)))
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        // The waker first: an event that comes between a look and a waker would ring for nobody.
        self.bell.set(cx.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
