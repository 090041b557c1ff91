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

    /// The text, which must be there.
    pub(crate) fn content(&self) -> Result<&'a str> {
        let missing = Error::MissingField { index: self.index, field: "content", expected: "a text" };
        self.message.content.as_deref().ok_or(missing)
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
