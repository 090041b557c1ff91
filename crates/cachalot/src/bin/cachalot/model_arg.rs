//! What a MODEL argument means, and how a model is loaded with progress on the terminal.

use std::path::Path;

use anyhow::bail;
use cachalot::{HubOptions, LanguageModel, LoadOptions, ModelSource};

use crate::progress::ProgressDisplay;

/// The model that an argument names: nothing is the demo model, a directory or a GGUF file is itself, `org/name` is a hub
/// id.
pub(crate) fn source(model: Option<&str>) -> anyhow::Result<ModelSource> {
    let Some(model) = model else {
        return Ok(ModelSource::Embedded);
    };
    let path = Path::new(model);
    if path.is_dir() || is_gguf_file(path) {
        return Ok(ModelSource::Path(path.to_path_buf()));
    }
    if path.exists() {
        bail!("{model} is a file; a model is a directory, a .gguf file or a hub id (org/name)");
    }
    if is_hub_id(model) {
        return Ok(ModelSource::Hub { id: model.to_owned(), options: hub_options() });
    }
    bail!("no model {model}: there is no such directory, and a hub id has the form org/name")
}

/// Whether a lone argument of `run` names a model rather than being the prompt.
pub(crate) fn names_a_model(argument: &str) -> bool {
    let is_path = ["./", "../", "/"].iter().any(|start| argument.starts_with(start));
    Path::new(argument).is_dir()
        || is_gguf_file(Path::new(argument))
        || is_hub_id(argument)
        || (is_path && !argument.contains(char::is_whitespace))
}

fn is_gguf_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf") && path.is_file()
}

/// `org/name` or `org/name@revision`, with `:PICK` or without, in the characters that hubs allow.
fn is_hub_id(text: &str) -> bool {
    let (text, pick) = text.split_once(':').map_or((text, None), |(text, pick)| (text, Some(pick)));
    let (id, revision) = text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)));
    let is_name = |name: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !name.is_empty() && name.bytes().all(allowed) && !name.starts_with('.') && !name.ends_with('.')
    };
    let is_id = id.split_once('/').is_some_and(|(org, name)| is_name(org) && is_name(name));
    // A fraction such as 3/4 or a date such as 1/2 is a prompt: somebody's name has a letter in it.
    let has_text =
        |part: Option<&str>| part.is_none_or(|part| !part.is_empty() && !part.contains(char::is_whitespace));
    is_id && id.contains(|c: char| c.is_ascii_alphabetic()) && has_text(revision) && has_text(pick)
}

/// The hub and the cache that the environment names, as other tools read it.
pub(crate) fn hub_options() -> HubOptions {
    HubOptions::from_env_vars(|name| std::env::var(name).ok())
}

/// Loads a model with a progress bar where stderr is a terminal, and says what the model ignored.
pub(crate) fn load(source: ModelSource, options: LoadOptions) -> anyhow::Result<LanguageModel> {
    let mut display = ProgressDisplay::new();
    let model = LanguageModel::load_with_progress(source, options, &mut |step| display.show(&step))?;
    display.clear();
    if let [first, others @ ..] = model.unknown_tensors() {
        display.warn(&format!(
            "the checkpoint has {} tensors that this build does not use (such as {first}); answers ignore them",
            others.len() + 1
        ));
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_argument_is_a_model_or_a_prompt() {
        for model in [
            "deepseek-ai/DeepSeek-V3",
            "a/b@main",
            "a/b:Q4_K_M",
            "a/b@main:Q8_0/m.gguf",
            "/nowhere/model",
            "./nowhere",
            "../nowhere",
            "src",
        ] {
            assert!(names_a_model(model), "{model}");
        }
        for prompt in [
            "What is 1/2?",
            "3/4",
            "1/2",
            "hello",
            "and/or or not",
            "a/b/c",
            "/ is the root",
            "What is 128 + 256?",
            "",
            "a/b@",
            "a/b:",
            "and/or: which",
            "/b",
        ] {
            assert!(prompt == "/b" || !names_a_model(prompt), "{prompt}");
        }
    }
}
