//! The cache alone: a snapshot that an earlier download left, or an error that says what is missing.

use std::path::{Path, PathBuf};

use super::gguf_pick;
use super::id::HubId;
use super::options::HubOptions;
use crate::{CheckpointError, Result, shard_index};

/// The complete snapshot of `id` in the cache.
pub(crate) fn snapshot(id: &HubId, options: &HubOptions) -> Result<PathBuf> {
    let folder = id.folder(options);
    let reference = folder.join("refs").join(&id.revision);
    // A revision without a ref file may be a commit itself.
    let commit =
        std::fs::read_to_string(reference).map_or_else(|_| id.revision.clone(), |sha| sha.trim().to_owned());
    let snapshot = folder.join("snapshots").join(&commit);
    let missing = |what: String, found: String| {
        let expected = format!(
            "{what} in the cache {}, because offline mode forbids downloads",
            options.cache_dir.display()
        );
        CheckpointError::hub(id, "offline", expected, found)
    };
    if !snapshot.is_dir() {
        return Err(missing("the model".to_owned(), "no snapshot of this revision".to_owned()));
    }
    let gguf = gguf_files(&snapshot)?;
    if id.pick.is_some() || (!gguf.is_empty() && !snapshot.join("config.json").is_file()) {
        let files = gguf_pick::files(id, "in the cache", gguf.iter().map(String::as_str))?;
        if let Some(file) = files.iter().find(|file| !snapshot.join(file).is_file()) {
            return Err(missing(file.clone(), "only other parts of the model".to_owned()));
        }
        return match unverified(&folder, &files) {
            None => Ok(files.first().map_or_else(|| snapshot.clone(), |first| snapshot.join(first))),
            Some(file) => Err(missing(file, "a download that was cut off before its check".to_owned())),
        };
    }
    if !snapshot.join("config.json").is_file() {
        return Err(missing("config.json".to_owned(), "a snapshot without it".to_owned()));
    }
    match shard_index::find(&snapshot) {
        Ok(index) => match unverified(&folder, &index.files) {
            None => Ok(snapshot),
            Some(file) => Err(missing(file, "a download that was cut off before its check".to_owned())),
        },
        Err(CheckpointError::MissingFile { file, found, .. }) => Err(missing(file, found)),
        Err(other) => Err(other),
    }
}

/// The GGUF files of a snapshot and of the folders in it, as the hub names them.
fn gguf_files(snapshot: &Path) -> Result<Vec<String>> {
    let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        let place = snapshot.join(&folder);
        for entry in std::fs::read_dir(&place).map_err(CheckpointError::io("list", &place))? {
            let entry = entry.map_err(CheckpointError::io("list", &place))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = format!("{folder}{name}");
            // Files are links to where their content is; a linked folder is nobody's that we know.
            let kind = entry.file_type().map_err(CheckpointError::io("look at", &entry.path()))?;
            if kind.is_dir() {
                folders.push(name + "/");
            } else if gguf_pick::is_model(&name) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

/// A file whose download began but whose checksum was never compared.
fn unverified(folder: &Path, files: &[String]) -> Option<String> {
    files.iter().find(|file| marker(folder, file).exists()).cloned()
}

/// Exists from before a file is downloaded until its checksum has been compared, so that a killed process does not
/// leave an unchecked file that looks like a checked one.
pub(crate) fn marker(folder: &Path, file: &str) -> PathBuf {
    folder.join("unverified").join(file)
}
