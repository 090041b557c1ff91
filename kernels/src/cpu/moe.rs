//! The routed experts: tokens grouped by expert, so that each expert's bytes are read once per step.

use super::level::{Kernel, Level};
use super::matmul::{Rows, gated, project};
use super::memory::Scratch;
use super::packed::Matrix;
use super::parallel::{Disjoint, block, block_size, for_each};
use super::simd::{LANES, Simd};
use crate::ops::Experts;

/// `out[t] = sum_k weights[t, k] * down(silu(gate x[t]) * up x[t])` over the experts `ids[t, k]`.
///
/// `x` and `out` are `[T, D]`, `ids` and `weights` `[T, top_k]`. The sum runs in the order of `k`.
pub fn moe_experts(
    level: Level,
    x: &[f32],
    (ids, weights): (&[u32], &[f32]),
    experts: &Experts,
    out: &mut [f32],
) {
    let (dim, inter) = (experts.gate.cols(), experts.gate.rows());
    let Some(top_k) = (ids.len() * dim).checked_div(x.len()).filter(|k| k * x.len() == ids.len() * dim)
    else {
        return;
    };
    let groups = Groups::new(ids, experts.gate.num_experts());
    let work = ids.len() * inter * dim;
    let hidden = hidden(level, x, top_k, &groups, experts, 2 * work);
    let size = block_size(dim, 8, 64);
    let target = Disjoint::new(out);
    for_each(dim.div_ceil(size), work, |index| {
        let rows = block(index, size, dim);
        let mut down = vec![0.0; ids.len() * rows.len()];
        for (expert, slots) in groups.iter() {
            let x = Rows::dense(&hidden[slots.start * inter..slots.end * inter], inter);
            let part = &mut down[slots.start * rows.len()..slots.end * rows.len()];
            project(level, &x, &Matrix::new(&experts.down, expert), rows.clone(), part);
        }
        for t in 0..x.len() / dim {
            // SAFETY: tasks have different columns of each row.
            let out = unsafe { target.part(t * dim + rows.start, rows.len()) };
            for slot in t * top_k..(t + 1) * top_k {
                let row = &down[groups.place[slot] as usize * rows.len()..][..rows.len()];
                level.run(AddScaled { out, row, factor: weights[slot] });
            }
        }
    });
}

/// `silu(gate x) * up x` for every slot, `[T * top_k, I]` in the order of the groups.
fn hidden(level: Level, x: &[f32], top_k: usize, groups: &Groups, experts: &Experts, work: usize) -> Scratch {
    let (dim, inter) = (experts.gate.cols(), experts.gate.rows());
    let mut hidden = Scratch::zeroed(groups.order.len() * inter);
    let active: Vec<_> = groups.iter().collect();
    let size = block_size(inter * active.len(), 8, 64).min(inter.next_multiple_of(8));
    let blocks = inter.div_ceil(size);
    let target = Disjoint::new(&mut hidden);
    for_each(active.len() * blocks, work, |index| {
        let (expert, slots) = active[index / blocks].clone();
        let rows = block(index % blocks, size, inter);
        let tokens = groups.order[slots.clone()].iter().map(|&slot| slot as usize / top_k);
        let x = Rows::collect(dim, tokens.map(|t| &x[t * dim..][..dim]));
        let (gate, up) = (Matrix::new(&experts.gate, expert), Matrix::new(&experts.up, expert));
        let limit = experts.swiglu_limit.unwrap_or(f32::INFINITY);
        let values = gated(level, &x, &gate, &up, limit, rows.clone());
        for (slot, values) in slots.zip(values.chunks_exact(rows.len())) {
            // SAFETY: every slot and every block of its row belongs to one task.
            unsafe { target.part(slot * inter + rows.start, rows.len()) }.copy_from_slice(values);
        }
    });
    hidden
}

/// Slots (`token * top_k + k`) sorted by expert.
struct Groups {
    /// Slots in group order.
    order: Vec<u32>,
    /// Where each slot went: the inverse of `order`.
    place: Vec<u32>,
    /// Expert `e` has places `starts[e] .. starts[e + 1]`.
    starts: Vec<u32>,
}

impl Groups {
    fn new(ids: &[u32], experts: usize) -> Self {
        let mut starts = vec![0; experts + 1];
        for &id in ids {
            starts[id as usize + 1] += 1;
        }
        for e in 0..experts {
            starts[e + 1] += starts[e];
        }
        let mut next = starts.clone();
        let (mut order, mut place) = (vec![0; ids.len()], vec![0; ids.len()]);
        for (slot, &id) in ids.iter().enumerate() {
            let at = next[id as usize];
            next[id as usize] += 1;
            order[at as usize] = slot as u32;
            place[slot] = at;
        }
        Self { order, place, starts }
    }

    /// The experts that have tokens, with their places.
    fn iter(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let ranges = self.starts.windows(2).map(|w| w[0] as usize..w[1] as usize);
        ranges.enumerate().filter(|(_, range)| !range.is_empty())
    }
}

/// `out += factor * row`.
struct AddScaled<'a> {
    out: &'a mut [f32],
    row: &'a [f32],
    factor: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.factor);
        let (outs, out_tail) = self.out.as_chunks_mut::<LANES>();
        let (rows, row_tail) = self.row.as_chunks::<LANES>();
        for (out, row) in outs.iter_mut().zip(rows) {
            s.store(s.mul_add(factor, s.load(row), s.load(out)), out);
        }
        for (out, row) in out_tail.iter_mut().zip(row_tail) {
            *out += self.factor * row;
        }
    }
}
