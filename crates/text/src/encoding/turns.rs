//! `Turns`: what all chat formats ask of a list of messages: known roles, texts that are there, system texts gathered.

use crate::chat::{Message, Role};
use crate::error::{Error, Result};

/// A message with its place in the conversation, for error messages.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    index: usize,
    message: &'a Message,
}

impl<'a> Turn<'a> {
    /// The message.
    pub(crate) fn message(&self) -> &'a Message {
        self.message
    }

    /// The content or the reasoning, which must be there and say something.
    pub(crate) fn text(&self, field: &'static str) -> Result<&'a str> {
        let text = if field == "content" { &self.message.content } else { &self.message.reasoning_content };
        let missing = Error::MissingField { index: self.index, field, expected: "a text that is not empty" };
        text.as_deref().filter(|text| !text.is_empty()).ok_or(missing)
    }

    /// The text, which must be there.
    pub(crate) fn content(&self) -> Result<&'a str> {
        let missing = Error::MissingField { index: self.index, field: "content", expected: "a text" };
        self.message.content.as_deref().ok_or(missing)
    }

    /// The error for a result that no call asked for.
    pub(crate) fn without_call(&self) -> Error {
        Error::ResultWithoutCall { index: self.index }
    }

    /// The error for a field of another form than the format needs.
    pub(crate) fn malformed(&self, field: String, expected: &'static str, found: &str) -> Error {
        let field = format!("[{}].{field}", self.index);
        Error::Malformed { file: "messages".to_owned(), field, expected, found: format!("{found:?}") }
    }

    /// The error for a role that the format does not know.
    pub(crate) fn unknown_role(&self, expected: &'static str) -> Error {
        Error::UnknownRole { index: self.index, expected, found: self.message.role.as_str().to_owned() }
    }
}

/// Walks the messages in order.
pub(crate) fn turns(messages: &[Message]) -> impl Iterator<Item = Turn<'_>> {
    messages.iter().enumerate().map(|(index, message)| Turn { index, message })
}

/// All system texts, joined by an empty line.
pub(crate) fn joined_system(messages: &[Message]) -> Result<String> {
    let systems = turns(messages).filter(|turn| turn.message.role == Role::System);
    Ok(systems.map(|turn| turn.content()).collect::<Result<Vec<_>>>()?.join("\n\n"))
}
