//! A model argument becomes a local path: a path as it is, a hub id by download into the Hugging Face cache.
//!
//! `hf-hub` speaks the protocol, resumes cut files and keeps the cache layout that other tools share. Around it stand
//! what it lacks: one commit for all files of a model, the choice of files (weights as safetensors or one of the GGUF
//! models, never pickles or code), SHA-256 checks, an offline mode that says what is missing, and errors that say what to do.

mod download;
mod gguf_pick;
mod id;
mod listing;
mod offline;
mod options;

use std::path::{Path, PathBuf};

pub use download::DownloadProgress;
pub use options::HubOptions;

use crate::{CheckpointError, Result};
use id::HubId;

/// The directory or GGUF file of `model`, which is a local directory or a hub id `org/name` or `org/name@revision`. Of a
/// repository of several GGUF models `org/name:PICK` is one, by the end of its name (`:Q4_K_M`) or the whole; of a split
/// one the first part is returned. Files that are not in the cache yet are downloaded; `progress` hears of every chunk.
///
/// # Errors
/// [`CheckpointError::Hub`] for an unknown model, refused access, damaged downloads, repositories without weights
/// or with several GGUF models and no pick, and, offline, for files that are not in the cache; [`CheckpointError::Io`] for the local disk.
pub fn resolve(
    model: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(&DownloadProgress),
) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let id = HubId::parse(model)?;
    if options.offline {
        return offline::snapshot(&id, options);
    }
    download::snapshot(&id, options, progress)
}

impl CheckpointError {
    /// A [`CheckpointError::Hub`].
    pub(crate) fn hub(
        model: impl ToString,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Hub {
            model: model.to_string(),
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
