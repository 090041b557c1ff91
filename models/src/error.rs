//! The one error type of the models.

use checkpoint::CheckpointError;
use comm::CommError;
use kernels::{Device, KernelError};

/// Result of building or running a model.
pub type Result<T> = std::result::Result<T, ModelError>;

/// Why a model could not be built or a step could not run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor is missing, has the wrong shape or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An op refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The ranks of a tensor-parallel model did not come together.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// Something of which every rank must have a part is too small for the number of ranks.
    #[error("{what} is {count} and cannot be split over {ranks} ranks: use at most {count}")]
    Ranks {
        /// Key of `config.json`.
        what: &'static str,
        /// Its value.
        count: usize,
        /// Ranks asked for.
        ranks: usize,
    },
    /// The config contradicts itself, or asks for something that no layer here does.
    #[error("config: {key} is {found}, expected {expected}")]
    Config {
        /// Key of `config.json`.
        key: &'static str,
        /// What the layers can do.
        expected: String,
        /// What the config says.
        found: String,
    },
    /// A rounded indexer was asked of a model that has none.
    #[error("an indexer in {name} is what {families} can have; {model_type} has no such indexer")]
    IndexFormat {
        /// What it was to be rounded to.
        name: &'static str,
        /// The families that have one.
        families: &'static str,
        /// The family.
        model_type: String,
    },
    /// A tensor lies on another device than the one the step runs on.
    #[error("{what} lies on {found}, expected {expected}")]
    Device {
        /// Which tensor.
        what: String,
        /// The device of the step or of the load.
        expected: Device,
        /// Where the tensor is.
        found: Device,
    },
    /// The inputs of a step do not belong together.
    #[error("{arg} has {found}, expected {expected}")]
    Step {
        /// Name of the argument.
        arg: &'static str,
        /// What the other arguments demand.
        expected: String,
        /// What came.
        found: String,
    },
}

impl ModelError {
    /// A [`ModelError::Config`].
    pub(crate) fn config(key: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Config { key, expected: expected.into(), found: found.to_string() }
    }

    /// A [`ModelError::Step`].
    pub(crate) fn step(arg: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Step { arg, expected: expected.into(), found: found.to_string() }
    }
}
