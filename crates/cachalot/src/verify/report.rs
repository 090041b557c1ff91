//! [`Report`]: one row per golden key, as a table for people and as JSON for machines.

use std::fmt;

use serde::Serialize;

/// What was found about one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within its tolerance.
    Pass,
    /// Outside its tolerance, or not there.
    Fail,
    /// Fed into the model; nothing to compare.
    Input,
    /// Shown for information; decides nothing.
    Info,
    /// This build has no way to check it.
    Unchecked,
}

/// The outcome over all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was checked and holds. Exit code 0.
    Pass,
    /// Something does not hold. Exit code 1.
    Fail,
    /// Nothing failed, but something could not be checked. Exit code 3.
    Unchecked,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The golden key or the name of the case.
    pub key: String,
    /// Shape of the reference; empty for cases that are no tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shape: Vec<usize>,
    /// Largest absolute difference over all elements; for ids, how many differ. NaN if a difference is NaN.
    pub max_abs_diff: Option<f64>,
    /// The difference that is still accepted.
    pub tolerance: Option<f64>,
    /// What that amounts to.
    pub verdict: Verdict,
    /// Why, where the numbers do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Every key of a golden file, or every case of a prompt file, with its verdict.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// In the order of the report.
    pub rows: Vec<Row>,
}

impl Row {
    /// A row without a comparison.
    pub(crate) fn plain(
        key: &str,
        shape: &[usize],
        verdict: Verdict,
        note: impl Into<Option<String>>,
    ) -> Self {
        Self {
            key: key.to_owned(),
            shape: shape.to_vec(),
            max_abs_diff: None,
            tolerance: None,
            verdict,
            note: note.into(),
        }
    }

    /// A row that holds if `diff` is a number of at most `tolerance`.
    pub(crate) fn compared(key: &str, shape: &[usize], diff: f64, tolerance: f64) -> Self {
        // NaN is never at most anything, so it fails.
        let verdict = if diff <= tolerance { Verdict::Pass } else { Verdict::Fail };
        Self {
            max_abs_diff: Some(diff),
            tolerance: Some(tolerance),
            ..Self::plain(key, shape, verdict, None)
        }
    }

    pub(crate) fn with_note(self, note: impl Into<Option<String>>) -> Self {
        Self { note: note.into(), ..self }
    }
}

impl Report {
    /// Rows with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    /// The outcome. A report in which nothing was compared has not passed.
    pub fn outcome(&self) -> Outcome {
        match (self.count(Verdict::Pass), self.count(Verdict::Fail), self.count(Verdict::Unchecked)) {
            (_, 1.., _) | (0, 0, 0) => Outcome::Fail,
            (_, 0, 1..) => Outcome::Unchecked,
            (_, 0, 0) => Outcome::Pass,
        }
    }

    /// The report as a JSON object: `outcome`, the counts, and `keys` with one object per row.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "outcome": self.outcome(),
            "passed": self.count(Verdict::Pass),
            "failed": self.count(Verdict::Fail),
            "unchecked": self.count(Verdict::Unchecked),
            "keys": self.rows,
        })
    }
}

/// A table with one row per key and a closing line with the counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.key.chars().count()).max().unwrap_or(0).max(3);
        writeln!(
            f,
            "{:width$}  {:>12}  {:>12}  {:>9}  verdict",
            "key", "shape", "max abs diff", "tolerance"
        )?;
        for row in &self.rows {
            let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            let number = |value: Option<f64>| match value {
                None => "-".to_owned(),
                Some(0.0) => "0".to_owned(),
                Some(value) => format!("{value:.2e}"),
            };
            let verdict = match row.verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::Input => "input",
                Verdict::Info => "info",
                Verdict::Unchecked => "NOT CHECKED",
            };
            let (diff, tolerance) = (number(row.max_abs_diff), number(row.tolerance));
            write!(f, "{:width$}  {shape:>12}  {diff:>12}  {tolerance:>9}  {verdict}", row.key)?;
            match &row.note {
                Some(note) => writeln!(f, "  ({note})")?,
                None => writeln!(f)?,
            }
        }
        let outcome = match self.outcome() {
            Outcome::Pass => "all hold",
            Outcome::Fail => "FAILED",
            Outcome::Unchecked => "incomplete",
        };
        write!(
            f,
            "{outcome}: {} passed, {} failed, {} not checked",
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::Unchecked)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rows: &[Row]) -> Outcome {
        Report { rows: rows.to_vec() }.outcome()
    }

    #[test]
    fn nan_fails_and_nothing_is_not_a_pass() {
        assert_eq!(Row::compared("k", &[], f64::NAN, 1.0).verdict, Verdict::Fail);
        assert_eq!(Row::compared("k", &[], f64::INFINITY, 1.0).verdict, Verdict::Fail);
        assert_eq!(Row::compared("k", &[], 1.0, 1.0).verdict, Verdict::Pass);
        assert_eq!(outcome(&[]), Outcome::Fail);
        assert_eq!(outcome(&[Row::plain("k", &[], Verdict::Input, None)]), Outcome::Fail);
    }

    #[test]
    fn a_failure_outweighs_what_was_not_checked() {
        let pass = Row::compared("k", &[], 0.0, 1.0);
        let fail = Row::compared("k", &[], 2.0, 1.0);
        let unchecked = Row::plain("k", &[], Verdict::Unchecked, None);
        let info = Row::plain("k", &[], Verdict::Info, None);
        assert_eq!(outcome(&[pass.clone(), info.clone()]), Outcome::Pass);
        assert_eq!(outcome(&[pass.clone(), unchecked.clone()]), Outcome::Unchecked);
        assert_eq!(outcome(std::slice::from_ref(&unchecked)), Outcome::Unchecked);
        assert_eq!(outcome(&[pass, unchecked, fail]), Outcome::Fail);
        assert_eq!(outcome(&[info]), Outcome::Fail);
    }

    #[test]
    fn json_writes_nan_as_null_and_the_verdict_in_words() {
        let report = Report { rows: vec![Row::compared("k", &[2, 3], f64::NAN, 1e-4)] };
        let json = report.to_json();
        assert_eq!(json["outcome"], "fail");
        assert_eq!(json["keys"][0]["verdict"], "fail");
        assert!(json["keys"][0]["max_abs_diff"].is_null());
        assert!(report.to_string().contains("NaN"), "{report}");
    }
}
