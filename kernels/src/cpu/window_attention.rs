//! Window and compressed attention: the rows that a step's queries see are gathered once, each query lists its own, and
//! [`paged_attention`] does the rest.
//!
//! A query's list has its window in order, then its entries in order, whatever else is in the step, so that its sums
//! have one order.

use std::collections::HashMap;

use super::attention::{Attention, CacheRows, Sequence, paged_attention};
use super::level::Level;
use super::recent::{Place, place, start};

/// The rows of recent positions.
pub struct WindowRows<'a> {
    /// Of the step's own tokens, `[T, D]`.
    pub fresh: CacheRows<'a>,
    /// Of earlier ones, `[slots, ring_rows, D]`; the same type as `fresh`.
    pub ring: CacheRows<'a>,
    /// Rows of a slot, at least `window`.
    pub ring_rows: usize,
    /// Positions that a query sees, its own included.
    pub window: usize,
}

/// Compressed entries.
pub struct EntryRows<'a> {
    /// `[blocks, rows_per_block, D]`.
    pub cache: CacheRows<'a>,
    /// Entries of a block.
    pub rows_per_block: usize,
    /// Tokens of an entry.
    pub ratio: usize,
    /// `[T, K]` and `K`: the entries of each query, `u32::MAX` unused; `None` for all that it may see.
    pub lists: Option<(&'a [u32], usize)>,
}

/// What one call reads; see [`crate::ops::window_attention`].
pub struct WindowAttention<'a> {
    /// `[T, heads, dim]`.
    pub q: &'a [f32],
    /// The window.
    pub rows: WindowRows<'a>,
    /// The entries, if the layer has them.
    pub entries: Option<EntryRows<'a>>,
    /// `[heads]`.
    pub sinks: &'a [f32],
    /// The sequences of the step with their slots; block tables must lie within the entries' cache.
    pub sequences: Vec<(Sequence<'a>, usize)>,
    /// Query heads.
    pub heads: usize,
    /// Width of a row.
    pub dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

impl WindowAttention<'_> {
    /// Position of query `t` of `sequence`.
    fn position(sequence: &Sequence<'_>, t: usize) -> usize {
        start(sequence) + t - sequence.queries.start
    }

    /// The first listed entry that its query may not see yet, with the number of those it may.
    ///
    /// # Errors
    /// That entry.
    pub fn check_entries(&self) -> Result<(), (usize, u32)> {
        let Some(EntryRows { lists: Some((lists, topk)), ratio, .. }) = &self.entries else { return Ok(()) };
        for (sequence, _) in &self.sequences {
            for t in sequence.queries.clone() {
                let visible = (Self::position(sequence, t) + 1) / ratio;
                let mut used = lists[t * topk..][..*topk].iter().filter(|&&entry| entry != u32::MAX);
                if let Some(&entry) = used.find(|&&entry| entry as usize >= visible) {
                    return Err((visible, entry));
                }
            }
        }
        Ok(())
    }

    /// Every row that a query of the step sees, decoded, and which of them each query sees, in order.
    fn gather(&self) -> (Vec<f32>, Vec<Vec<u32>>) {
        let mut rows = Gathered { values: Vec::new(), dim: self.dim };
        let mut seen = Vec::new();
        for (sequence, slot) in &self.sequences {
            let first = start(sequence).saturating_sub(self.rows.window - 1);
            let base = rows.count();
            self.push_window(&mut rows, sequence, *slot, first);
            let mut places = HashMap::new();
            for t in sequence.queries.clone() {
                let position = Self::position(sequence, t);
                let oldest = (position + 1).saturating_sub(self.rows.window);
                let mut list: Vec<u32> = (oldest..=position).map(|p| base + (p - first) as u32).collect();
                if let Some(entries) = &self.entries {
                    for entry in entries.of_query(t, position) {
                        let push = || rows.push(&entries.cache, entries.row(sequence, entry));
                        list.push(*places.entry(entry).or_insert_with(push));
                    }
                }
                seen.push(list);
            }
        }
        (rows.values, seen)
    }

    /// The rows of positions `first ..` of a sequence, earlier ones and those of the step.
    fn push_window(&self, rows: &mut Gathered, sequence: &Sequence<'_>, slot: usize, first: usize) {
        for position in first..sequence.context {
            match place(sequence, (slot, self.rows.ring_rows), position) {
                Place::Fresh(row) => rows.push(&self.rows.fresh, row),
                Place::Ring(row) => rows.push(&self.rows.ring, row),
            };
        }
    }
}

impl EntryRows<'_> {
    /// The entries that query `t` at `position` attends to.
    fn of_query(&self, t: usize, position: usize) -> impl Iterator<Item = u32> {
        let visible = (position + 1) / self.ratio;
        let listed = self.lists.map(|(lists, topk)| &lists[t * topk..][..topk]);
        let all = if listed.is_none() { visible as u32 } else { 0 };
        let listed = listed.unwrap_or_default().iter().copied().filter(|&entry| entry != u32::MAX);
        (0..all).chain(listed)
    }

    /// The cache row of an entry.
    fn row(&self, sequence: &Sequence<'_>, entry: u32) -> usize {
        let (block, row) = (entry as usize / self.rows_per_block, entry as usize % self.rows_per_block);
        sequence.blocks[block] as usize * self.rows_per_block + row
    }
}

/// Rows of `dim` values, decoded.
struct Gathered {
    values: Vec<f32>,
    dim: usize,
}

impl Gathered {
    fn count(&self) -> u32 {
        (self.values.len() / self.dim.max(1)) as u32
    }

    /// Adds row `row` of `from` and returns its place.
    fn push(&mut self, from: &CacheRows<'_>, row: usize) -> u32 {
        let place = self.count();
        from.extend((row, self.dim), &mut self.values);
        place
    }
}

/// Writes the attention of every query head to `out` `[T, heads, dim]`. Returns the rows that were read, each query's counted
/// by itself.
pub fn window_attention(level: Level, args: &WindowAttention<'_>, out: &mut [f32]) -> usize {
    let (rows, seen) = args.gather();
    let query = |(t, list): (usize, &'_ Vec<u32>)| (t..t + 1, list.len());
    let queries = seen.iter().enumerate().map(query).zip(&seen);
    let attention = Attention {
        q: args.q,
        cache: CacheRows::F32(&rows),
        width: args.dim,
        block_size: 1,
        sequences: queries
            .map(|((queries, context), blocks)| Sequence { queries, context, blocks })
            .collect(),
        heads: args.heads,
        kv_heads: 1,
        key_dim: args.dim,
        value_start: 0,
        value_dim: args.dim,
        scale: args.scale,
        sinks: Some(args.sinks),
    };
    paged_attention(level, &attention, out);
    attention.rows_read()
}
