//! Hyper-connections: the maps of a token, the weighted sum of its streams, and their mix with a sublayer's output.

use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::parallel::{Disjoint, for_each};
use super::rows::mean_square;
use super::simd::Simd;
use crate::ops::HyperConfig;

/// Maps `[T, M]` of streams `x` `[T, S * D]`; see [`crate::ops::hyper_maps`].
pub fn hyper_maps(
    level: Level,
    x: &[f32],
    mixed: &[f32],
    (scale, base): (&[f32], &[f32]),
    config: &HyperConfig,
    out: &mut [f32],
) {
    let count = base.len();
    let tokens = mixed.len().checked_div(count).unwrap_or(0);
    let width = x.len().checked_div(tokens).unwrap_or(0);
    let target = Disjoint::new(out);
    for_each(tokens, x.len(), |t| {
        // SAFETY: every task has its own token.
        let maps = unsafe { target.part(t * count, count) };
        let mean = level.run(MeanSquare(&x[t * width..][..width]));
        let factor = 1.0 / (mean + config.norm_eps).sqrt();
        for (map, value) in maps.iter_mut().zip(&mixed[t * count..]) {
            *map = value * factor;
        }
        squash(maps, (scale, base), config);
    });
}

struct MeanSquare<'a>(&'a [f32]);

impl Kernel for MeanSquare<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        mean_square(s, self.0)
    }
}

/// Scaled sums become the maps of one token.
fn squash(maps: &mut [f32], (scale, base): (&[f32], &[f32]), config: &HyperConfig) {
    let streams = config.streams;
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    for (map, base) in maps[..streams].iter_mut().zip(base) {
        *map = sigmoid(*map * scale[0] + base) + config.eps;
    }
    if maps.len() == streams {
        return;
    }
    let (post, mix) = maps[streams..].split_at_mut(streams);
    for (map, base) in post.iter_mut().zip(&base[streams..]) {
        *map = 2.0 * sigmoid(*map * scale[1] + base);
    }
    for (map, base) in mix.iter_mut().zip(&base[2 * streams..]) {
        *map = *map * scale[2] + base;
    }
    for row in mix.chunks_exact_mut(streams) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + config.eps);
    }
    sinkhorn(mix, config);
}

/// Divides columns and rows by their sums, by turns; columns come first and last.
fn sinkhorn(mix: &mut [f32], config: &HyperConfig) {
    let streams = config.streams;
    for iteration in 0..config.sinkhorn_iters {
        if iteration > 0 {
            for row in mix.chunks_exact_mut(streams) {
                let sum = row.iter().sum::<f32>() + config.eps;
                row.iter_mut().for_each(|v| *v /= sum);
            }
        }
        for column in 0..streams {
            let sum = mix[column..].iter().step_by(streams).sum::<f32>() + config.eps;
            mix[column..].iter_mut().step_by(streams).for_each(|v| *v /= sum);
        }
    }
}

/// `out = sum_j maps[j] x[j]` per token; `sizes` are `[S, D, M]`.
pub fn hyper_collapse(
    level: Level,
    x: &[f32],
    maps: &[f32],
    [streams, dim, width]: [usize; 3],
    out: &mut [f32],
) {
    let work = x.len();
    let target = Disjoint::new(out);
    for_each(maps.len().checked_div(width).unwrap_or(0), work, |t| {
        // SAFETY: every task has its own row.
        let out = unsafe { target.part(t * dim, dim) };
        let (x, weights) = (&x[t * streams * dim..][..streams * dim], &maps[t * width..][..streams]);
        level.run(Sum { x, weights: weights.iter().copied(), first: 0.0, y: None, out });
    });
}

/// `x[k] = post[k] y + sum_j mix[j, k] x[j]` per token, in place.
pub fn hyper_expand(level: Level, x: &mut [f32], y: &[f32], maps: &[f32], [streams, dim]: [usize; 2]) {
    let (work, width, row) = (x.len() * (1 + streams), streams * (2 + streams), streams * dim);
    let target = Disjoint::new(x);
    for_each(y.len().checked_div(dim).unwrap_or(0), work, |t| {
        // SAFETY: every task has its own token.
        let new = unsafe { target.part(t * row, row) };
        let mut old = Scratch::zeroed(row);
        old.copy_from_slice(new);
        let (post, mix) = maps[t * width + streams..][..width - streams].split_at(streams);
        for (k, out) in new.chunks_exact_mut(dim).enumerate() {
            let weights = mix[k..].iter().step_by(streams).copied();
            level.run(Sum { x: &old, weights, first: post[k], y: Some(&y[t * dim..][..dim]), out });
        }
    });
}

/// `out = first * y + sum_j weights[j] x[j]` over rows of `out`'s length.
struct Sum<'a, W> {
    x: &'a [f32],
    weights: W,
    first: f32,
    y: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl<W: Iterator<Item = f32>> Kernel for Sum<'_, W> {
    type Output = ();

    // Plain loops over equally long slices: the compiler vectorises them for the level they are inlined into.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { x, weights, first, y, out } = self;
        match y {
            Some(y) => out.iter_mut().zip(y).for_each(|(out, y)| *out = first * y),
            None => out.fill(0.0),
        }
        for (row, weight) in x.chunks_exact(out.len().max(1)).zip(weights) {
            out.iter_mut().zip(row).for_each(|(out, v)| *out += weight * v);
        }
    }
}
