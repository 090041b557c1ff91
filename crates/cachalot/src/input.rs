//! [`Input`]: what a model is asked to continue.

use text::{ChatRequest, Message};

/// What the model continues. Strings, messages and chat requests convert into it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// A conversation, written in the checkpoint's prompt format.
    Chat(Box<ChatRequest>),
    /// Text that is continued as it is, without any format. It cannot spell control tokens.
    Raw(String),
    /// The model writes what belongs between the two.
    FillInTheMiddle {
        /// Text before the hole.
        prefix: String,
        /// Text after the hole.
        suffix: String,
    },
}

impl From<&str> for Input {
    /// One message of the user.
    fn from(text: &str) -> Self {
        vec![Message::user(text)].into()
    }
}

impl From<String> for Input {
    /// One message of the user.
    fn from(text: String) -> Self {
        vec![Message::user(text)].into()
    }
}

impl From<Vec<Message>> for Input {
    fn from(messages: Vec<Message>) -> Self {
        ChatRequest::new(messages).into()
    }
}

impl From<ChatRequest> for Input {
    fn from(request: ChatRequest) -> Self {
        Self::Chat(Box::new(request))
    }
}
