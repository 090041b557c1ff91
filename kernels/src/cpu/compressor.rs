//! Compressed entries: a softmax per channel over a window's tokens, norm and rope.

use super::attention::Sequence;
use super::hadamard::hadamard;
use super::kv_write::{CacheMut, store};
use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::parallel::{Disjoint, for_each};
use super::recent::{Recent, start};
use super::shared_kv::norm_and_rotate;
use super::simd::{LANES, Simd, exp};

/// What one call reads; see [`crate::ops::compress`].
pub struct Compress<'a> {
    /// `[T, 2 C]`.
    pub projected: &'a [f32],
    /// `[slots, ring_rows, 2 C]`.
    pub state: &'a [f32],
    /// Rows of a slot.
    pub ring_rows: usize,
    /// `[ratio, C]`.
    pub ape: &'a [f32],
    /// Weights `[D]` and epsilon.
    pub norm: (&'a [f32], f32),
    /// Cosines and sines of every token's window, `[T, half]`.
    pub angles: (&'a [f32], &'a [f32]),
    /// Tokens of an entry.
    pub ratio: usize,
    /// Whether an entry also takes the window before its own.
    pub overlaps: bool,
    /// Entries of a block.
    pub rows_per_block: usize,
    /// The sequences of the step with their slots; the block tables must lie within the cache.
    pub sequences: Vec<(Sequence<'a>, usize)>,
}

/// An entry that this step completes.
struct Entry {
    sequence: usize,
    /// Its number in the sequence.
    window: usize,
}

/// Writes every entry that the step completes to its row of the cache.
pub fn compress(level: Level, args: &Compress<'_>, cache: &mut CacheMut<'_>) {
    let dim = args.norm.0.len();
    let entries: Vec<Entry> = args
        .sequences
        .iter()
        .enumerate()
        .flat_map(|(index, (sequence, _))| {
            let windows = start(sequence) / args.ratio..sequence.context / args.ratio;
            windows.map(move |window| Entry { sequence: index, window })
        })
        .collect();
    let rotated = cache.is_rotated();
    let mut rows = Scratch::zeroed(entries.len() * dim);
    let target = Disjoint::new(&mut rows);
    for_each(entries.len(), entries.len() * args.ring_rows * dim * 16, |i| {
        // SAFETY: every task has its own entry.
        let row = unsafe { target.part(i * dim, dim) };
        args.entry(level, &entries[i], row);
        if rotated {
            hadamard(row);
        }
    });
    for (entry, row) in entries.iter().zip(rows.chunks_exact(dim.max(1))) {
        let block = args.sequences[entry.sequence].0.blocks[entry.window / args.rows_per_block] as usize;
        let at = block * args.rows_per_block + entry.window % args.rows_per_block;
        store(level, cache, at * dim, row);
    }
}

impl Compress<'_> {
    fn entry(&self, level: Level, entry: &Entry, out: &mut [f32]) {
        let (sequence, slot) = &self.sequences[entry.sequence];
        let (dim, channels) = (out.len(), self.ape.len() / self.ratio);
        let recent = Recent {
            fresh: self.projected,
            ring: self.state,
            ring_rows: self.ring_rows,
            width: 2 * channels,
        };
        let own = entry.window * self.ratio;
        // The window before comes first; the first window has none.
        let before = if self.overlaps { own.saturating_sub(self.ratio) } else { own };
        let tokens: Vec<Token<'_>> = (before..own + self.ratio)
            .map(|position| {
                // Of two halves of channels the second is for a token's own window.
                let half = if self.overlaps && position >= own { dim } else { 0 };
                let row = recent.row(sequence, *slot, position);
                let ape = &self.ape[position % self.ratio * channels + half..][..dim];
                Token { value: &row[half..][..dim], gate: &row[channels + half..][..dim], ape }
            })
            .collect();
        let mut sum = Scratch::zeroed(dim.next_multiple_of(LANES));
        level.run(WeightedSum { tokens: &tokens, out: &mut sum });
        // Any token of the window has its angles; the last one is of this step.
        let token = sequence.queries.start + own + self.ratio - 1 - start(sequence);
        let tokens = self.projected.len() / (2 * channels);
        let half = self.angles.0.len() / tokens;
        let angles = (&self.angles.0[token * half..][..half], &self.angles.1[token * half..][..half]);
        norm_and_rotate(level, &sum[..dim], self.norm, angles, out);
    }
}

/// What one token gives to an entry, `[D]` each.
struct Token<'a> {
    value: &'a [f32],
    gate: &'a [f32],
    ape: &'a [f32],
}

/// `out[c] = sum_i softmax_i(gate_i[c] + ape_i[c]) value_i[c]`; `out` is in whole vectors.
struct WeightedSum<'a> {
    tokens: &'a [Token<'a>],
    out: &'a mut [f32],
}

impl Kernel for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tokens, out } = self;
        for (chunk, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let at = chunk * LANES;
            let mut max = s.splat(f32::NEG_INFINITY);
            for token in tokens {
                max = s.max(max, s.add(lanes(s, token.gate, at), lanes(s, token.ape, at)));
            }
            let (mut sum, mut total) = (s.splat(0.0), s.splat(0.0));
            for token in tokens {
                let gate = s.add(lanes(s, token.gate, at), lanes(s, token.ape, at));
                let e = exp(s, s.sub(gate, max));
                total = s.add(total, e);
                sum = s.mul_add(e, lanes(s, token.value, at), sum);
            }
            s.store(s.div(sum, total), out);
        }
    }
}

/// A vector from element `at` on; zeros past the end.
#[inline(always)]
fn lanes<S: Simd>(s: S, row: &[f32], at: usize) -> S::V {
    match row[at..].first_chunk::<LANES>() {
        Some(chunk) => s.load(chunk),
        None => {
            let mut tail = [0.0; LANES];
            tail[..row.len() - at].copy_from_slice(&row[at..]);
            s.load(&tail)
        }
    }
}
