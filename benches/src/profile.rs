//! Timings of named ops over several passes, and the table made of them.

use std::time::Instant;

use serde::Serialize;

use crate::peaks::Peaks;

/// What an op must move and compute at least.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Weight and cache bytes, each counted once.
    pub bytes: usize,
    /// Multiplications and additions.
    pub flop: usize,
}

/// The passes of one op.
#[derive(Debug)]
struct Op {
    name: &'static str,
    seconds: Vec<f64>,
    cost: Cost,
}

/// Collects the ops of a pass in the order of their first call.
#[derive(Debug, Default)]
pub struct Profile {
    ops: Vec<Op>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The op.
    pub op: &'static str,
    /// Median over the passes.
    pub ms: f64,
    /// Bytes over the median.
    pub gb_s: f64,
    /// Operations over the median.
    pub gflop_s: f64,
    /// Share of the sum of medians.
    pub share: f64,
    /// The larger of the fractions of the two peaks: how close the op is to the limit that binds it.
    pub of_peak: f64,
}

impl Profile {
    /// Runs `op` and keeps its time; several calls under one name in a pass would count as several passes.
    pub fn time<T>(
        &mut self,
        name: &'static str,
        cost: Cost,
        op: impl FnOnce() -> kernels::Result<T>,
    ) -> kernels::Result<T> {
        let start = Instant::now();
        let result = op()?;
        let seconds = start.elapsed().as_secs_f64();
        match self.ops.iter_mut().find(|op| op.name == name) {
            Some(op) => op.seconds.push(seconds),
            None => self.ops.push(Op { name, seconds: vec![seconds], cost }),
        }
        Ok(result)
    }

    /// The lines of all ops and of their sum.
    pub fn lines(&self, peaks: &Peaks) -> Vec<Line> {
        let medians: Vec<f64> = self.ops.iter().map(|op| median(&op.seconds)).collect();
        let sum: f64 = medians.iter().sum();
        let line = |op, seconds: f64, cost: Cost| {
            let gb_s = cost.bytes as f64 / seconds / 1e9;
            let gflop_s = cost.flop as f64 / seconds / 1e9;
            let of_peak = (gb_s / peaks.read_gb_s).max(gflop_s / peaks.fma_gflop_s);
            Line { op, ms: seconds * 1e3, gb_s, gflop_s, share: seconds / sum, of_peak }
        };
        let mut lines: Vec<Line> =
            self.ops.iter().zip(&medians).map(|(op, s)| line(op.name, *s, op.cost)).collect();
        let total = self.ops.iter().fold(Cost::default(), |sum, op| Cost {
            bytes: sum.bytes + op.cost.bytes,
            flop: sum.flop + op.cost.flop,
        });
        lines.push(line("layer", sum, total));
        lines
    }
}

/// The middle of `seconds`.
pub fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The lines as fixed-width text.
pub fn table(lines: &[Line]) -> String {
    let mut text =
        format!("{:<18}{:>10}{:>9}{:>10}{:>8}{:>9}\n", "op", "ms", "GB/s", "GFLOP/s", "share", "of peak");
    for Line { op, ms, gb_s, gflop_s, share, of_peak } in lines {
        let (share, of_peak) = (100.0 * share, 100.0 * of_peak);
        text += &format!("{op:<18}{ms:>10.3}{gb_s:>9.2}{gflop_s:>10.1}{share:>7.1}%{of_peak:>8.1}%\n");
    }
    text
}
