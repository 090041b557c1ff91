//! The server over real sockets, with the demo model behind it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod batched;
mod chat;
mod command;
mod completions;
mod devices;
mod embeddings;
mod errors;
mod lifecycle;
mod load;
mod messages;
mod openapi;
mod page;
mod responses;
mod structured;
mod support;
mod tenancy;
mod tools;
