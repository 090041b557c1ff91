//! Two answers at once from one model in async code, and one that is cancelled. Any executor will do; this one is
//! twenty lines, to show that the library asks for none in particular.
//!
//! `cargo run --release --example stream_async`

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use cachalot::{Error, Event, EventStream, GenerateOptions, LanguageModel, ModelSource};
use futures_core::Stream;

/// Wakes the thread that waits in [`block_on`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// The next event of a stream.
async fn next(stream: &mut EventStream) -> Option<Result<Event, Error>> {
    let mut stream = pin!(stream);
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

/// The whole text of a stream.
async fn read(mut stream: EventStream) -> Result<String, Error> {
    let mut text = String::new();
    while let Some(event) = next(&mut stream).await {
        if let Event::Text(piece) = event? {
            text.push_str(&piece);
        }
    }
    Ok(text)
}

async fn talk(model: &LanguageModel) -> Result<[String; 3], Error> {
    let options = GenerateOptions::greedy();
    // Both run from now on, each on its own thread; reading one after the other waits for neither twice.
    let sum = model.stream_async("What is 12 + 30?", &options)?;
    let word = model.stream_async("Spell whale backwards.", &options)?;
    let mut story = model.stream_async("Tell me a story about a fox.", &options)?;
    let beginning = match next(&mut story).await.transpose()? {
        Some(Event::Text(piece)) => piece,
        _ => String::new(),
    };
    // Dropping a stream cancels its generation.
    drop(story);
    Ok([read(sum).await?, read(word).await?, beginning])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
    let [sum, word, story] = block_on(talk(&model))?;
    writeln!(
        io::stdout(),
        "12 + 30: {sum}\nwhale backwards: {word}\na story that began with {story:?} was cancelled"
    )?;
    Ok(())
}
