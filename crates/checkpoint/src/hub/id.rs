//! The name of a model on a hub: `org/name`, or `org/name@revision`.

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
}

impl HubId {
    /// Splits and checks `model`.
    pub(crate) fn parse(model: &str) -> Result<Self> {
        let (name, revision) = model.split_once('@').unwrap_or((model, DEFAULT_REVISION));
        let sound_name = name.split('/').count() == 2 && name.split('/').all(is_segment);
        if !sound_name || !revision.split('/').all(is_segment) {
            let expected = "an existing directory, or a hub id org/name or org/name@revision";
            return Err(CheckpointError::hub(model, "model", expected, "neither"));
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned() })
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
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// Letters, digits, `-`, `_` and `.`, but nothing that a path would read as a parent or hidden file.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
