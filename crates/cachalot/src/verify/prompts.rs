//! [`verify_prompts`]: a file of golden prompts against this build's prompt encoders.

use std::path::Path;

use serde_json::Value;
use text::{CaseReport, Difference, Outcome as CaseOutcome, PromptFile, Tokenizer};

use super::{Report, Row, Verdict};
use crate::Error;

/// Renders every case of the JSON file at `path` and compares prompts, and ids where the file has them and a
/// tokenizer is given. Files of generations that this build does not write, files of parsing cases, and ids without
/// a tokenizer are reported as not checked.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no prompt file.
pub fn verify_prompts(path: &Path, tokenizer: Option<&Tokenizer>) -> Result<Report, Error> {
    let bytes = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    let malformed = |expected: &str, found: String| Error::file(path, expected, found);
    let json: Value =
        serde_json::from_str(&bytes).map_err(|e| malformed("a JSON document", e.to_string()))?;
    let Some(cases) = json["cases"].as_array() else {
        return Err(malformed("a list `cases`", json["cases"].to_string()));
    };
    if cases.is_empty() {
        return Err(malformed("at least one case", "none".to_owned()));
    }
    let is_parse_case = |case: &Value| case.get("prompt").is_none() && case.get("result").is_some();
    if cases.iter().all(is_parse_case) {
        return Ok(unchecked(cases, "this build has no check for parsing cases"));
    }
    let file = PromptFile::from_json(&bytes).map_err(|e| malformed("a prompt file", e.to_string()))?;
    let report = text::verify_prompt_file(&file, tokenizer);
    if !report.supported {
        return Ok(unchecked(cases, &format!("this build does not write prompts of `{}`", file.generation)));
    }
    let rows = file.cases.iter().zip(&report.cases);
    Ok(Report { rows: rows.map(|(case, report)| row(report, case.ids.is_some())).collect() })
}

fn unchecked(cases: &[Value], note: &str) -> Report {
    let name =
        |case: &Value, i: usize| case["name"].as_str().map_or_else(|| format!("case {i}"), str::to_owned);
    let row = |(i, case)| Row::plain(&name(case, i), &[], Verdict::Unchecked, note.to_owned());
    Report { rows: cases.iter().enumerate().map(row).collect() }
}

fn row(case: &CaseReport, has_ids: bool) -> Row {
    let differs = |what: &str, Difference { at, expected, found }: &Difference| {
        format!("{what} differs at {at}: expected {expected:?}, found {found:?}")
    };
    let (verdict, note) = match &case.outcome {
        CaseOutcome::Pass if has_ids && !case.ids_compared => {
            (Verdict::Unchecked, Some("the prompt holds; its ids need --tokenizer".to_owned()))
        }
        CaseOutcome::Pass => (Verdict::Pass, None),
        CaseOutcome::PromptDiffers(difference) => (Verdict::Fail, Some(differs("the prompt", difference))),
        CaseOutcome::IdsDiffer(difference) => (Verdict::Fail, Some(differs("the list of ids", difference))),
        CaseOutcome::Failed { error } => (Verdict::Fail, Some(error.clone())),
        // An outcome that this file does not know has not been judged.
        other => (Verdict::Unchecked, Some(format!("{other:?}"))),
    };
    Row::plain(&case.name, &[], verdict, note)
}
