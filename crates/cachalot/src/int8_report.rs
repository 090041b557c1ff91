//! [`Int8Table`]: what INT8 experts would cost, measured matrix by matrix.

use std::fmt;

use kernels::ops::{Int8Scales, QuantError};
use models::ExpertFormat;
use serde::Serialize;

use crate::{Error, ModelSource, Progress};

/// The error of re-quantising every stack of a model's routed experts to INT8, with one scale per row and with one per
/// 128 x 128 block.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Int8Table {
    /// `demo`, the directory or the hub id.
    pub model: String,
    /// In the order of the layers.
    pub stacks: Vec<Int8Row>,
    /// [`ExpertFormat::AUTO_RELATIVE_RMS`].
    pub limit: f32,
}

/// One stack of expert matrices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Int8Row {
    /// `{prefix}.experts.*.{projection}`.
    pub name: String,
    /// Number of experts.
    pub experts: usize,
    /// With one scale per row.
    pub per_row: Int8Cost,
    /// With one scale per block.
    pub per_block: Int8Cost,
}

/// What re-quantising a stack costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Int8Cost {
    /// Root mean square of the distances relative to that of the elements: mean over the experts.
    pub mean_relative_rms: f32,
    /// The same, worst expert.
    pub worst_relative_rms: f32,
    /// Largest distance relative to the largest magnitude of its row.
    pub worst_of_row: f32,
    /// Largest distance.
    pub max_abs: f32,
    /// Experts whose every element kept its value.
    pub lossless: usize,
}

impl Int8Cost {
    fn of(report: &models::Int8Report) -> Self {
        let QuantError { max_abs, relative_rms, max_of_row, .. } = report.worst();
        Self {
            mean_relative_rms: report.mean_relative_rms(),
            worst_relative_rms: relative_rms,
            worst_of_row: max_of_row,
            max_abs,
            lossless: report.lossless(),
        }
    }
}

impl Int8Table {
    /// Reads and re-quantises every routed expert, twice; keeps none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for files that are missing or damaged, [`Error::Model`] for experts that cannot be read.
    pub fn of(source: &ModelSource, progress: &mut dyn FnMut(Progress)) -> Result<Self, Error> {
        let opened = source.open(progress)?;
        let mut measure = |scales| {
            models::int8_report(&opened.checkpoint, scales, &mut |done| progress(Progress::Weights(done)))
        };
        let (per_row, per_block) = (measure(Int8Scales::PerRow)?, measure(Int8Scales::PerBlock)?);
        let rows = per_row.iter().zip(&per_block).map(|(row, block)| Int8Row {
            name: row.name.clone(),
            experts: row.errors.len(),
            per_row: Int8Cost::of(row),
            per_block: Int8Cost::of(block),
        });
        let stacks = rows.collect();
        Ok(Self { model: opened.name, stacks, limit: ExpertFormat::AUTO_RELATIVE_RMS })
    }
}

/// A table for people.
impl fmt::Display for Int8Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stacks.is_empty() {
            return write!(f, "{} has no routed experts", self.model);
        }
        let width = self.stacks.iter().map(|row| row.name.len()).max().unwrap_or(0);
        writeln!(f, "INT8 experts of {}: error relative to the original, in percent", self.model)?;
        writeln!(f, "{:width$}  experts  one scale per row:           one per 128 x 128:", "")?;
        writeln!(
            f,
            "{:width$}           mean rms  worst  of row  exact  mean rms  worst  of row  exact",
            ""
        )?;
        for row in &self.stacks {
            write!(f, "{:width$}  {:7}", row.name, row.experts)?;
            for cost in [&row.per_row, &row.per_block] {
                let percent = |part: f32| 100.0 * part;
                write!(
                    f,
                    "  {:8.3} {:6.3}  {:6.3}  {:5}",
                    percent(cost.mean_relative_rms),
                    percent(cost.worst_relative_rms),
                    percent(cost.worst_of_row),
                    cost.lossless
                )?;
            }
            writeln!(f)?;
        }
        let over = self.stacks.iter().filter(|row| row.per_row.worst_relative_rms > self.limit).count();
        let of = self.stacks.len();
        write!(
            f,
            "{over} of {of} stacks are over the {:.2} % that --experts auto accepts",
            100.0 * self.limit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_models_experts_lose_little() {
        let table = Int8Table::of(&ModelSource::Embedded, &mut |_| {}).expect("the demo model");
        let text = table.to_string();
        assert!(table.stacks.len() >= 3 && table.stacks.len().is_multiple_of(3), "{text}");
        for row in &table.stacks {
            // A block has one outlier for all of its rows.
            for (cost, limit) in [(&row.per_row, 0.01), (&row.per_block, 0.02)] {
                assert!(cost.worst_relative_rms < limit && cost.worst_relative_rms > 0.002, "{text}");
                assert!(cost.mean_relative_rms <= cost.worst_relative_rms && cost.lossless == 0, "{text}");
                assert!(cost.max_abs > 0.0, "{text}");
            }
            assert!(row.per_row.worst_of_row <= 1.001 / 254.0, "{text}");
        }
        assert!(text.contains("experts.*.down_proj") && text.contains("0 of "), "{text}");
    }
}
