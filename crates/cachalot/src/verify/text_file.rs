//! [`verify_text_file`]: a file of golden prompts, or of golden outputs, against this build's formats.

use std::path::Path;

use serde_json::Value;
use text::{
    CaseReport, Chunkings, Difference, FileReport, Outcome as CaseOutcome, ParseFile, PromptFile, Tokenizer,
};

use super::{Report, Row, Verdict};
use crate::Error;

/// Checks every case of the JSON file at `path`. Of a prompt file, every conversation is rendered, and its ids are
/// compared where the file has them and a tokenizer is given. Of a parse file, every output is parsed, cut in every way
/// that `chunkings` names. Files of generations that this build does not know are reported as not checked.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is neither.
pub fn verify_text_file(
    path: &Path,
    chunkings: Chunkings,
    tokenizer: Option<&Tokenizer>,
) -> Result<Report, Error> {
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
        let file = ParseFile::from_json(&bytes).map_err(|e| malformed("a parse file", e.to_string()))?;
        let report = text::verify_parse_file(&file, chunkings, tokenizer);
        return Ok(judged(&report, cases, "read outputs", |_| false));
    }
    let file = PromptFile::from_json(&bytes).map_err(|e| malformed("a prompt file", e.to_string()))?;
    let report = text::verify_prompt_file(&file, tokenizer);
    Ok(judged(&report, cases, "write prompts", |i| file.cases[i].ids.is_some()))
}

/// One row per case, and one for ids that could not be compared: only with a tokenizer are they asked for.
fn judged(report: &FileReport, cases: &[Value], verb: &str, has_ids: impl Fn(usize) -> bool) -> Report {
    if !report.supported {
        return unchecked(cases, &format!("this build does not {verb} of `{}`", report.generation));
    }
    let mut rows = Vec::new();
    for (i, case) in report.cases.iter().enumerate() {
        rows.push(row(case));
        if case.outcome == CaseOutcome::Pass && has_ids(i) && !case.ids_compared {
            let key = format!("{}.ids", case.name);
            rows.push(Row::plain(
                &key,
                &[],
                Verdict::Info,
                "not compared, needs their --tokenizer".to_owned(),
            ));
        }
    }
    Report { rows }
}

fn unchecked(cases: &[Value], note: &str) -> Report {
    let name =
        |case: &Value, i: usize| case["name"].as_str().map_or_else(|| format!("case {i}"), str::to_owned);
    let row = |(i, case)| Row::plain(&name(case, i), &[], Verdict::Unchecked, note.to_owned());
    Report { rows: cases.iter().enumerate().map(row).collect() }
}

fn row(case: &CaseReport) -> Row {
    let differs = |what: &str, Difference { at, expected, found }: &Difference| {
        format!("{what} differs at {at}: expected {expected:?}, found {found:?}")
    };
    let (verdict, note) = match &case.outcome {
        CaseOutcome::Pass => (Verdict::Pass, None),
        CaseOutcome::PromptDiffers(difference) => (Verdict::Fail, Some(differs("the prompt", difference))),
        CaseOutcome::IdsDiffer(difference) => (Verdict::Fail, Some(differs("the list of ids", difference))),
        CaseOutcome::OutputDiffers { chunking, field, difference } => {
            (Verdict::Fail, Some(differs(&format!("{field} ({chunking})"), difference)))
        }
        CaseOutcome::Failed { error } => (Verdict::Fail, Some(error.clone())),
        // An outcome that this file does not know has not been judged.
        other => (Verdict::Unchecked, Some(format!("{other:?}"))),
    };
    Row::plain(&case.name, &[], verdict, note)
}
