//! The lightning indexer: scores of a query's keys, and the best of them without sorting.
//!
//! First the scores, in tasks of one query and a span of keys, so that a single query over a long context also fills the
//! cores; then the choice, a task per query. Only as many queries are in flight as their scores fit [`MAX_SCORES`]. A
//! score's sums have one order, whatever the tasks are.

use std::ops::Range;

use super::attention::{CacheRows, KEYS, Sequence, score};
use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::parallel::{Disjoint, for_each};
use super::simd::{LANES, Simd};

/// Keys of one task.
const SPAN: usize = 2048;
/// Scores that are kept at a time, if there is more than one query: 16 MB.
const MAX_SCORES: usize = 4 << 20;

/// What one call reads.
pub struct IndexTopk<'a> {
    /// `[T, heads, dim]`.
    pub q: &'a [f32],
    /// `[T, heads]`.
    pub weights: &'a [f32],
    /// Rows of `dim` values.
    pub keys: CacheRows<'a>,
    /// Query heads.
    pub heads: usize,
    /// Width of a head and of a key.
    pub dim: usize,
    /// Keys of a block.
    pub rows_per_block: usize,
    /// Tokens that share a key.
    pub tokens_per_key: usize,
    /// The sequences of the step; the block tables must lie within the keys.
    pub sequences: Vec<Sequence<'a>>,
    /// Keys to choose, at least 1.
    pub topk: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// A token that has to choose.
struct Query {
    token: usize,
    sequence: usize,
    visible: usize,
}

impl IndexTopk<'_> {
    /// The tokens of the step and how many keys each sees.
    fn queries(&self) -> impl Iterator<Item = Query> {
        self.sequences.iter().enumerate().flat_map(move |(sequence, s)| {
            s.queries.clone().map(move |token| {
                let tokens_seen = s.context - (s.queries.end - token) + 1;
                Query { token, sequence, visible: tokens_seen / self.tokens_per_key }
            })
        })
    }

    /// Keys that are scored: all that a token sees, if there are more than it may choose.
    pub fn keys_read(&self) -> usize {
        self.queries().map(|query| query.visible).filter(|&visible| visible > self.topk).sum()
    }
}

/// Writes the chosen keys of every token to `out` `[T, topk]`, ascending and filled up with `u32::MAX`.
pub fn index_topk(level: Level, args: &IndexTopk<'_>, out: &mut [u32]) {
    let (choosing, content): (Vec<Query>, Vec<Query>) = args.queries().partition(|q| q.visible > args.topk);
    for query in content {
        let list = &mut out[query.token * args.topk..][..args.topk];
        let (all, unused) = list.split_at_mut(query.visible);
        all.iter_mut().zip(0..).for_each(|(to, key)| *to = key);
        unused.fill(u32::MAX);
    }
    let mut rest = &choosing[..];
    while !rest.is_empty() {
        let mut scores = 0;
        let fits = |query: &&Query| {
            scores += query.visible;
            scores <= MAX_SCORES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        choose(level, args, now, out);
        rest = later;
    }
}

/// The lists of `queries`, all scores of which are kept.
fn choose(level: Level, args: &IndexTopk<'_>, queries: &[Query], out: &mut [u32]) {
    let mut starts = vec![0];
    starts.extend(queries.iter().scan(0, |end, query| {
        *end += query.visible;
        Some(*end)
    }));
    let total = starts[queries.len()];
    let spans: Vec<(usize, Range<usize>)> = queries
        .iter()
        .enumerate()
        .flat_map(|(i, query)| {
            (0..query.visible).step_by(SPAN).map(move |at| (i, at..(at + SPAN).min(query.visible)))
        })
        .collect();
    let mut scores = Scratch::zeroed(total);
    let target = Disjoint::new(&mut scores);
    for_each(spans.len(), total * args.heads * args.dim, |task| {
        let (i, keys) = &spans[task];
        // SAFETY: every task has its own keys of its own query.
        let scores = unsafe { target.part(starts[*i] + keys.start, keys.len()) };
        level.run(ScoreSpan { args, query: &queries[*i], keys: keys.clone(), scores });
    });
    let target = Disjoint::new(out);
    // A few passes over the scores.
    for_each(queries.len(), 8 * total, |i| {
        // SAFETY: every task has its own token.
        let list = unsafe { target.part(queries[i].token * args.topk, args.topk) };
        take_best(&scores[starts[i]..starts[i + 1]], list);
    });
}

/// The scores of a query's `keys`.
struct ScoreSpan<'a> {
    args: &'a IndexTopk<'a>,
    query: &'a Query,
    keys: Range<usize>,
    scores: &'a mut [f32],
}

impl Kernel for ScoreSpan<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { args, query, keys, scores } = self;
        let IndexTopk { heads, dim, rows_per_block, .. } = *args;
        let blocks = args.sequences[query.sequence].blocks;
        let weights = &args.weights[query.token * heads..][..heads];
        let stride = dim.next_multiple_of(LANES);
        let mut q = Scratch::zeroed(heads * stride);
        let from = args.q[query.token * heads * dim..][..heads * dim].chunks_exact(dim);
        q.chunks_exact_mut(stride).zip(from).for_each(|(to, from)| to[..dim].copy_from_slice(from));
        let (mut rows, mut dots) = (Scratch::zeroed(KEYS * stride), Scratch::zeroed(heads * KEYS));
        for (keys, scores) in keys.step_by(KEYS).zip(scores.chunks_mut(KEYS)) {
            for (key, to) in (keys..keys + scores.len()).zip(rows.chunks_exact_mut(stride)) {
                let row = blocks[key / rows_per_block] as usize * rows_per_block + key % rows_per_block;
                args.keys.load(s, (row, dim), 0..dim, to);
            }
            score(s, &q, &rows, stride, scores.len(), &mut dots);
            weigh(s, &dots, weights, args.scale, scores);
        }
    }
}

/// `scores[j] = sum_h weights[h] * relu(dots[h, j]) * scale`.
#[inline(always)]
fn weigh<S: Simd>(s: S, dots: &[f32], weights: &[f32], scale: f32, scores: &mut [f32]) {
    for (chunk, scores) in scores.chunks_mut(LANES).enumerate() {
        let mut sum = s.splat(0.0);
        for (dots, weight) in dots.as_chunks::<KEYS>().0.iter().zip(weights) {
            let dot = s.load(&dots.as_chunks().0[chunk]);
            // Of zero and NaN, NaN: a key that nobody wrote must show.
            sum = s.mul_add(s.max(s.splat(0.0), dot), s.splat(*weight), sum);
        }
        let mut lanes = [0.0; LANES];
        s.store(s.mul(sum, s.splat(scale)), &mut lanes);
        scores.copy_from_slice(&lanes[..scores.len()]);
    }
}

/// Orders as scores do, NaN above all numbers, and among equal ones the lower index above the higher.
fn rank(score: f32, index: u32) -> u64 {
    // -0 becomes 0.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!index)
}

/// Indices of the best `list.len()` of more scores, ascending.
fn take_best(scores: &[f32], list: &mut [u32]) {
    let mut ranks: Vec<u64> = scores.iter().zip(0..).map(|(&score, index)| rank(score, index)).collect();
    ranks.select_nth_unstable_by(list.len() - 1, |a, b| b.cmp(a));
    list.iter_mut().zip(&ranks).for_each(|(to, rank)| *to = !(*rank as u32));
    list.sort_unstable();
}
