//! The one error type of the library.

use std::path::{Path, PathBuf};

use checkpoint::CheckpointError;
use engine::EngineError;
use kernels::KernelError;
use models::ModelError;

/// Why a model could not be loaded, a request was refused, or a verification could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: found {found}, expected {expected}", path.display())]
    File {
        /// The file, with a line number where there is one.
        path: PathBuf,
        /// What belongs there, in words.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A golden file that contradicts itself or the checkpoint.
    #[error("golden key `{key}`: found {found}, expected {expected}")]
    Golden {
        /// The key, or the name of the file.
        key: String,
        /// What belongs there, in words.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An option out of range.
    #[error("{field} is {found}, expected {expected}")]
    Option {
        /// Name of the option.
        field: &'static str,
        /// The accepted values in words.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// No thread for a stream.
    #[error("cannot start a thread for the generation")]
    Thread {
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The worker thread of a stream ended without a final event, which only a bug of ours can cause.
    #[error("the generation ended unexpectedly")]
    WorkerLost,
    /// The checkpoint cannot be read or is not supported.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine refused the request or failed in a step.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An op failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Tokenizer, template or conversation.
    #[error(transparent)]
    Text(#[from] text::Error),
}

impl Error {
    pub(crate) fn golden(
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Golden { key: key.into(), expected: expected.into(), found: found.into() }
    }

    pub(crate) fn option(field: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Option { field, expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn file(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), expected: expected.into(), found: found.into() }
    }
}
