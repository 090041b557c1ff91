//! Server-sent events: a running answer as a stream that a front end renders, with comments that keep the connection
//! alive while there is nothing to say.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use crate::answer::{Answer, AnswerEvent};
use crate::audit::Audit;
use crate::error::ApiError;

/// Events that are ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Frames(VecDeque<Event>);

impl Frames {
    /// An event of nothing but data.
    pub(crate) fn data(&mut self, data: &Value) {
        self.0.push_back(Event::default().data(data.to_string()));
    }

    /// An event with a name.
    pub(crate) fn named(&mut self, name: &str, data: &Value) {
        self.0.push_back(Event::default().event(name).data(data.to_string()));
    }

    /// The mark that ends OpenAI's streams.
    pub(crate) fn done(&mut self) {
        self.0.push_back(Event::default().data("[DONE]"));
    }
}

/// Renders the events of an answer in the form of one API.
pub(crate) trait Renderer: Send + 'static {
    /// What comes before everything else, even before the request had its first step.
    fn start(&mut self, _frames: &mut Frames) {}

    /// Something happened.
    fn event(&mut self, event: AnswerEvent, answer: &Answer, frames: &mut Frames);

    /// Every choice is complete.
    fn end(&mut self, answer: &Answer, frames: &mut Frames);

    /// The answer failed after the stream had begun.
    fn error(&mut self, error: &ApiError, frames: &mut Frames);
}

/// A stream in the making. Dropping it, which is what happens when the client goes away, ends the generation.
struct Stream<R> {
    /// `None` when the stream is over but for what is in `frames`.
    answer: Option<Answer>,
    renderer: R,
    frames: Frames,
    audit: Arc<Audit>,
}

impl<R: Renderer> Stream<R> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.frames.0.pop_front() {
                return Some(event);
            }
            let answer = self.answer.as_mut()?;
            match answer.next().await {
                Ok(Some(event)) => self.renderer.event(event, answer, &mut self.frames),
                Ok(None) => {
                    self.renderer.end(answer, &mut self.frames);
                    self.audit.set_outcome("ok");
                    self.answer = None;
                }
                Err(error) => {
                    tracing::warn!("a stream failed: {error}");
                    self.renderer.error(&error, &mut self.frames);
                    self.audit.set_outcome("failed");
                    self.answer = None;
                }
            }
        }
    }
}

/// The response that streams `answer`.
pub(crate) fn respond(
    answer: Answer,
    mut renderer: impl Renderer,
    audit: Arc<Audit>,
    keep_alive: Duration,
) -> Response {
    let mut frames = Frames::default();
    renderer.start(&mut frames);
    // Until somebody says otherwise, the client went away.
    audit.set_outcome("cancelled");
    let stream = Stream { answer: Some(answer), renderer, frames, audit };
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let keep_alive = KeepAlive::new().interval(keep_alive).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Proxies would collect the events.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
