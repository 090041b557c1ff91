//! The HTTP front end: DeepSeek's, OpenAI's and Anthropic's APIs over one model.
//!
//! A request's way: the route reads the body within limits → the front end's own fields are checked and become one
//! `request::GenerateRequest`, the same for all front ends → `answer::Answer` encodes the prompt off the event
//! loop, queues a job with the engine and turns its tokens into reasoning, content and calls → the front end renders
//! these events, streamed or in one piece.
//!
//! Invariants: nothing reaches the engine unvalidated, and every refusal names its field in the API's own form. A
//! client who goes away ends its generation, one who does not read slows down nobody but itself, and every queue,
//! buffer and wait has a limit. Keys are kept as digests; keys and prompts are never logged.
//!
//! Deliberately absent: argv and environment (the binary reads those), TLS (a proxy's job), tensors.

mod answer;
mod audit;
mod auth;
mod connection;
mod dialect;
mod error;
mod error_body;
mod json;
mod keys;
mod limits;
mod metrics;
mod openapi;
mod options;
mod quota;
mod request;
mod request_id;
mod router;
mod routes;
mod server;
mod sse;
mod state;
mod tables;
mod whole;

pub use dialect::Dialect;
pub use error::ServerError;
pub use options::{Limits, ServedModel, ServerOptions};
pub use server::Server;
