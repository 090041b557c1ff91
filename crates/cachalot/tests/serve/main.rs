//! The server over real sockets, with the demo model behind it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chat;
mod command;
mod completions;
mod embeddings;
mod errors;
mod lifecycle;
mod messages;
mod openapi;
mod page;
mod responses;
mod structured;
mod support;
mod tenancy;
mod tools;
