//! The CUDA compiler, for build scripts and for the tool that holds its output to a budget: both must compile the same
//! sources with the same flags, so what is checked is what ships.
//!
//! [`Toolkit`] finds nvcc and refuses one that is too old; [`Compiler`] turns a `.cu` file into PTX, machine code for
//! every [`Arch`] and one embedded image, once for the same sources, headers, flags and compiler. Nothing here needs a
//! GPU or a driver.

mod compile;
mod includes;
mod toolkit;

pub use compile::{Arch, Compiler, Object, in_parallel, sources};
pub use includes::closure;
pub use toolkit::{OLDEST, Search, Toolkit, Version};

/// What can go wrong between a source and its machine code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable compiler; the text says where it was looked for, what was found and what to do.
    #[error("{0}")]
    NoToolkit(String),
    /// A tool refused its input.
    #[error("{command}\n{message}")]
    Tool {
        /// The command line.
        command: String,
        /// What the tool said.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.display().to_string(), source }
    }
}
