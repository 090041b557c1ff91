//! The one error type of the collectives: which ranks, which calls, and what became of them.

use std::fmt;
use std::time::Duration;

use kernels::{DType, KernelError};

/// Result of a collective.
pub type Result<T> = std::result::Result<T, CommError>;

/// What a rank asked for, as far as all ranks must ask for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the collective.
    pub op: &'static str,
    /// Dtype of the tensor; none for a barrier.
    pub dtype: Option<DType>,
    /// The dimensions that agree between ranks.
    pub shape: Vec<usize>,
    /// The list of sizes (widths, rows) or the root.
    pub sizes: Vec<usize>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        if let Some(dtype) = self.dtype {
            write!(f, " of {dtype} {:?}", self.shape)?;
        }
        if !self.sizes.is_empty() {
            write!(f, " with {:?}", self.sizes)?;
        }
        Ok(())
    }
}

/// Why a collective ended without a result. The group is dead after any of these.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CommError {
    /// A rank gave up, or failed in a call of its own.
    #[error("rank {rank} gave up: {reason}")]
    Aborted {
        /// The rank that gave up.
        rank: usize,
        /// In its own words.
        reason: String,
    },
    /// A rank dropped its communicator while others needed it.
    #[error("rank {rank} {}", if *panicked { "panicked" } else { "left the group" })]
    Left {
        /// The rank that is gone.
        rank: usize,
        /// Whether a panic took it.
        panicked: bool,
    },
    /// Ranks did not arrive within the deadline.
    #[error("{op}: ranks {missing:?} did not arrive within {deadline:?}")]
    Late {
        /// The collective that was waiting.
        op: &'static str,
        /// The ranks that had not called it.
        missing: Vec<usize>,
        /// The group's deadline.
        deadline: Duration,
    },
    /// Two ranks met with different calls.
    #[error("rank {rank} calls {call}, but rank {other_rank} calls {other_call}")]
    Mismatch {
        /// The rank that arrived later.
        rank: usize,
        /// Its call.
        call: Box<Call>,
        /// A rank that was there before.
        other_rank: usize,
        /// The call of that one.
        other_call: Box<Call>,
    },
    /// Collectives that were queued did not end within the deadline.
    #[error("the collectives of rank {rank} did not end within {deadline:?}{}", laggards(behind))]
    Stalled {
        /// The rank that waited.
        rank: usize,
        /// Ranks that had called fewer collectives.
        behind: Vec<usize>,
        /// The group's deadline.
        deadline: Duration,
    },
    /// A tensor or a list of sizes is not what the collective takes, or the rank's device failed.
    #[error("rank {rank}: {source}")]
    Failed {
        /// The rank with the bad argument or the bad device.
        rank: usize,
        /// What is wrong with it.
        source: KernelError,
    },
    /// There is no way between these ranks.
    #[error("{reason}")]
    Transport {
        /// What is missing, and what to do about it.
        reason: String,
    },
}

fn laggards(behind: &[usize]) -> String {
    if behind.is_empty() { String::new() } else { format!("; ranks {behind:?} had called fewer") }
}
