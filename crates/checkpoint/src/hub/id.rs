//! The name of a model on a hub: `org/name`, with `@revision` for another than `main` and with `:PICK` for one of several
//! GGUF models.

use std::fmt;
use std::path::PathBuf;

use hf_hub::{Repo, RepoType};

use super::options::HubOptions;
use crate::{CheckpointError, Result};

const DEFAULT_REVISION: &str = "main";

/// A checked hub id: its parts become URLs and cache paths.
#[derive(Debug, Clone)]
pub(crate) struct HubId {
    name: String,
    pub(crate) revision: String,
    /// A quantisation or a file among the repository's GGUF files.
    pub(crate) pick: Option<String>,
}

impl HubId {
    /// Splits and checks `model`.
    pub(crate) fn parse(model: &str) -> Result<Self> {
        let (id, pick) = model.split_once(':').map_or((model, None), |(id, pick)| (id, Some(pick)));
        let (name, revision) = id.split_once('@').unwrap_or((id, DEFAULT_REVISION));
        let sound_name = name.split('/').count() == 2 && is_path(name);
        if !sound_name || !is_path(revision) || !pick.is_none_or(is_path) {
            let expected = "an existing directory, or a hub id org/name or org/name@revision, of GGUF files also \
                            org/name:Q4_K_M or org/name:FILE.gguf";
            return Err(CheckpointError::hub(model, "model", expected, "neither"));
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned(), pick: pick.map(str::to_owned) })
    }

    /// The repository at the revision as it was asked for.
    pub(crate) fn repo(&self) -> Repo {
        self.at(&self.revision)
    }

    /// The repository at `revision`.
    pub(crate) fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, revision.to_owned())
    }

    /// The cache folder of the repository.
    pub(crate) fn folder(&self, options: &HubOptions) -> PathBuf {
        options.cache_dir.join(self.repo().folder_name())
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)?;
        self.pick.iter().try_for_each(|pick| write!(f, ":{pick}"))
    }
}

/// Whether `path` is safe below a folder of the cache.
pub(crate) fn is_path(path: &str) -> bool {
    path.split('/').all(is_segment)
}

/// Letters, digits, `-`, `_` and `.`, but nothing that a path would read as a parent or hidden file.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
