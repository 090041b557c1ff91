//! Server-sent events: a running answer as a stream that a front end renders, with comments that keep the connection
//! alive while there is nothing to say.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use serde::Serialize;

use crate::answer::{Answer, AnswerEvent};
use crate::audit::Audit;
use crate::error::{ApiError, ApiResult};

/// Tokens that come faster than this are written together, an event each: no reader sees the difference, and a server of
/// many fast streams spends its time on tokens and not on waking up.
const PACE: Duration = Duration::from_millis(10);

/// Events that are ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Frames(VecDeque<Event>);

impl Frames {
    /// An event of nothing but data.
    pub(crate) fn data(&mut self, data: &impl Serialize) {
        self.push(Event::default(), data);
    }

    /// An event with a name.
    pub(crate) fn named(&mut self, name: &str, data: &impl Serialize) {
        self.push(Event::default().event(name), data);
    }

    fn push(&mut self, event: Event, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(text) => self.0.push_back(event.data(text)),
            // Only a map whose keys are no strings, which is a mistake of ours.
            Err(error) => tracing::error!("an event cannot be written: {error}"),
        }
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
    /// When the last event came that had to be waited for.
    woken: Option<Instant>,
}

impl<R: Renderer> Stream<R> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.frames.0.pop_front() {
                return Some(event);
            }
            match self.wait().await? {
                Ok(Some(event)) => self.renderer.event(event, self.answer.as_ref()?, &mut self.frames),
                Ok(None) => {
                    self.renderer.end(self.answer.as_ref()?, &mut self.frames);
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

    /// The next event of the answer: one that is there already, or the first that comes. After one that had to be waited
    /// for it sleeps, to the next beat of a clock that all streams share, so that they wake up together. `None` once the
    /// answer is over.
    async fn wait(&mut self) -> Option<ApiResult<Option<AnswerEvent>>> {
        let answer = self.answer.as_mut()?;
        if let Some(event) = answer.next().now_or_never() {
            return Some(event);
        }
        if self.woken.is_some_and(|woken| woken.elapsed() < PACE) {
            tokio::time::sleep(until_next_beat()).await;
        }
        let event = answer.next().await;
        self.woken = Some(Instant::now());
        Some(event)
    }
}

/// The time to the next multiple of [`PACE`].
fn until_next_beat() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    PACE - Duration::from_nanos((now.as_nanos() % PACE.as_nanos()) as u64)
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
    let stream = Stream { answer: Some(answer), renderer, frames, audit, woken: None };
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
