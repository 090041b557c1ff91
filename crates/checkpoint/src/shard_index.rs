//! Which safetensors files make up a model directory: `model.safetensors` if it is there, else what
//! `model.safetensors.index.json` lists, else every safetensors file. The order is upstream's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Component, Path};

use serde_json::Value;

use crate::config::document;
use crate::{CheckpointError, Result};

/// Name of the only file of a model that is not sharded.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// Name of the index file.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The files of a checkpoint, and where the index places each tensor.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    /// File names, sorted.
    pub(crate) files: Vec<String>,
    /// Tensor name to file name; empty without an index.
    pub(crate) weight_map: BTreeMap<String, String>,
}

/// Finds the safetensors files of `dir`.
pub(crate) fn find(dir: &Path) -> Result<ShardIndex> {
    if dir.join(SINGLE_FILE).is_file() {
        return Ok(ShardIndex { files: vec![SINGLE_FILE.to_owned()], weight_map: BTreeMap::new() });
    }
    let path = dir.join(INDEX_FILE);
    if path.exists() {
        let bytes = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        return from_index(&bytes, dir);
    }
    let present = file_names(dir)?;
    let files: Vec<_> = present.iter().filter(|name| is_safetensors(name)).cloned().collect();
    if files.is_empty() {
        let listed: Vec<_> = present.iter().take(8).cloned().collect();
        let found = if listed.is_empty() { "an empty directory".to_owned() } else { listed.join(", ") };
        return Err(CheckpointError::MissingFile {
            file: dir.join(SINGLE_FILE).display().to_string(),
            expected: "at least one .safetensors file (pickled .bin and .pt files are not read)".to_owned(),
            found,
        });
    }
    check_numbered(&files)?;
    Ok(ShardIndex { files, weight_map: BTreeMap::new() })
}

fn from_index(bytes: &[u8], dir: &Path) -> Result<ShardIndex> {
    let weight_map = weight_map(bytes)?;
    let files = distinct_files(&weight_map);
    for file in &files {
        if !dir.join(file).is_file() {
            let tensors = weight_map.values().filter(|name| *name == file).count();
            return Err(CheckpointError::MissingFile {
                file: file.clone(),
                expected: format!("a shard with {tensors} tensors, as {INDEX_FILE} says"),
                found: "no such file".to_owned(),
            });
        }
    }
    Ok(ShardIndex { files, weight_map })
}

/// The files that the index in `bytes` names, sorted, whether they exist or not.
pub(crate) fn file_names_of(bytes: &[u8]) -> Result<Vec<String>> {
    Ok(distinct_files(&weight_map(bytes)?))
}

fn distinct_files(weight_map: &BTreeMap<String, String>) -> Vec<String> {
    weight_map.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn weight_map(bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let value = document(bytes, INDEX_FILE)?;
    let Some(Value::Object(map)) = value.get("weight_map") else {
        let found = value.get("weight_map").map_or("nothing", |_| "another type");
        return Err(CheckpointError::config(INDEX_FILE, "weight_map", "an object of file names", found));
    };
    let mut weight_map = BTreeMap::new();
    for (tensor, file) in map {
        let expected = "the name of a .safetensors file in this directory";
        let name =
            file.as_str().filter(|name| is_plain_name(name) && is_safetensors(name)).ok_or_else(|| {
                CheckpointError::config(INDEX_FILE, format!("weight_map.{tensor}"), expected, file)
            })?;
        weight_map.insert(tensor.clone(), name.to_owned());
    }
    if weight_map.is_empty() {
        return Err(CheckpointError::config(INDEX_FILE, "weight_map", "at least one tensor", "none"));
    }
    Ok(weight_map)
}

/// One path component that is not `..`: an index must not reach outside its directory.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn is_safetensors(name: &str) -> bool {
    Path::new(name).extension() == Some(OsStr::new("safetensors"))
}

pub(crate) fn file_names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(CheckpointError::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Files named `x-00001-of-00003.safetensors` must be complete even if nobody wrote an index.
fn check_numbered(files: &[String]) -> Result<()> {
    for file in files {
        let stem = file.trim_end_matches(".safetensors");
        let Some((head, total)) = stem.rsplit_once("-of-") else { continue };
        let Some((prefix, number)) = head.rsplit_once('-') else { continue };
        let (Ok(count), Ok(_)) = (total.parse::<usize>(), number.parse::<usize>()) else { continue };
        let width = number.len();
        let present = |n: usize| files.contains(&format!("{prefix}-{n:0width$}-of-{total}.safetensors"));
        if let Some(missing) = (1..=count).take(files.len() + 1).find(|&n| !present(n)) {
            return Err(CheckpointError::MissingFile {
                file: format!("{prefix}-{missing:0width$}-of-{total}.safetensors"),
                expected: format!("{count} shards, as the name {file} says"),
                found: "no such file".to_owned(),
            });
        }
    }
    Ok(())
}
