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
