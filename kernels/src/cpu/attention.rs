//! Paged attention, MLA and GQA alike: softmax(q K^T) V over cache rows, where a key head's keys and values are two
//! column ranges of the row (for MLA the value is a part of the key, and there is one key head).
//!
//! A task owns one tile: up to [`TILE`] pairs (query, head) of one sequence that read the same key head, so a decoded
//! cache row serves all of them. Keys come in blocks of [`KEYS`], gathered from the pages and decoded once, with an
//! online softmax per block. Every [`SPAN`] keys the running state is folded into the total; that order is the same
//! whether one task walks all spans or many share a long context, so the split never shows in the result.

use std::ops::Range;

use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::packed::{Element, padded};
use super::parallel::{Disjoint, for_each};
use super::simd::{LANES, Simd, exp};
use super::tile::{Lanes, TILE_ROWS, add_scaled_rows, dots};
use crate::PackedRow;

/// Pairs of a tile.
const TILE: usize = 32;
/// Keys gathered at a time: with MLA's 576 columns 147 KB, within L2.
pub(super) const KEYS: usize = 64;
/// Keys of one partial result.
const SPAN: usize = 1024;

/// The cache as rows.
pub enum CacheRows<'a> {
    /// `F32`.
    F32(&'a [f32]),
    /// `BF16`.
    Bf16(&'a [half::bf16]),
    /// Packed rows.
    Packed(&'a [u8], PackedRow),
}

impl CacheRows<'_> {
    /// Columns of row `row`, which has `width` values, filled up with zeros to whole vectors.
    #[inline(always)]
    pub(super) fn load<S: Simd>(
        &self,
        s: S,
        (row, width): (usize, usize),
        columns: Range<usize>,
        to: &mut [f32],
    ) {
        let at = row * width + columns.start;
        match self {
            CacheRows::F32(rows) => copy(s, &rows[at..][..columns.len()], to),
            CacheRows::Bf16(rows) => copy(s, &rows[at..][..columns.len()], to),
            CacheRows::Packed(rows, format) => {
                // Keys and values of a packed row both start at its first column.
                to[columns.len()..].fill(0.0);
                format.decode(rows, row, &mut to[..columns.len()]);
            }
        }
    }

    /// Adds row `row`, which has `width` values, to `to`.
    pub(super) fn extend(&self, (row, width): (usize, usize), to: &mut Vec<f32>) {
        let values = row * width..(row + 1) * width;
        match self {
            CacheRows::F32(rows) => to.extend_from_slice(&rows[values]),
            CacheRows::Bf16(rows) => to.extend(rows[values].iter().map(|v| v.to_f32())),
            CacheRows::Packed(rows, format) => {
                let start = to.len();
                to.resize(start + width, 0.0);
                format.decode(rows, row, &mut to[start..]);
            }
        }
    }
}

/// One sequence of the step.
pub struct Sequence<'a> {
    /// Its new tokens, as rows of the step.
    pub queries: Range<usize>,
    /// Its keys, the new tokens' included.
    pub context: usize,
    /// Its blocks in order.
    pub blocks: &'a [u32],
}

/// What one attention call reads.
pub struct Attention<'a> {
    /// `[T, heads, key_dim]`.
    pub q: &'a [f32],
    /// Rows of `width` values.
    pub cache: CacheRows<'a>,
    /// Values of a cache row.
    pub width: usize,
    /// Rows per block.
    pub block_size: usize,
    /// The sequences of the step; the block tables must lie within the cache.
    pub sequences: Vec<Sequence<'a>>,
    /// Query heads.
    pub heads: usize,
    /// Key heads; query head `h` reads key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a key; key head `g` starts at column `g * key_dim`.
    pub key_dim: usize,
    /// Column of the first value head.
    pub value_start: usize,
    /// Width of a value; value head `g` starts at `value_start + g * value_dim`.
    pub value_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// `[heads]`: a score beside those of the keys, which takes its share of the softmax and has no value.
    pub sinks: Option<&'a [f32]>,
}

/// Writes the attention of every query head to `out` `[T, heads, value_dim]`.
pub fn paged_attention(level: Level, args: &Attention<'_>, out: &mut [f32]) {
    let tiles = Tile::all(args);
    let work: usize = tiles.iter().map(|t| t.pairs * t.last_visible * (args.key_dim + args.value_dim)).sum();
    let spans = tiles.iter().map(|t| t.last_visible.div_ceil(SPAN)).max().unwrap_or(0);
    let target = Disjoint::new(out);
    if tiles.len() >= 2 * rayon::current_num_threads() || spans < 2 {
        for_each(tiles.len(), work, |i| {
            let tile = &tiles[i];
            let mut total = State::new(tile.pairs, args.value_dim);
            let mut scratch = TileScratch::new(args, tile);
            let mut part = State::new(tile.pairs, args.value_dim);
            for start in (0..tile.last_visible).step_by(SPAN) {
                part.reset();
                level.run(Walk { args, tile, start, scratch: &mut scratch, state: &mut part });
                total.fold(level, &part);
            }
            total.write(args, tile, &target);
        });
        return;
    }
    // Few tiles over a long context, as in single-stream decode: spread the spans.
    let parts: Vec<(usize, usize)> = (0..tiles.len())
        .flat_map(|i| (0..tiles[i].last_visible).step_by(SPAN).map(move |start| (i, start)))
        .collect();
    let mut states: Vec<State> =
        parts.iter().map(|&(i, _)| State::new(tiles[i].pairs, args.value_dim)).collect();
    let slots = Disjoint::new(&mut states);
    for_each(parts.len(), work, |p| {
        let (i, start) = parts[p];
        let mut scratch = TileScratch::new(args, &tiles[i]);
        // SAFETY: every task has its own state.
        let [state] = (unsafe { slots.part(p, 1) }) else { unreachable!("one state") };
        level.run(Walk { args, tile: &tiles[i], start, scratch: &mut scratch, state });
    });
    let mut states = states.iter();
    for tile in &tiles {
        let mut total = State::new(tile.pairs, args.value_dim);
        let count = tile.last_visible.div_ceil(SPAN);
        states.by_ref().take(count).for_each(|state| total.fold(level, state));
        total.write(args, tile, &target);
    }
}

/// Queries of one sequence times query heads of one key head.
struct Tile {
    sequence: usize,
    first_query: usize,
    first_head: usize,
    heads: usize,
    pairs: usize,
    /// Keys the last query of the tile sees.
    last_visible: usize,
}

impl Tile {
    fn all(args: &Attention<'_>) -> Vec<Self> {
        let group = args.heads / args.kv_heads;
        let (block, per_tile) = (group.min(TILE), (TILE / group).max(1));
        let mut tiles = Vec::new();
        for (index, sequence) in args.sequences.iter().enumerate() {
            for first in sequence.queries.clone().step_by(per_tile) {
                let queries = per_tile.min(sequence.queries.end - first);
                for head in (0..args.kv_heads).flat_map(|g| (0..group).step_by(block).map(move |h| (g, h))) {
                    let heads = block.min(group - head.1);
                    tiles.push(Self {
                        sequence: index,
                        first_query: first,
                        first_head: head.0 * group + head.1,
                        heads,
                        pairs: queries * heads,
                        last_visible: sequence.context - (sequence.queries.end - (first + queries)),
                    });
                }
            }
        }
        tiles
    }

    /// Query and head of a pair.
    fn pair(&self, m: usize) -> (usize, usize) {
        (self.first_query + m / self.heads, self.first_head + m % self.heads)
    }
}

/// Running softmax of a tile: per pair the largest score, the sum of exponentials and the weighted values.
struct State {
    max: Vec<f32>,
    sum: Vec<f32>,
    values: Scratch,
    stride: usize,
}

impl State {
    fn new(pairs: usize, value_dim: usize) -> Self {
        let stride = value_dim.next_multiple_of(LANES);
        let values = Scratch::zeroed(pairs * stride);
        Self { max: vec![f32::NEG_INFINITY; pairs], sum: vec![0.0; pairs], values, stride }
    }

    fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.values.fill(0.0);
    }

    fn fold(&mut self, level: Level, part: &Self) {
        level.run(Fold { total: self, part });
    }

    fn write(&self, args: &Attention<'_>, tile: &Tile, target: &Disjoint<'_, f32>) {
        for m in 0..tile.pairs {
            let (t, h) = tile.pair(m);
            // SAFETY: every pair of a query and a head is in one tile.
            let out = unsafe { target.part((t * args.heads + h) * args.value_dim, args.value_dim) };
            let values = &self.values[m * self.stride..][..args.value_dim];
            let sink = args.sinks.map_or(0.0, |sinks| (sinks[h] - self.max[m]).exp());
            // A query without keys gets zeros.
            let sum = if self.sum[m] == 0.0 { 1.0 } else { self.sum[m] + sink };
            out.iter_mut().zip(values).for_each(|(out, v)| *out = v / sum);
        }
    }
}

struct Fold<'a> {
    total: &'a mut State,
    part: &'a State,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { total, part } = self;
        for m in 0..total.max.len() {
            if part.max[m] == f32::NEG_INFINITY && part.sum[m] == 0.0 {
                continue;
            }
            let (old, new) = (total.max[m], part.max[m]);
            let max = if new > old { new } else { old };
            let factor = |value: f32| if value == max { 1.0 } else { (value - max).exp() };
            let (keep, add) = (factor(old), factor(new));
            total.max[m] = max;
            total.sum[m] = total.sum[m] * keep + part.sum[m] * add;
            let row = m * total.stride..(m + 1) * total.stride;
            let from = part.values[row.clone()].as_chunks::<LANES>().0;
            for (to, from) in total.values[row].as_chunks_mut::<LANES>().0.iter_mut().zip(from) {
                let kept = s.mul(s.load(to), s.splat(keep));
                s.store(s.mul_add(s.load(from), s.splat(add), kept), to);
            }
        }
    }
}

/// Buffers of one task, all rows in whole vectors.
struct TileScratch {
    q: Scratch,
    keys: Scratch,
    values: Scratch,
    scores: Scratch,
}

impl TileScratch {
    fn new(args: &Attention<'_>, tile: &Tile) -> Self {
        let (key, value) = (args.key_dim.next_multiple_of(LANES), args.value_dim.next_multiple_of(LANES));
        let mut q = Scratch::zeroed(tile.pairs * key);
        for (m, row) in q.chunks_exact_mut(key.max(1)).enumerate() {
            let (t, h) = tile.pair(m);
            row[..args.key_dim]
                .copy_from_slice(&args.q[(t * args.heads + h) * args.key_dim..][..args.key_dim]);
        }
        let shared = args.shares_values();
        Self {
            q,
            keys: Scratch::zeroed(KEYS * key),
            values: Scratch::zeroed(if shared { 0 } else { KEYS * value }),
            scores: Scratch::zeroed(tile.pairs * KEYS),
        }
    }
}

impl Attention<'_> {
    /// Rows of the cache that the queries see, each query's counted by itself.
    pub fn rows_read(&self) -> usize {
        let seen = |s: &Sequence<'_>| (0..s.queries.len()).map(|later| s.context - later).sum::<usize>();
        self.sequences.iter().map(seen).sum()
    }

    /// Whether a key head's values are the first columns of its keys, whole vectors of them.
    fn shares_values(&self) -> bool {
        self.value_start == 0
            && self.kv_heads == 1
            && self.value_dim <= self.key_dim
            && self.value_dim.is_multiple_of(LANES)
    }
}

/// The span of keys from `start`, into a fresh `state`.
struct Walk<'a> {
    args: &'a Attention<'a>,
    tile: &'a Tile,
    start: usize,
    scratch: &'a mut TileScratch,
    state: &'a mut State,
}

impl Kernel for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { args, tile, start, scratch, state } = self;
        let end = (start + SPAN).min(tile.last_visible);
        let (kv_head, shared) = (tile.first_head / (args.heads / args.kv_heads), args.shares_values());
        let key = args.key_dim.next_multiple_of(LANES);
        for first in (start..end).step_by(KEYS) {
            let keys = first..(first + KEYS).min(end);
            let column = kv_head * args.key_dim;
            gather(s, args, tile, keys.clone(), column..column + args.key_dim, &mut scratch.keys);
            if !shared {
                let column = args.value_start + kv_head * args.value_dim;
                gather(s, args, tile, keys.clone(), column..column + args.value_dim, &mut scratch.values);
            }
            score(s, &scratch.q, &scratch.keys, key, keys.len(), &mut scratch.scores);
            soften(s, args, tile, &keys, &mut scratch.scores, state);
            let (values, stride) =
                if shared { (&scratch.keys, key) } else { (&scratch.values, state.stride) };
            weigh(s, &scratch.scores, values.as_chunks().0, stride / LANES, keys.len(), state);
        }
    }
}

/// Decodes `columns` of the rows of `keys`, each row filled up with zeros to whole vectors.
#[inline(always)]
fn gather<S: Simd>(
    s: S,
    args: &Attention<'_>,
    tile: &Tile,
    keys: Range<usize>,
    columns: Range<usize>,
    to: &mut [f32],
) {
    let blocks = args.sequences[tile.sequence].blocks;
    let stride = columns.len().next_multiple_of(LANES);
    for (i, to) in keys.zip(to.chunks_exact_mut(stride)) {
        let row = blocks[i / args.block_size] as usize * args.block_size + i % args.block_size;
        args.cache.load(s, (row, args.width), columns.clone(), to);
    }
}

#[inline(always)]
fn copy<S: Simd, E: Element>(s: S, from: &[E], to: &mut [f32]) {
    let (chunks, tail) = from.as_chunks::<LANES>();
    let to = to.as_chunks_mut::<LANES>().0;
    for (to, chunk) in to.iter_mut().zip(chunks) {
        s.store(E::load(s, chunk), to);
    }
    if !tail.is_empty() {
        s.store(E::load(s, &padded(tail)), &mut to[chunks.len()]);
    }
}

/// `scores[m, j] = q[m] . keys[j]`, rows of [`KEYS`].
#[inline(always)]
pub(super) fn score<S: Simd>(s: S, q: &[f32], keys: &[f32], width: usize, count: usize, scores: &mut [f32]) {
    let (q, keys, depth) = (q.as_chunks().0, keys.as_chunks().0, width / LANES);
    let pairs = scores.len() / KEYS;
    let tiles = pairs.div_ceil(TILE_ROWS);
    for tile in 0..tiles {
        let m = tile * pairs / tiles;
        let rows = &mut scores[m * KEYS..];
        match (tile + 1) * pairs / tiles - m {
            1 => score_rows::<S, 1>(s, &q[m * depth..], keys, depth, count, rows),
            2 => score_rows::<S, 2>(s, &q[m * depth..], keys, depth, count, rows),
            3 => score_rows::<S, 3>(s, &q[m * depth..], keys, depth, count, rows),
            4 => score_rows::<S, 4>(s, &q[m * depth..], keys, depth, count, rows),
            5 => score_rows::<S, 5>(s, &q[m * depth..], keys, depth, count, rows),
            _ => score_rows::<S, 6>(s, &q[m * depth..], keys, depth, count, rows),
        }
    }
}

#[inline(always)]
fn score_rows<S: Simd, const M: usize>(
    s: S,
    q: Lanes<'_>,
    keys: Lanes<'_>,
    depth: usize,
    count: usize,
    scores: &mut [f32],
) {
    let mut rows = [q; M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = &q[m * depth..][..depth];
    }
    for j in (0..count).step_by(4) {
        let mut four = [keys; 4];
        for (i, key) in four.iter_mut().enumerate() {
            // Past the end the last key repeats; its scores are masked.
            *key = &keys[(j + i).min(count - 1) * depth..][..depth];
        }
        for (m, sums) in dots(s, rows, four).iter().enumerate() {
            scores[m * KEYS + j..][..4].copy_from_slice(sums);
        }
    }
}

/// Scores to exponentials under the running maximum; the state's sums follow, and its values are rescaled where the
/// maximum rose.
#[inline(always)]
fn soften<S: Simd>(
    s: S,
    args: &Attention<'_>,
    tile: &Tile,
    keys: &Range<usize>,
    scores: &mut [f32],
    state: &mut State,
) {
    let sequence = &args.sequences[tile.sequence];
    for (m, row) in scores.chunks_exact_mut(KEYS).enumerate() {
        let visible = sequence.context - (sequence.queries.end - tile.pair(m).0) + 1;
        let seen = visible.clamp(keys.start, keys.end) - keys.start;
        if seen == 0 {
            row.fill(0.0);
            continue;
        }
        for chunk in row.as_chunks_mut::<LANES>().0 {
            s.store(s.mul(s.load(chunk), s.splat(args.scale)), chunk);
        }
        // After scaling, so that no factor can turn the mask into something else.
        row[seen..].fill(f32::NEG_INFINITY);
        let row = row.as_chunks_mut::<LANES>().0;
        let mut max = s.splat(f32::NEG_INFINITY);
        for chunk in row.iter() {
            max = s.max(max, s.load(chunk));
        }
        let (old, new) = (state.max[m], s.max_lane(max));
        if new > old {
            state.max[m] = new;
            let factor = (old - new).exp();
            state.sum[m] *= factor;
            for chunk in state.values[m * state.stride..][..state.stride].as_chunks_mut::<LANES>().0 {
                s.store(s.mul(s.load(chunk), s.splat(factor)), chunk);
            }
        }
        let mut sum = s.splat(0.0);
        for chunk in row {
            let e = exp(s, s.sub(s.load(chunk), s.splat(state.max[m])));
            sum = s.add(sum, e);
            s.store(e, chunk);
        }
        state.sum[m] += s.sum(sum);
    }
}

/// `values[m] += sum_j p[m, j] * rows[j]`.
#[inline(always)]
fn weigh<S: Simd>(s: S, p: &[f32], rows: Lanes<'_>, stride: usize, count: usize, state: &mut State) {
    let pairs = state.max.len();
    let width = state.stride / LANES;
    let tiles = pairs.div_ceil(TILE_ROWS);
    let values = state.values.as_chunks_mut::<LANES>().0;
    for tile in 0..tiles {
        let m = tile * pairs / tiles;
        let (p, out) = (&p[m * KEYS..], &mut values[m * width..]);
        match (tile + 1) * pairs / tiles - m {
            1 => add_scaled_rows::<S, 1>(s, (p, KEYS, count), (rows, stride), (out, width)),
            2 => add_scaled_rows::<S, 2>(s, (p, KEYS, count), (rows, stride), (out, width)),
            3 => add_scaled_rows::<S, 3>(s, (p, KEYS, count), (rows, stride), (out, width)),
            4 => add_scaled_rows::<S, 4>(s, (p, KEYS, count), (rows, stride), (out, width)),
            5 => add_scaled_rows::<S, 5>(s, (p, KEYS, count), (rows, stride), (out, width)),
            _ => add_scaled_rows::<S, 6>(s, (p, KEYS, count), (rows, stride), (out, width)),
        }
    }
}
