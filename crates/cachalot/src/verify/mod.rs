//! Proof that this build computes what the reference implementation computed.
//!
//! [`verify_checkpoint`] runs a model directory against its golden tensors; [`verify_prompts`] runs the prompt
//! encoders against golden prompts. Both give a [`Report`] whose [`Outcome`] knows three answers: all hold, something
//! fails, something could not be checked. What was not checked is never counted as passed.

mod checkpoint;
mod golden;
mod key;
mod prompts;
mod report;
mod runner;
mod tolerance;

pub use self::checkpoint::{VerifyOptions, verify_checkpoint};
pub use golden::{GOLDEN_FILE, Golden};
pub(crate) use key::{Key, RouterPart};
pub use prompts::verify_prompts;
pub use report::{Outcome, Report, Row, Verdict};
pub use tolerance::{KeyTolerance, Tolerances};
