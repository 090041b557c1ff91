//! The one error type of this crate: which file, which tensor or key, what was expected and what was found.

use std::path::{Path, PathBuf};

use kernels::KernelError;

/// Result of a checkpoint operation.
pub type Result<T> = std::result::Result<T, CheckpointError>;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file that the checkpoint needs is not there.
    #[error("{file} is missing: expected {expected}, found {found}")]
    MissingFile {
        /// The absent file.
        file: String,
        /// Why it is needed.
        expected: String,
        /// What is there instead.
        found: String,
    },
    /// A JSON file, or the metadata of a GGUF file, has a key that this build cannot work with.
    #[error("{file}: {key}: expected {expected}, found {found}")]
    Config {
        /// The file.
        file: String,
        /// Path of the key inside it.
        key: String,
        /// The accepted values in words.
        expected: String,
        /// The value that is there.
        found: String,
    },
    /// A file of tensors is damaged as a whole.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    File {
        /// The file.
        file: String,
        /// Which part of it.
        what: &'static str,
        /// What a sound file would have.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// One tensor does not fit its file, its scales or its caller.
    #[error("{file}: tensor `{tensor}`: {what}: expected {expected}, found {found}")]
    Tensor {
        /// The file that holds the tensor, or should.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Which property.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A model cannot be had from the hub or its cache.
    #[error("{model}: {what}: expected {expected}, found {found}")]
    Hub {
        /// The hub id with its revision.
        model: String,
        /// The file, or the step.
        what: String,
        /// What is needed, and what to do about it.
        expected: String,
        /// What the hub or the cache has.
        found: String,
    },
    /// A kernel type rejected what was loaded.
    #[error("tensor `{tensor}`: {source}")]
    Kernel {
        /// Name of the tensor.
        tensor: String,
        /// The kernel's own words.
        source: KernelError,
    },
}

impl CheckpointError {
    /// Wraps an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    /// A [`CheckpointError::Config`].
    pub(crate) fn config(
        file: &str,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Config {
            file: file.to_owned(),
            key: key.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// A [`CheckpointError::File`].
    pub(crate) fn file(
        file: &str,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::File { file: file.to_owned(), what, expected: expected.into(), found: found.to_string() }
    }

    /// A [`CheckpointError::Tensor`].
    pub(crate) fn tensor(
        file: &str,
        tensor: &str,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            what,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
