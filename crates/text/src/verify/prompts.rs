//! `verify_prompt_file`: renders every case of a prompt file and says where the result differs from the file's expectation.
//!
//! A prompt file holds conversations of one generation with the prompts, and where known the ids, that the generation's reference gives.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::{CaseReport, FileReport, Outcome, id_difference, text_difference};
use crate::chat::ChatRequest;
use crate::encoding::{Generation, fim};
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// A file of conversations and expected prompts; fields not named here are provenance for people.
#[derive(Debug, Clone, Deserialize)]
pub struct PromptFile {
    /// Name of the generation, as [`Generation::from_name`] takes it, or `fim`.
    pub generation: String,
    /// The cases.
    pub cases: Vec<PromptCase>,
}

/// One conversation, or one prefix and suffix, and what comes out.
#[derive(Debug, Clone, Deserialize)]
pub struct PromptCase {
    /// Name of the case.
    pub name: String,
    /// The conversation in the OpenAI format and how to render it; read when the generation is known.
    #[serde(flatten)]
    pub input: serde_json::Map<String, Value>,
    /// The expected prompt.
    pub prompt: String,
    /// The expected ids, where the file's tokenizer is known.
    #[serde(default)]
    pub ids: Option<Vec<u32>>,
    /// Where the ids come from, if not from the generation's own tokenizer and encoder.
    #[serde(default)]
    pub ids_from: Option<String>,
}

impl PromptFile {
    /// Parses a prompt file.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the JSON is not a prompt file.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|reason| Error::json("prompt file", "a prompt file", &reason))
    }
}

/// Renders every case of the file with the built-in encoders and compares; ids only where the file has them and a tokenizer is given.
pub fn verify_prompt_file(file: &PromptFile, tokenizer: Option<&Tokenizer>) -> FileReport {
    let generation = Generation::from_name(&file.generation);
    let supported = generation.is_some() || file.generation == fim::NAME;
    let cases = if supported {
        file.cases.iter().map(|case| verify_case(generation, case, tokenizer)).collect()
    } else {
        Vec::new()
    };
    FileReport { generation: file.generation.clone(), supported, cases }
}

fn verify_case(
    generation: Option<Generation>,
    case: &PromptCase,
    tokenizer: Option<&Tokenizer>,
) -> CaseReport {
    let mut ids_compared = false;
    let outcome = compare(generation, case, tokenizer, &mut ids_compared);
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed { error: error.to_string() });
    CaseReport { name: case.name.clone(), outcome, ids_compared }
}

fn compare(
    generation: Option<Generation>,
    case: &PromptCase,
    tokenizer: Option<&Tokenizer>,
    ids_compared: &mut bool,
) -> Result<Outcome> {
    let prompt = render(generation, case)?;
    if let Some(difference) = text_difference(&case.prompt, &prompt.to_string()) {
        return Ok(Outcome::PromptDiffers(difference));
    }
    if let (Some(expected), Some(tokenizer)) = (&case.ids, tokenizer) {
        let ids = match tokenizer.encode_prompt(&prompt) {
            // Made with another tokenizer than this one: there is nothing to compare.
            Err(Error::UnknownControlToken { .. }) if case.ids_from.is_some() => return Ok(Outcome::Pass),
            ids => ids?,
        };
        *ids_compared = true;
        if let Some(difference) = id_difference(expected, &ids) {
            return Ok(Outcome::IdsDiffer(difference));
        }
    }
    Ok(Outcome::Pass)
}

fn render(generation: Option<Generation>, case: &PromptCase) -> Result<Prompt> {
    let Some(generation) = generation else {
        let field = |name: &str| case.input.get(name).and_then(Value::as_str);
        return match (field("prefix"), field("suffix")) {
            (Some(prefix), Some(suffix)) => Ok(fim::encode(prefix, suffix)),
            _ => Err(Error::Malformed {
                file: "prompt file".to_owned(),
                field: format!("{}.prefix, suffix", case.name),
                expected: "two strings",
                found: "nothing".to_owned(),
            }),
        };
    };
    generation.encode(&request(case)?)
}

/// The request of a case. A field that is null was not passed to the reference.
fn request(case: &PromptCase) -> Result<ChatRequest> {
    let fields: serde_json::Map<String, Value> = case
        .input
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    serde_json::from_value(Value::Object(fields)).map_err(|reason| Error::Malformed {
        file: "prompt file".to_owned(),
        field: case.name.clone(),
        expected: "a chat request",
        found: reason.to_string(),
    })
}

/// Names of the formats that [`verify_prompt_file`] knows, sorted.
pub fn supported_formats() -> BTreeSet<&'static str> {
    Generation::ALL.iter().map(|generation| generation.name()).chain([fim::NAME]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(json: &str) -> FileReport {
        verify_prompt_file(&PromptFile::from_json(json).unwrap(), None)
    }

    #[test]
    fn a_difference_is_shown_with_its_place() {
        let report = verify(
            r#"{"generation": "v2", "cases": [{"name": "a", "messages": [{"role": "user", "content": "hi"}], "prompt": "<｜begin▁of▁sentence｜>User: ho"}]}"#,
        );
        assert!(!report.passed());
        let Outcome::PromptDiffers(difference) = &report.cases[0].outcome else { panic!("{report:?}") };
        assert_eq!(difference.at, 28);
        assert!(difference.expected.ends_with("User: ho") && difference.found.contains("User: hi"));
    }

    #[test]
    fn ids_of_another_tokenizer_are_left_out_and_others_are_not() {
        let ids = |ids_from: &str| {
            let json = format!(
                r#"{{"generation": "v3", "cases": [{{"name": "a", "messages": [], "add_generation_prompt": false,
                    "prompt": "<｜begin▁of▁sentence｜>", "ids": [0]{ids_from}}}]}}"#
            );
            let model = r#"{"type": "BPE", "vocab": {"a": 0}, "merges": []}"#;
            let tokenizer = format!(
                r#"{{"version": "1.0", "model": {model}, "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}}}}"#
            );
            let tokenizer = Tokenizer::from_bytes(tokenizer.as_bytes(), None).unwrap();
            let report = verify_prompt_file(&PromptFile::from_json(&json).unwrap(), Some(&tokenizer));
            (report.passed(), report.cases[0].ids_compared)
        };
        assert_eq!(ids(r#", "ids_from": "elsewhere""#), (true, false));
        assert_eq!(ids(""), (false, false));
    }

    #[test]
    fn an_unknown_generation_is_unsupported_whatever_its_cases() {
        let report = verify(
            r#"{"generation": "v99", "cases": [{"name": "a", "messages": [{"role": 7}], "prompt": ""}]}"#,
        );
        assert!(!report.supported && !report.passed() && report.cases.is_empty());
    }

    #[test]
    fn a_case_that_cannot_be_read_fails_alone() {
        let report = verify(
            r#"{"generation": "v2", "cases": [{"name": "bad", "messages": [{"role": "user", "content": 3}], "prompt": ""},
                {"name": "good", "messages": [], "add_generation_prompt": false, "prompt": "<｜begin▁of▁sentence｜>"}]}"#,
        );
        assert!(matches!(report.cases[0].outcome, Outcome::Failed { .. }));
        assert_eq!(report.cases[1].outcome, Outcome::Pass);
        assert!(PromptFile::from_json(r#"{"cases": []}"#).is_err());
    }
}
