//! Files of golden prompts and golden outputs against this build: what both have in common, the report.

mod outputs;
mod prompts;

use serde::Serialize;

pub use outputs::{Chunkings, ParseCase, ParseFile, verify_parse_file};
pub use prompts::{PromptCase, PromptFile, supported_formats, verify_prompt_file};

/// How a file went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// The file's generation.
    pub generation: String,
    /// Whether this build knows that generation; when not, `cases` is empty.
    pub supported: bool,
    /// One report per case.
    pub cases: Vec<CaseReport>,
}

/// How a case went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Name of the case.
    pub name: String,
    /// What came out.
    pub outcome: Outcome,
    /// Whether ids were compared.
    pub ids_compared: bool,
}

/// Result of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All is as expected.
    Pass,
    /// The prompt differs.
    PromptDiffers(Difference),
    /// The prompt is right and its ids differ.
    IdsDiffer(Difference),
    /// A parsed output differs.
    OutputDiffers {
        /// How the text was cut.
        chunking: String,
        /// The field of the output.
        field: String,
        /// Where.
        difference: Difference,
    },
    /// The case could not be rendered or encoded.
    Failed {
        /// Why.
        error: String,
    },
}

/// The first place where two sequences differ, each with a little context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Characters or ids that agree before it.
    pub at: usize,
    /// What was expected around it.
    pub expected: String,
    /// What was found around it.
    pub found: String,
}

impl FileReport {
    /// Whether the generation is known and every case passed.
    pub fn passed(&self) -> bool {
        self.supported && self.failures().next().is_none()
    }

    /// The cases that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.outcome != Outcome::Pass)
    }
}

const CONTEXT: usize = 30;

fn text_difference(expected: &str, found: &str) -> Option<Difference> {
    let (expected, found): (Vec<char>, Vec<char>) = (expected.chars().collect(), found.chars().collect());
    let at = first_difference(&expected, &found)?;
    let around = |text: &[char]| {
        text[at.saturating_sub(CONTEXT).min(text.len())..(at + CONTEXT).min(text.len())].iter().collect()
    };
    Some(Difference { at, expected: around(&expected), found: around(&found) })
}

fn id_difference(expected: &[u32], found: &[u32]) -> Option<Difference> {
    let at = first_difference(expected, found)?;
    let around =
        |ids: &[u32]| format!("{:?}", &ids[at.saturating_sub(3).min(ids.len())..(at + 4).min(ids.len())]);
    Some(Difference { at, expected: around(expected), found: around(found) })
}

fn first_difference<T: PartialEq>(expected: &[T], found: &[T]) -> Option<usize> {
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    (same < expected.len() || same < found.len()).then_some(same)
}
