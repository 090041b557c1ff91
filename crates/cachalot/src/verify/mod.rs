//! Proof that this build computes what the reference implementation computed.
//!
//! [`verify_checkpoint`] runs a model directory against its golden tensors; [`verify_text_file`] runs the prompt
//! encoders against golden prompts and the output parsers against golden outputs. Both give a [`Report`] whose [`Outcome`] knows three answers: all hold, something
//! fails, something could not be checked. What was not checked is never counted as passed.

mod checkpoint;
mod golden;
mod key;
mod report;
mod runner;
mod text_file;
mod tolerance;

pub use self::checkpoint::{VerifyOptions, verify_checkpoint};
pub use golden::{GOLDEN_FILE, Golden};
pub(crate) use key::{Key, RouterPart};
pub use report::{Outcome, Report, Row, Verdict};
pub use text::Chunkings;
pub use text_file::verify_text_file;
pub use tolerance::{KeyTolerance, Tolerances};
