//! Which GGUF files make up a model: one, or the parts `model-00001-of-00003.gguf` and so on of a split one.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use crate::shard_index::file_names;
use crate::{CheckpointError, Result};

const EXTENSION: &str = ".gguf";
/// More parts are damage; the largest releases have a few dozen.
const MAX_PARTS: usize = 1 << 12;

/// Directory and names of the files of one model, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) names: Vec<String>,
}

/// The GGUF model that is, or is in, `path`: a file, any part of a split one, or a directory with one model. `None`
/// where there is no such file.
pub(crate) fn find(path: &Path) -> Result<Option<Files>> {
    if !path.is_dir() {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
        if !is_gguf(name) || !path.is_file() {
            return Ok(None);
        }
        let dir = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
        return Ok(Some(Files { names: parts(&dir, name)?, dir }));
    }
    let present = file_names(path)?.into_iter().filter(|name| is_gguf(name));
    // A split model counts once, under its first part or what is there of it.
    let mut models: Vec<(String, String)> = Vec::new();
    for name in present {
        let stem = Part::of(&name).map_or_else(|| name.clone(), |part| part.stem.to_owned());
        if models.last().is_none_or(|(last, _)| *last != stem) {
            models.push((stem, name));
        }
    }
    match models.as_slice() {
        [] => Ok(None),
        [(_, name)] => Ok(Some(Files { names: parts(path, name)?, dir: path.to_path_buf() })),
        many => {
            let names: Vec<_> = many.iter().take(8).map(|(_, name)| name.as_str()).collect();
            let expected = "one GGUF model; name the file to choose one of several";
            let dir = path.display().to_string();
            Err(CheckpointError::file(&dir, "directory", expected, names.join(", ")))
        }
    }
}

pub(crate) fn is_gguf(name: &str) -> bool {
    name.len() > EXTENSION.len() && name.ends_with(EXTENSION)
}

/// `name` without its extension and without the number of a part.
pub(crate) fn stem(name: &str) -> &str {
    let whole = name.strip_suffix(EXTENSION).unwrap_or(name);
    Part::of(name).map_or(whole, |part| part.stem)
}

/// What all parts of one model have in common: the [`stem`], and how many they are; `None` of a whole file.
pub(crate) fn model_of(name: &str) -> (&str, Option<usize>) {
    (stem(name), Part::of(name).map(|part| part.count))
}

/// The names of all parts of the model that `name` belongs to; itself if it is whole.
pub(crate) fn part_names(name: &str) -> Vec<String> {
    let Some(Part { stem, count, .. }) = Part::of(name) else { return vec![name.to_owned()] };
    (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}{EXTENSION}")).collect()
}

/// [`part_names`] that all are in `dir`.
fn parts(dir: &Path, name: &str) -> Result<Vec<String>> {
    let names = part_names(name);
    match names.iter().find(|name| !dir.join(name).is_file()) {
        None => Ok(names),
        Some(missing) => Err(CheckpointError::MissingFile {
            file: missing.clone(),
            expected: format!("{} parts, as the name {name} says", names.len()),
            found: "no such file".to_owned(),
        }),
    }
}

/// What the name of a part says.
struct Part<'a> {
    stem: &'a str,
    count: usize,
}

impl<'a> Part<'a> {
    /// `stem-00002-of-00003.gguf`; `None` for any other name.
    fn of(name: &'a str) -> Option<Self> {
        let number = |digits: &str| digits.parse::<usize>().ok().filter(|_| digits.len() == 5);
        let (head, count) = name.strip_suffix(EXTENSION)?.rsplit_once("-of-")?;
        let (stem, index) = head.rsplit_once('-')?;
        let (index, count) = (number(index)?, number(count)?);
        ((1..=count).contains(&index) && count <= MAX_PARTS).then_some(Part { stem, count })
    }
}

/// Part `index` of `count` must say of itself that it is that.
pub(super) fn check_part(metadata: &Metadata, index: usize, count: usize) -> Result<()> {
    let said = metadata.unsigned("split.count")?;
    if said.unwrap_or(0).max(1) != count as u64 {
        return Err(metadata.error("split.count", format!("{count}, as the file names say")));
    }
    if count > 1 && metadata.unsigned("split.no")? != Some(index as u64) {
        return Err(metadata.error("split.no", format!("{index}, as the file name says")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_split_model_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| std::fs::write(dir.path().join(name), b"").unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
        assert_eq!(find(&dir.path().join("model.gguf")).unwrap(), None, "no such file");
        touch("m-00002-of-00002.gguf");
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("m-00001-of-00002.gguf is missing: expected 2 parts"), "{error}");
        touch("m-00001-of-00002.gguf");
        let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(str::to_owned).to_vec();
        assert_eq!(find(dir.path()).unwrap().unwrap().names, names);
        assert_eq!(find(&dir.path().join(&names[1])).unwrap().unwrap().names, names, "any part will do");
        touch("other-1-of-2.gguf");
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("one GGUF model") && error.contains("other-1-of-2.gguf"), "{error}");
        assert_eq!(find(&dir.path().join("other-1-of-2.gguf")).unwrap().unwrap().names.len(), 1);
    }
}
