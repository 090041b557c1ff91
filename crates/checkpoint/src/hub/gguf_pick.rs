//! Which of a repository's GGUF files are the model: the only one there is, or the one that `org/name:PICK` means.

use super::id::{HubId, is_path};
use crate::gguf::{is_gguf, model_of, part_names, stem};
use crate::{CheckpointError, Result};

/// Most models that an error lists.
const LISTED: usize = 40;

/// The files, all parts in order, of the model that `id` means among `names`.
///
/// A pick means the file of that name; else the model whose file has it but for folder, extension and number of a part;
/// else the one whose name ends in it behind a `-`, a `.` or a `/`, in any case: `Q4_K_M` means `model-Q4_K_M.gguf`.
/// `place` says where that is.
pub(crate) fn files<'a>(
    id: &HubId,
    place: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>> {
    let mut models: Vec<&str> = names.filter(|name| is_model(name)).collect();
    if let Some(whole) = id.pick.as_deref().and_then(|pick| models.iter().find(|name| **name == pick)) {
        return Ok(part_names(whole));
    }
    models.sort_unstable_by_key(|name| (model_of(name), *name));
    models.dedup_by_key(|name| model_of(name));
    let meant = match &id.pick {
        None => models.clone(),
        Some(pick) => {
            let is_exact = |name: &&str| is_named(stem(name), stem(pick));
            let exact: Vec<&str> = models.iter().copied().filter(is_exact).collect();
            let ends = |name: &&str| ends_in(stem(name), pick);
            if exact.is_empty() { models.iter().copied().filter(ends).collect() } else { exact }
        }
    };
    let list = |names: &[&str]| {
        let namesakes = |name| names.iter().filter(|other| stem(other) == stem(name)).count();
        let shown = |&name| if namesakes(name) > 1 { name } else { stem(name) };
        let shown: Vec<&str> = names.iter().take(LISTED).map(shown).collect();
        format!("{} of them: {}", names.len(), shown.join(", "))
    };
    match (meant.as_slice(), &id.pick) {
        ([one], _) => Ok(part_names(one)),
        ([], Some(pick)) => {
            let expected = format!("one {place} whose name is or ends in {pick}");
            Err(CheckpointError::hub(id, "GGUF models", expected, list(&models)))
        }
        (many, _) => {
            let expected =
                format!("one {place}; choose by the end or the whole of a name, as in org/name:Q4_K_M");
            Err(CheckpointError::hub(id, "GGUF models", expected, list(many)))
        }
    }
}

/// Whether a file is (a part of) a language model: not what turns images into its input (`mmproj`).
pub(crate) fn is_model(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    is_gguf(name) && is_path(name) && !file.starts_with("mmproj")
}

fn is_named(stem: &str, pick: &str) -> bool {
    stem.eq_ignore_ascii_case(pick)
        || stem.rsplit('/').next().is_some_and(|file| file.eq_ignore_ascii_case(pick))
}

fn ends_in(stem: &str, pick: &str) -> bool {
    let Some((head, tail)) = stem.len().checked_sub(pick.len()).and_then(|at| stem.split_at_checked(at))
    else {
        return false;
    };
    tail.eq_ignore_ascii_case(pick) && head.ends_with(['-', '.', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 9] = [
        "README.md",
        "mmproj-model-f16.gguf",
        "model-Q4_K.gguf",
        "model-Q4_K_M.gguf",
        "model-UD-Q4_K_M.gguf",
        "model.Q8_0.gguf",
        "BF16/model-BF16-00001-of-00002.gguf",
        "BF16/model-BF16-00002-of-00002.gguf",
        "../model-Q2_K.gguf",
    ];

    fn picked(pick: &str) -> std::result::Result<Vec<String>, String> {
        let id = HubId::parse(&format!("org/name{pick}")).unwrap();
        files(&id, "there", NAMES.into_iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pick_means_one_model() {
        let bf16 = &["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"][..];
        for (pick, files) in [
            (":q4_k", &["model-Q4_K.gguf"][..]),
            (":Q8_0", &["model.Q8_0.gguf"]),
            (":UD-Q4_K_M", &["model-UD-Q4_K_M.gguf"]),
            (":model-Q4_K_M", &["model-Q4_K_M.gguf"]),
            (":model-Q4_K_M.gguf", &["model-Q4_K_M.gguf"]),
            (":BF16", bf16),
            (":model-BF16", bf16),
            (":BF16/model-BF16-00002-of-00002.gguf", bf16),
        ] {
            assert_eq!(picked(pick).unwrap(), files, "{pick}");
        }
    }

    /// The parts of a model beside the same model in one file.
    #[test]
    fn a_file_and_its_parts_are_two_models() {
        let whole = ["model.gguf"];
        let parts = ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"];
        let names = [parts[1], whole[0], parts[0], "model.1.gguf"];
        let picked = |pick: &str| {
            let id = HubId::parse(&format!("org/name:{pick}")).unwrap();
            files(&id, "there", names.into_iter()).map_err(|error| error.to_string())
        };
        assert_eq!(picked("model.gguf").unwrap(), whole);
        assert_eq!(picked(parts[1]).unwrap(), parts);
        let error = picked("model").unwrap_err();
        assert!(error.contains("2 of them: model.gguf, model-00001-of-00002.gguf"), "{error}");
    }

    #[test]
    fn what_is_not_one_is_listed() {
        let error = picked("").unwrap_err();
        assert!(
            error.contains("org/name:Q4_K_M") && error.contains("5 of them: BF16/model-BF16, "),
            "{error}"
        );
        assert!(!error.contains("mmproj") && !error.contains(".."), "{error}");
        let error = picked(":Q4_K_M").unwrap_err();
        assert!(error.contains("2 of them: model-Q4_K_M, model-UD-Q4_K_M"), "{error}");
        for pick in [":K_M", ":Q3_K", ":odel-Q4_K", ":mmproj-model-f16"] {
            let error = picked(pick).unwrap_err();
            assert!(
                error.contains(&format!("is or ends in {}", &pick[1..])) && error.contains("5 of them"),
                "{error}"
            );
        }
    }
}
