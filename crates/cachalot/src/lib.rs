//! DeepSeek's open-weight models inside a Rust program.
//!
//! ```
//! use cachalot::{GenerateOptions, LanguageModel, ModelSource};
//!
//! # fn main() -> Result<(), cachalot::Error> {
//! let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
//! let options = GenerateOptions { thinking: Some(true), ..GenerateOptions::greedy() };
//! let output = model.generate("What is 128 + 256?", &options)?;
//! println!("{} ({} tokens)", output.text, output.tokens.len());
//! # Ok(())
//! # }
//! ```
//!
//! [`LanguageModel::load`] takes the demo model inside the program, a directory, a GGUF file or a hub id. Then
//! [`generate`](LanguageModel::generate) blocks until the answer is there, [`stream`](LanguageModel::stream) iterates
//! over its pieces, [`stream_async`](LanguageModel::stream_async) gives them to async code, and
//! [`chat`](LanguageModel::chat) keeps a conversation. Every stream ends when it is dropped, or through its
//! [`CancelHandle`].
//!
//! Deliberately absent: global state, environment variables (the binary reads those), an async runtime.

mod chat;
mod demo;
mod device;
mod error;
mod event_stream;
mod input;
mod int8_report;
mod model;
mod options;
mod output;
mod ranks;
mod source;
mod stream;

pub mod eval;
pub mod inspect;
pub mod serve;
pub mod verify;

pub use chat::{Chat, Turn};
pub use checkpoint::hub::{DownloadProgress, HubOptions};
pub use checkpoint::{LoadProgress, ModelConfig};
pub use comm::Transport;
pub use device::{DeviceChoice, DeviceOptions};
pub use engine::{
    CancelHandle, Drafter, Engine, EngineError, GenerationStats, MAX_SPECULATIVE_TOKENS, Speculation,
};
pub use error::Error;
pub use event_stream::EventStream;
pub use input::Input;
pub use int8_report::{Int8Cost, Int8Row, Int8Table};
pub use kernels::{DType, Precision};
pub use model::LanguageModel;
pub use models::{ExpertFormat, IndexFormat};
pub use options::{GenerateOptions, LoadOptions};
pub use output::{Event, FinishReason, Output};
pub use source::{ModelSource, Progress};
pub use stream::TextStream;
pub use text::{ChatRequest, Message, Role, Tokenizer, Tool};
