//! A linear layer in groups: every group multiplies its own columns by its own matrix.

use super::level::Level;
use super::matmul::{Rows, project};
use super::packed::Matrix;
use super::parallel::{Disjoint, block, block_size, for_each};
use crate::Weight;

/// `out[t, g] = x[t, g] W[g]^T`: `x` `[T, G, K]`, `weights` `[N, K]` each, `out` `[T, G, N]`.
pub fn grouped_linear(level: Level, x: &[f32], weights: &[Weight], out: &mut [f32]) {
    let groups = weights.len();
    let [_, n, k] = weights.first().map_or([0; 3], Weight::shape);
    let tokens = x.len().checked_div(groups * k).unwrap_or(0);
    if tokens * n == 0 {
        return;
    }
    let size = block_size(groups * n, 8, 64).min(n.next_multiple_of(8));
    let blocks = n.div_ceil(size);
    let target = Disjoint::new(out);
    for_each(groups * blocks, tokens * groups * n * k, |index| {
        let (group, rows) = (index / blocks, block(index % blocks, size, n));
        let x = Rows::strided(x, (group * k, groups * k), k, tokens);
        let mut values = vec![0.0; tokens * rows.len()];
        project(level, &x, &Matrix::new(&weights[group], 0), rows.clone(), &mut values);
        for (t, values) in values.chunks_exact(rows.len()).enumerate() {
            // SAFETY: tasks have different columns of each row.
            let out = unsafe { target.part((t * groups + group) * n + rows.start, rows.len()) };
            out.copy_from_slice(values);
        }
    });
}
