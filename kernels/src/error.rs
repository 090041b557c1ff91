//! The one error type of the kernels: which op, which argument, what was expected and what was found.

use crate::DType;

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, KernelError>;

/// A call that an op cannot carry out. Nothing has been written when one is returned.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum KernelError {
    /// A dimension differs from what the op, or another argument, demands.
    #[error("{op}: {arg} has shape {found:?}, expected {expected}")]
    Shape {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// The shape in words, with the sizes that the other arguments bind.
        expected: String,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// A dtype that the op has no kernel for.
    #[error("{op}: {arg} is {found}, expected {expected}")]
    DType {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// The accepted dtypes in words.
        expected: &'static str,
        /// The dtype that came.
        found: DType,
    },
    /// A value out of the range that the op can index.
    #[error("{op}: {arg} holds {found}, expected {expected}")]
    Value {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// The accepted range in words.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// An in-place op on a tensor whose storage someone else still holds.
    #[error("{op}: {arg} shares its storage with another tensor and cannot be written in place")]
    Aliased {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
    },
    /// A tensor on another device than the rest of the call.
    #[error("{op}: {arg} lives on {found}, expected {expected}")]
    Placement {
        /// Name of the op.
        op: &'static str,
        /// Name of the argument.
        arg: &'static str,
        /// Where it should be.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// A device that cannot be used at all.
    #[error("{device} is not available: {reason}")]
    Unavailable {
        /// The device that was asked for.
        device: String,
        /// What is missing, and what to do about it.
        reason: String,
    },
    /// Device memory is spent.
    #[error(
        "{device} is out of memory: {requested} bytes asked for, {free} of {total} free; \
         shorten the context, lower the number of sequences or spread the model over more GPUs"
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes of the failed allocation.
        requested: usize,
        /// Bytes that were free.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// The driver refused a call, or a kernel failed.
    #[error("{op} failed on {device}: {message}")]
    Cuda {
        /// What was being done.
        op: String,
        /// The device.
        device: String,
        /// The driver's words.
        message: String,
    },
}

impl KernelError {
    /// A [`KernelError::Shape`].
    pub fn shape(op: &'static str, arg: &'static str, expected: impl Into<String>, found: &[usize]) -> Self {
        Self::Shape { op, arg, expected: expected.into(), found: found.to_vec() }
    }

    /// A [`KernelError::Value`].
    pub fn value(
        op: &'static str,
        arg: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Value { op, arg, expected: expected.into(), found: found.to_string() }
    }
}
