//! Built-in prompt formats, one file per generation, for checkpoints that ship no chat template.
//!
//! Each follows its generation's published template in everything the template does, oddities included, because a model was trained on its
//! template's output: R1 and the distills, for instance, open the list of tool calls only once in a conversation. Two things differ, and only
//! where a template would produce text that no model has seen: an empty list of tool calls counts as none, and what a template would drop
//! silently (tools, tool messages, unknown roles) is a typed error.

mod coder_v1;
mod detect;
mod distill;
mod effort;
mod fenced_call;
pub mod fim;
mod generation;
pub(crate) mod markers;
mod r1;
mod turns;
mod v2;
mod v3;
mod v31;
mod v32;
mod v4;

pub use detect::CheckpointFacts;
pub use generation::{Generation, Thinking};
