//! What a repository holds, and which of it a model needs.

use serde::Deserialize;

use super::gguf_pick;
use super::id::HubId;
use crate::shard_index::{INDEX_FILE, SINGLE_FILE};
use crate::{CheckpointError, Result};

/// One commit of a repository.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit that the asked revision means now.
    pub(crate) sha: String,
    siblings: Vec<RemoteFile>,
}

/// One file of a commit.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RemoteFile {
    /// Path in the repository.
    #[serde(rename = "rfilename")]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
    #[serde(default, rename = "blobId")]
    blob_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    sha256: String,
}

impl RemoteFile {
    /// The hub's checksum; only large files have one.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.lfs.as_ref().map(|lfs| lfs.sha256.as_str())
    }

    /// The name of its blob in the cache.
    pub(crate) fn etag(&self) -> Option<&str> {
        self.sha256()
            .or(self.blob_id.as_deref())
            .filter(|etag| etag.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

impl Listing {
    /// Reads the hub's answer.
    pub(crate) fn from_json(json: &str, id: &HubId) -> Result<Self> {
        let expected = "a JSON listing with a commit and files";
        let listing: Self = serde_json::from_str(json)
            .map_err(|error| CheckpointError::hub(id, "listing", expected, error))?;
        // The commit becomes a path of the cache.
        if listing.sha.is_empty() || !listing.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(CheckpointError::hub(id, "listing", "a hexadecimal commit", &listing.sha));
        }
        Ok(listing)
    }

    /// Config, tokenizer, template and index files: everything a model needs but the weights.
    pub(crate) fn small_files(&self) -> Vec<&RemoteFile> {
        self.siblings.iter().filter(|file| is_small_file(&file.name)).collect()
    }

    /// Whether the weights are in more than one file, listed in an index.
    pub(crate) fn is_indexed(&self) -> bool {
        self.find(SINGLE_FILE).is_none() && self.find(INDEX_FILE).is_some()
    }

    /// The files of the GGUF model that `id` picks, or of the only one where no pick and no safetensors are.
    pub(crate) fn gguf(&self, id: &HubId) -> Result<Option<Vec<&RemoteFile>>> {
        let names = || self.siblings.iter().map(|file| file.name.as_str());
        let has_safetensors = self.is_indexed() || names().any(|name| is_plain(name) && is_safetensors(name));
        if id.pick.is_none() && (has_safetensors || !names().any(gguf_pick::is_model)) {
            return Ok(None);
        }
        let missing = |name: &String| {
            CheckpointError::hub(
                id,
                "GGUF model",
                format!("the part {name}, which the others name"),
                "no such file",
            )
        };
        let files = gguf_pick::files(id, "in the repository", names())?;
        files.iter().map(|name| self.find(name).ok_or_else(|| missing(name))).collect::<Result<_>>().map(Some)
    }

    /// The weights of a repository without an index: `model.safetensors`, else all safetensors files.
    pub(crate) fn weights(&self, id: &HubId) -> Result<Vec<&RemoteFile>> {
        if let Some(single) = self.find(SINGLE_FILE) {
            return Ok(vec![single]);
        }
        let weights: Vec<_> =
            self.siblings.iter().filter(|file| is_plain(&file.name) && is_safetensors(&file.name)).collect();
        if !weights.is_empty() {
            return Ok(weights);
        }
        let pickles: Vec<_> =
            self.siblings.iter().map(|file| file.name.as_str()).filter(|name| is_pickle(name)).collect();
        let found = match pickles.as_slice() {
            [] => format!("none among {} files", self.siblings.len()),
            [first, ..] => {
                format!(
                    "only {} pickle files such as {first}, which can run code and are not read",
                    pickles.len()
                )
            }
        };
        Err(CheckpointError::hub(id, "weights", "at least one .safetensors or .gguf file", found))
    }

    /// The shards that an index names.
    pub(crate) fn shards(&self, names: &[String], id: &HubId) -> Result<Vec<&RemoteFile>> {
        let missing = |name: &String| {
            CheckpointError::hub(id, INDEX_FILE, format!("the shard {name}, which it names"), "no such file")
        };
        names.iter().map(|name| self.find(name).ok_or_else(|| missing(name))).collect()
    }

    fn find(&self, name: &str) -> Option<&RemoteFile> {
        self.siblings.iter().find(|file| file.name == name)
    }
}

fn is_small_file(name: &str) -> bool {
    const EXACT: [&str; 8] = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        INDEX_FILE,
    ];
    let tokenizer = name.starts_with("tokenizer") && name.ends_with(".json");
    let template = name.starts_with("chat_template.");
    is_plain(name) && (EXACT.contains(&name) || tokenizer || (template && !is_pickle(name)))
}

/// Only the top folder is a model; subfolders hold code, originals and examples.
fn is_plain(name: &str) -> bool {
    !name.contains(['/', '\\']) && !name.starts_with('.')
}

fn is_safetensors(name: &str) -> bool {
    name.ends_with(".safetensors")
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".pkl", ".ckpt"].iter().any(|extension| name.ends_with(extension))
}
