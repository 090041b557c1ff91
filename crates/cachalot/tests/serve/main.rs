//! The server over real sockets, with the demo model behind it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chat;
mod completions;
mod errors;
mod lifecycle;
mod support;
