//! [`Chat`]: a conversation that keeps its turns and its KV cache.

use engine::{CancelHandle, Sequence};
use text::{Message, Role};

use crate::{Error, Event, GenerateOptions, LanguageModel, TextStream};

/// A conversation with a model. Each turn computes only what the cache does not hold yet.
///
/// ```
/// use cachalot::{GenerateOptions, LanguageModel, ModelSource};
///
/// # fn main() -> Result<(), cachalot::Error> {
/// let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
/// let mut chat = model.chat();
/// let options = GenerateOptions { max_tokens: Some(40), ..GenerateOptions::greedy() };
/// for question in ["My name is Ada.", "What is my name?"] {
///     for event in chat.send(question, &options)? {
///         event?;
///     }
/// }
/// assert_eq!(chat.messages().len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Chat {
    model: LanguageModel,
    messages: Vec<Message>,
    /// What earlier turns left in the cache.
    sequence: Option<Sequence>,
}

impl Chat {
    pub(crate) fn new(model: LanguageModel) -> Self {
        Self { model, messages: Vec::new(), sequence: None }
    }

    /// Puts a system message before everything else, or replaces the one that is there.
    pub fn set_system(&mut self, content: impl Into<String>) {
        self.messages.retain(|message| message.role != Role::System);
        self.messages.insert(0, Message::system(content));
    }

    /// Forgets every turn but the system message.
    pub fn reset(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
        self.sequence = None;
    }

    /// The conversation so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Says something and lets the model answer. The answer joins the conversation when the turn ends; a turn that is
    /// dropped or cancelled half way joins as far as it came.
    ///
    /// # Errors
    /// As [`LanguageModel::stream`]; the conversation is then as it was before.
    pub fn send(&mut self, content: impl Into<String>, options: &GenerateOptions) -> Result<Turn<'_>, Error> {
        self.messages.push(Message::user(content));
        let sequence = self.sequence.take().unwrap_or_else(|| self.model.engine().sequence());
        match self.model.resume(sequence, self.messages.clone().into(), options) {
            Ok(stream) => {
                Ok(Turn { chat: self, stream: Some(stream), text: String::new(), reasoning: String::new() })
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }
}

/// One answer in the making: an iterator of [`Event`]s.
#[derive(Debug)]
pub struct Turn<'c> {
    chat: &'c mut Chat,
    /// Taken when the turn is committed.
    stream: Option<TextStream>,
    text: String,
    reasoning: String,
}

impl Turn<'_> {
    /// A handle that ends this turn from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.stream.as_ref().map(TextStream::cancel_handle).unwrap_or_default()
    }
}

impl Iterator for Turn<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.stream.as_mut()?.next();
        match &event {
            Some(Ok(Event::Text(piece))) => self.text.push_str(piece),
            Some(Ok(Event::Reasoning(piece))) => self.reasoning.push_str(piece),
            _ => {}
        }
        event
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        self.chat.sequence = Some(stream.into_sequence());
        let mut answer = Message::assistant(std::mem::take(&mut self.text));
        let reasoning = std::mem::take(&mut self.reasoning);
        answer.reasoning_content = Some(reasoning).filter(|r| !r.is_empty());
        self.chat.messages.push(answer);
    }
}
