//! [`Shard`]: which part of the model a tensor-parallel rank keeps. Integers only.
//!
//! | weight | split over the ranks |
//! |---|---|
//! | embedding, head | rows: the vocabulary |
//! | q, k, v; `q_b`, `kv_b` of latent attention | rows: whole heads |
//! | `o` | columns: the same heads |
//! | `wq_b`, sinks of V4 | rows: whole groups of heads, or a part of one group |
//! | `wo_a`, `wo_b` of V4 | rows and columns: the same groups and heads |
//! | gate, up of every MLP and every expert | rows: the intermediate size |
//! | down | columns: the same |
//! | norms, router, `q_a`, `kv_a`, `eh_proj`, indexer, `wq_a`, `wkv`, compressors, streams' maps | kept by every rank |
//!
//! Every rank keeps a slice of *every* routed expert, not some experts whole: whatever the router chooses, each rank
//! reads the same share of the chosen experts' bytes, where whole experts would leave most ranks idle in a decode step
//! of few tokens. The number of experts then need not divide by the ranks either. Key heads fewer than ranks are kept
//! by several ranks, as is the latent of MLA, which has no heads.

use std::ops::Range;

use crate::{ModelError, Result};

/// Channels that a slice of an unquantised weight begins at a multiple of, where that costs no balance: a cache line
/// of bfloat16, or two.
const WHOLE_LINES: usize = 64;

/// A rank and the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    rank: usize,
    size: usize,
}

/// The heads of grouped-query attention that a rank keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadShard {
    /// Query heads; a multiple of the key heads.
    pub heads: Range<usize>,
    /// The key and value heads that they read.
    pub kv_heads: Range<usize>,
}

impl Shard {
    /// Rank `rank` of `size`.
    ///
    /// # Panics
    /// If `rank` is not below `size`.
    pub fn new(rank: usize, size: usize) -> Self {
        assert!(rank < size, "rank {rank} of {size}");
        Self { rank, size }
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// This rank's part of `num_heads` attention heads, whole heads, as even as can be.
    ///
    /// # Errors
    /// [`ModelError::Ranks`] if there are more ranks than heads.
    pub fn heads(&self, num_heads: usize) -> Result<Range<usize>> {
        self.check("num_attention_heads", num_heads)?;
        Ok(part(num_heads, 1, self.rank, self.size))
    }

    /// This rank's part of `num_heads` query heads that share `num_kv_heads` key heads.
    ///
    /// With fewer ranks than key heads a rank keeps whole groups. Otherwise a rank has one key head, which it shares
    /// with other ranks, and a part of its query heads.
    ///
    /// # Errors
    /// [`ModelError::Ranks`] if there are more ranks than query heads, [`ModelError::Config`] if these do not divide
    /// by the key heads.
    pub fn grouped_heads(&self, num_heads: usize, num_kv_heads: usize) -> Result<HeadShard> {
        self.check("num_attention_heads", num_heads)?;
        let Some(group) = num_heads.checked_div(num_kv_heads).filter(|g| g * num_kv_heads == num_heads)
        else {
            let expected = format!("a divisor of {num_heads} query heads");
            return Err(ModelError::config("num_key_value_heads", expected, num_kv_heads));
        };
        if self.size <= num_kv_heads {
            let kv_heads = part(num_kv_heads, 1, self.rank, self.size);
            return Ok(HeadShard { heads: kv_heads.start * group..kv_heads.end * group, kv_heads });
        }
        // The ranks fall into as many runs as there are key heads, and a run splits the head's group.
        let runs = (0..num_kv_heads).map(|kv| part(self.size, 1, kv, num_kv_heads));
        let found = runs.enumerate().find(|(_, ranks)| ranks.contains(&self.rank));
        let (kv, ranks) = found.unwrap_or((0, 0..self.size));
        let heads = part(group, 1, self.rank - ranks.start, ranks.len());
        Ok(HeadShard { heads: kv * group + heads.start..kv * group + heads.end, kv_heads: kv..kv + 1 })
    }

    /// This rank's part of `width` channels (config key `what`). Of a quantised weight, whole blocks of `block`
    /// channels wherever there is one for every rank; of others the parts begin at multiples of a power of two that
    /// leaves the largest at most a hundredth above the mean.
    ///
    /// # Errors
    /// [`ModelError::Ranks`] if there are more ranks than channels.
    pub fn channels(&self, what: &'static str, width: usize, block: Option<usize>) -> Result<Range<usize>> {
        self.check(what, width)?;
        Ok(part(width, self.unit(width, block), self.rank, self.size))
    }

    /// The lengths of all ranks' [`Shard::channels`].
    ///
    /// # Errors
    /// As [`Shard::channels`].
    pub fn widths(&self, what: &'static str, width: usize, block: Option<usize>) -> Result<Vec<usize>> {
        let ranks = (0..self.size).map(|rank| Self { rank, ..*self }.channels(what, width, block));
        ranks.map(|range| range.map(|range| range.len())).collect()
    }

    fn unit(&self, width: usize, block: Option<usize>) -> usize {
        if let Some(block) = block.filter(|block| width.div_ceil(*block) >= self.size) {
            return block;
        }
        let is_even = |unit: &usize| {
            let largest = width.div_ceil(*unit).div_ceil(self.size) * unit;
            largest * self.size * 100 <= width.next_multiple_of(self.size) * 101
        };
        std::iter::successors(Some(WHOLE_LINES), |unit| Some(unit / 2)).find(is_even).unwrap_or(1).max(1)
    }

    fn check(&self, what: &'static str, count: usize) -> Result<()> {
        if count >= self.size {
            return Ok(());
        }
        Err(ModelError::Ranks { what, count, ranks: self.size })
    }
}

/// Part `index` of `count` of `0..total`, in whole units but for the end; larger parts come first.
fn part(total: usize, unit: usize, index: usize, count: usize) -> Range<usize> {
    let units = total.div_ceil(unit);
    let start = |index: usize| (index * (units / count) + index.min(units % count)) * unit;
    start(index).min(total)..start(index + 1).min(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T>(size: usize, part: impl Fn(Shard) -> T) -> Vec<T> {
        (0..size).map(|rank| part(Shard::new(rank, size))).collect()
    }

    fn channels(width: usize, block: Option<usize>, size: usize) -> Vec<usize> {
        let ranges = all(size, |shard| shard.channels("width", width, block).unwrap());
        assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..width).collect::<Vec<_>>());
        let lens: Vec<usize> = ranges.iter().map(Range::len).collect();
        assert_eq!(Shard::new(0, size).widths("width", width, block).unwrap(), lens);
        lens
    }

    #[test]
    fn heads_are_dealt_as_evenly_as_can_be() {
        assert_eq!(all(4, |s| s.heads(16).unwrap()), [0..4, 4..8, 8..12, 12..16]);
        assert_eq!(all(3, |s| s.heads(5).unwrap()), [0..2, 2..4, 4..5]);
        assert_eq!(Shard::new(0, 1).heads(5).unwrap(), 0..5);
    }

    #[test]
    fn query_heads_follow_their_key_heads() {
        let grouped = |heads, kv, size| {
            all(size, |s| {
                let HeadShard { heads, kv_heads } = s.grouped_heads(heads, kv).unwrap();
                (heads, kv_heads)
            })
        };
        assert_eq!(grouped(8, 2, 2), [(0..4, 0..1), (4..8, 1..2)]);
        assert_eq!(grouped(12, 3, 2), [(0..8, 0..2), (8..12, 2..3)], "three key heads over two ranks");
        assert_eq!(grouped(8, 2, 4), [(0..2, 0..1), (2..4, 0..1), (4..6, 1..2), (6..8, 1..2)]);
        assert_eq!(grouped(8, 2, 3), [(0..2, 0..1), (2..4, 0..1), (4..8, 1..2)]);
        assert_eq!(grouped(3, 1, 3), [(0..1, 0..1), (1..2, 0..1), (2..3, 0..1)]);
        assert!(Shard::new(0, 2).grouped_heads(8, 3).is_err(), "no whole groups");
    }

    /// Every query head once, and with the key head that it has in the whole model.
    #[test]
    fn any_head_counts_over_any_ranks() {
        for (heads, kv) in [(1, 1), (7, 7), (28, 4), (32, 8), (40, 5), (12, 2), (9, 3)] {
            for size in 1..=heads {
                let shards = all(size, |s| s.grouped_heads(heads, kv).unwrap());
                assert_eq!(
                    shards.iter().flat_map(|s| s.heads.clone()).collect::<Vec<_>>(),
                    (0..heads).collect::<Vec<_>>()
                );
                for HeadShard { heads: own, kv_heads } in shards {
                    assert!(!own.is_empty() && own.len().is_multiple_of(kv_heads.len()));
                    let group = own.len() / kv_heads.len();
                    for (local, head) in own.enumerate() {
                        assert_eq!(
                            kv_heads.start + local / group,
                            head / (heads / kv),
                            "{heads}/{kv} over {size}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn channels_of_plain_weights_are_even_and_aligned_where_that_is_free() {
        assert_eq!(channels(11008, None, 4), [2752; 4]);
        assert_eq!(channels(1408, None, 3), [472, 472, 464], "multiples of eight");
        assert_eq!(channels(144, None, 4), [36; 4]);
        assert_eq!(channels(24, None, 3), [8; 3]);
        assert_eq!(channels(7, None, 3), [3, 2, 2]);
        assert_eq!(
            channels(129_280, None, 8),
            [16_192, 16_192, 16_192, 16_192, 16_128, 16_128, 16_128, 16_128]
        );
        assert_eq!(channels(10, None, 1), [10]);
    }

    #[test]
    fn channels_of_quantised_weights_are_whole_blocks() {
        assert_eq!(channels(2048, Some(128), 8), [256; 8]);
        assert_eq!(channels(18_432, Some(128), 5), [3712, 3712, 3712, 3712, 3584]);
        assert_eq!(channels(136, Some(128), 2), [128, 8], "the last block is partial");
        assert_eq!(channels(2048, Some(128), 32), [64; 32], "fewer blocks than ranks: blocks are cut");
    }

    #[test]
    fn more_ranks_than_parts_are_refused_by_name() {
        let error = Shard::new(0, 8).heads(4).unwrap_err().to_string();
        assert_eq!(error, "num_attention_heads is 4 and cannot be split over 8 ranks: use at most 4");
        assert!(Shard::new(0, 9).grouped_heads(8, 2).is_err());
        assert!(Shard::new(3, 4).channels("intermediate_size", 3, None).is_err());
    }
}
