//! `verify_parse_file`: parses every output of a parse file, cut in many ways, and says where the result differs from the file's.
//!
//! A parse file holds texts that models of one generation wrote, with the reasoning, content and tool calls that the generation's reference
//! finds in them. Chunks never matter, so each text is parsed whole, as the file cuts it, character by character, split in two at every
//! place, cut at random places and, where the file has ids and a tokenizer is given, token by token.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{CaseReport, Difference, FileReport, Outcome, text_difference};
use crate::chat::{FunctionCall, Tool};
use crate::detokenizer::SpecialTokens;
use crate::encoding::Generation;
use crate::error::{Error, Result};
use crate::output::ParsedOutput;
use crate::tokenizer::Tokenizer;

/// A file of outputs and what is in them; fields not named here are provenance for people.
#[derive(Debug, Clone, Deserialize)]
pub struct ParseFile {
    /// Name of the generation, as [`Generation::from_name`] takes it.
    pub generation: String,
    /// The cases.
    pub cases: Vec<ParseCase>,
}

/// One output and what is in it.
#[derive(Debug, Clone, Deserialize)]
pub struct ParseCase {
    /// Name of the case.
    pub name: String,
    /// Whether the prompt opened the reasoning block.
    #[serde(default)]
    pub thinking: bool,
    /// The tools that the model was offered.
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// What the model wrote.
    pub text: String,
    /// What is in it.
    pub result: ExpectedOutput,
    /// The text in chunks, by the name of the way it is cut.
    #[serde(default)]
    pub chunkings: BTreeMap<String, Vec<String>>,
    /// The text as ids, where the file's tokenizer is known.
    #[serde(default)]
    pub token_ids: Option<Vec<u32>>,
}

/// The expected output of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct ExpectedOutput {
    /// The reasoning.
    #[serde(default)]
    pub reasoning_content: String,
    /// The answer.
    pub content: String,
    /// The calls; their arguments are compared as JSON where both are JSON.
    #[serde(default)]
    pub tool_calls: Vec<FunctionCall>,
}

/// Which ways of cutting a text are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunkings {
    /// The whole text at once.
    Whole,
    /// Whole, and as the file cuts it.
    Listed,
    /// Those, and character by character, every split in two, and random cuts.
    #[default]
    All,
}

/// Random cuttings of a text.
const RANDOM_CUTTINGS: u64 = 16;

impl ParseFile {
    /// Parses a parse file.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the JSON is not a parse file.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|reason| Error::json("parse file", "a parse file", &reason))
    }
}

/// Parses every output of the file and compares; by ids only where the file has them and a tokenizer is given.
pub fn verify_parse_file(
    file: &ParseFile,
    chunkings: Chunkings,
    tokenizer: Option<&Tokenizer>,
) -> FileReport {
    let generation = Generation::from_name(&file.generation);
    let cases = generation.map(|generation| {
        let verify = |case| verify_case(generation, case, chunkings, tokenizer);
        file.cases.iter().map(verify).collect()
    });
    FileReport {
        generation: file.generation.clone(),
        supported: generation.is_some(),
        cases: cases.unwrap_or_default(),
    }
}

fn verify_case(
    generation: Generation,
    case: &ParseCase,
    chunkings: Chunkings,
    tokenizer: Option<&Tokenizer>,
) -> CaseReport {
    let ids = case.token_ids.as_ref().zip(tokenizer).filter(|_| chunkings == Chunkings::All);
    let by_token = ids.map(|(ids, tokenizer)| ("token ids".to_owned(), decoded(ids, tokenizer)));
    let mut cuttings = cuttings(case, chunkings).chain(by_token);
    let outcome = cuttings.find_map(|(chunking, chunks)| {
        let parser = generation.parser(case.thinking, &case.tools);
        let found = parser.parse(chunks.iter().map(String::as_str));
        let (field, difference) = first_difference(&case.result, &found)?;
        Some(Outcome::OutputDiffers { chunking, field, difference })
    });
    CaseReport {
        name: case.name.clone(),
        outcome: outcome.unwrap_or(Outcome::Pass),
        ids_compared: ids.is_some(),
    }
}

/// The text cut in every way asked for, each with its name.
fn cuttings(case: &ParseCase, chunkings: Chunkings) -> impl Iterator<Item = (String, Vec<String>)> {
    let text = case.text.as_str();
    let whole = std::iter::once(("whole".to_owned(), vec![text.to_owned()]));
    let listed = case
        .chunkings
        .iter()
        .filter(move |_| chunkings != Chunkings::Whole)
        .map(|(name, chunks)| (name.clone(), chunks.clone()));
    let places: Vec<usize> = text.char_indices().map(|(place, _)| place).skip(1).collect();
    let all = (chunkings == Chunkings::All).then(|| {
        let chars = ("every character".to_owned(), cut(text, &places));
        let halves: Vec<_> =
            places.iter().map(|&place| (format!("split at byte {place}"), cut(text, &[place]))).collect();
        let random = (0..RANDOM_CUTTINGS)
            .map(|seed| (format!("random cutting {seed}"), cut(text, &some_of(&places, seed))))
            .collect::<Vec<_>>();
        std::iter::once(chars).chain(halves).chain(random)
    });
    whole.chain(listed).chain(all.into_iter().flatten())
}

fn cut(text: &str, places: &[usize]) -> Vec<String> {
    let starts = std::iter::once(0).chain(places.iter().copied());
    let ends = places.iter().copied().chain(std::iter::once(text.len()));
    starts.zip(ends).map(|(start, end)| text[start..end].to_owned()).collect()
}

/// About one place in `2 + seed % 7`, the same for the same seed everywhere (SplitMix64).
fn some_of(places: &[usize], seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    places.iter().copied().filter(|_| random() % (2 + seed % 7) == 0).collect()
}

fn decoded(ids: &[u32], tokenizer: &Tokenizer) -> Vec<String> {
    let mut detokenizer = tokenizer.detokenizer(SpecialTokens::Skip);
    let mut chunks: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    chunks.push(detokenizer.finish());
    chunks
}

fn first_difference(expected: &ExpectedOutput, found: &ParsedOutput) -> Option<(String, Difference)> {
    let texts = [
        ("reasoning_content", &expected.reasoning_content, &found.reasoning),
        ("content", &expected.content, &found.content),
    ];
    for (field, expected, found) in texts {
        if let Some(difference) = text_difference(expected, found) {
            return Some((field.to_owned(), difference));
        }
    }
    for (index, (expected, found)) in expected.tool_calls.iter().zip(&found.tool_calls).enumerate() {
        if let Some(difference) = text_difference(&expected.name, &found.name) {
            return Some((format!("tool_calls[{index}].name"), difference));
        }
        if let Some(difference) = arguments_difference(&expected.arguments.text(), &found.arguments.text()) {
            return Some((format!("tool_calls[{index}].arguments"), difference));
        }
    }
    let (expected, found) = (expected.tool_calls.len(), found.tool_calls.len());
    let difference =
        Difference { at: expected.min(found), expected: expected.to_string(), found: found.to_string() };
    (expected != found).then_some(("number of tool_calls".to_owned(), difference))
}

fn arguments_difference(expected: &str, found: &str) -> Option<Difference> {
    let json = |text| serde_json::from_str::<Value>(text).ok();
    match (json(expected), json(found)) {
        (Some(a), Some(b)) if a == b => None,
        _ => text_difference(expected, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(result: &str) -> Outcome {
        let json = format!(
            r#"{{"generation": "v31", "cases": [{{"name": "a", "thinking": true, "tools": [], "text": "é</think>b", "result": {result}}}]}}"#
        );
        let file = ParseFile::from_json(&json).unwrap();
        let report = verify_parse_file(&file, Chunkings::All, None);
        assert_eq!(report.cases.len(), 1);
        report.cases[0].outcome.clone()
    }

    #[test]
    fn every_field_is_compared() {
        assert_eq!(verify(r#"{"reasoning_content": "é", "content": "b", "tool_calls": []}"#), Outcome::Pass);
        for (result, wrong) in [
            (r#"{"reasoning_content": "e", "content": "b", "tool_calls": []}"#, "reasoning_content"),
            (r#"{"reasoning_content": "é", "content": "", "tool_calls": []}"#, "content"),
            (
                r#"{"reasoning_content": "é", "content": "b", "tool_calls": [{"name": "f", "arguments": "{}"}]}"#,
                "number of tool_calls",
            ),
        ] {
            let Outcome::OutputDiffers { chunking, field, .. } = verify(result) else { panic!("{result}") };
            assert_eq!((chunking.as_str(), field.as_str()), ("whole", wrong));
        }
    }

    #[test]
    fn a_text_is_cut_in_every_way_without_loss() {
        let case = ParseCase {
            name: String::new(),
            thinking: false,
            tools: Vec::new(),
            text: "añb｜c".to_owned(),
            result: ExpectedOutput {
                reasoning_content: String::new(),
                content: String::new(),
                tool_calls: Vec::new(),
            },
            chunkings: BTreeMap::from([("listed".to_owned(), vec!["a".to_owned(), "ñb｜c".to_owned()])]),
            token_ids: None,
        };
        let all: Vec<_> = cuttings(&case, Chunkings::All).collect();
        assert_eq!(all.len(), 1 + 1 + 1 + 4 + RANDOM_CUTTINGS as usize);
        assert!(all.iter().all(|(_, chunks)| chunks.concat() == case.text));
        assert_eq!(all[2].1.len(), 5);
        assert_eq!(cuttings(&case, Chunkings::Whole).count(), 1);
        assert_eq!(cuttings(&case, Chunkings::Listed).count(), 2);
    }

    #[test]
    fn arguments_are_compared_as_json_where_they_are_json() {
        assert!(arguments_difference(r#"{"a": 1}"#, r#"{"a":1}"#).is_none());
        assert!(arguments_difference(r#"{"a": 1}"#, r#"{"a":2}"#).is_some());
        assert!(arguments_difference(r#"{"a"#, r#"{"a"#).is_none());
        assert!(arguments_difference(r#"{"a"#, r#"{ "a"#).is_some());
    }
}
