//! The tile table: which shape of block multiplies a problem, and into how many parts its K is split.
//!
//! Everything follows from shapes, never from what the routing chose, so that a captured graph stays right. Within one
//! tile shape the parts of K follow from the weight alone: a row's sum has the same order whatever else is in the batch.

use super::gemm::Operand;

/// Streaming multiprocessors of an A100: the blocks that it takes to keep one busy.
const SMS: usize = 108;
/// Parts of K have at least so many columns: fewer would only fill and drain the pipeline.
const MIN_SPLIT_COLUMNS: usize = 512;
/// Columns of K that share a scale entry in a stage (`kGroup` of the kernels).
const GROUP: usize = 32;

/// A tile of `gemm.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of the result.
    pub(super) rows: usize,
    /// Columns of the result; half of each matrix where gate and up share a tile.
    pub(super) columns: usize,
    /// Columns of K in one step.
    pub(super) depth: usize,
    /// Steps in shared memory at a time.
    pub(super) stages: usize,
}

/// A product as the table sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Rows of the result over all matrices.
    pub(super) slots: usize,
    /// Matrices that the slots divide into.
    pub(super) matrices: usize,
    /// Matrices that one token needs.
    pub(super) top_k: usize,
    /// Rows of a matrix.
    pub(super) n: usize,
    /// Columns of a matrix.
    pub(super) k: usize,
    /// Whether two matrices are multiplied side by side.
    pub(super) gated: bool,
    /// Operand type.
    pub(super) operand: Operand,
}

/// How a product is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The tile.
    pub(super) tile: Tile,
    /// Rows of tiles; for several matrices the most that any routing can need.
    pub(super) row_tiles: usize,
    /// Tiles side by side.
    pub(super) column_tiles: usize,
    /// Parts of K.
    pub(super) splits: usize,
    /// Steps of one part.
    pub(super) steps_per_split: usize,
}

impl Tile {
    /// Few rows: what counts is that every weight byte is requested early and once.
    fn decode(operand: Operand) -> Self {
        let stages = if operand == Operand::F32 { 3 } else { 4 };
        Self { rows: 16, columns: 64, depth: 128, stages }
    }

    const MEDIUM: Self = Self { rows: 64, columns: 128, depth: 64, stages: 3 };
    const LARGE: Self = Self { rows: 128, columns: 128, depth: 64, stages: 3 };

    /// Dynamic shared memory of the kernel for weights of `bits` per element with `entries` words per 32 columns.
    pub(super) fn shared_bytes(&self, operand: Operand, bits: usize, entries: usize) -> usize {
        let x = self.rows * self.depth * operand.bytes();
        let weight = self.columns * self.depth * bits / 8;
        let words = entries * self.columns * (self.depth / GROUP) * 4;
        self.stages * (x + weight + words) + self.rows * 8
    }

    fn column_tiles(&self, shape: &Shape) -> usize {
        shape.n.div_ceil(if shape.gated { self.columns / 2 } else { self.columns })
    }

    /// Every matrix may end in a partial tile, but only those that have a slot.
    fn row_tiles(&self, shape: &Shape) -> usize {
        (shape.slots + shape.matrices.min(shape.slots) * (self.rows - 1)) / self.rows
    }
}

impl Plan {
    /// The plan for a product that has slots and columns.
    pub(super) fn new(shape: &Shape) -> Self {
        let tile = choose(shape);
        let column_tiles = tile.column_tiles(shape);
        let steps = shape.k.div_ceil(tile.depth).max(1);
        let splits = if tile == Tile::LARGE { 1 } else { splits(column_tiles * shape.top_k, shape.k) };
        let steps_per_split = steps.div_ceil(splits);
        let splits = steps.div_ceil(steps_per_split);
        Self { tile, row_tiles: tile.row_tiles(shape), column_tiles, splits, steps_per_split }
    }
}

/// By the rows that a matrix gets on average: padding is the cost of a tile that is too high, reading weights again
/// that of one that is too low.
fn choose(shape: &Shape) -> Tile {
    let rows = shape.slots.div_ceil(shape.matrices.min(shape.slots).max(1));
    let blocks = Tile::LARGE.row_tiles(shape) * Tile::LARGE.column_tiles(shape);
    match rows {
        0..=16 => Tile::decode(shape.operand),
        // Float operands are for checks: two tiles are enough.
        17..=64 => Tile::MEDIUM,
        _ if shape.operand == Operand::F32 || blocks < SMS => Tile::MEDIUM,
        _ => Tile::LARGE,
    }
}

/// As many parts as give each multiprocessor a block, for the `blocks` that one token has without splitting.
fn splits(blocks: usize, k: usize) -> usize {
    let wanted = (SMS + blocks / 2) / blocks.max(1);
    wanted.min(k / MIN_SPLIT_COLUMNS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(slots: usize, n: usize, k: usize) -> Plan {
        let operand = Operand::Bf16;
        Plan::new(&Shape { slots, matrices: 1, top_k: 1, n, k, gated: false, operand })
    }

    fn experts(tokens: usize, top_k: usize, matrices: usize) -> Plan {
        let (slots, operand) = (tokens * top_k, Operand::Bf16);
        Plan::new(&Shape { slots, matrices, top_k, n: 2048, k: 7168, gated: true, operand })
    }

    #[test]
    fn higher_tiles_for_more_rows() {
        let rows = |plan: Plan| plan.tile.rows;
        assert_eq!([1, 16, 17, 64].map(|m| rows(dense(m, 7168, 2048))), [16, 16, 64, 64]);
        assert_eq!([256, 4096].map(|m| rows(dense(m, 7168, 2048))), [128, 128]);
        assert_eq!(rows(dense(100, 576, 7168)), 64, "few blocks: lower tiles");
        assert_eq!([1, 512, 513, 2048, 4096].map(|t| rows(experts(t, 8, 256))), [16, 16, 64, 64, 128]);
    }

    #[test]
    fn parts_of_k_fill_the_gpu_and_do_not_depend_on_the_batch() {
        let plan = dense(1, 576, 7168);
        assert!((100..=120).contains(&(plan.column_tiles * plan.splits)), "{plan:?}");
        assert!((1..=16).all(|m| dense(m, 576, 7168).splits == plan.splits));
        assert!((1..=512).all(|t| experts(t, 8, 256).splits == 1), "eight experts are enough blocks");
        assert_eq!(dense(1, 129_280, 7168).splits, 1);
        assert_eq!(dense(1, 64, 500).splits, 1, "too short");
    }

    #[test]
    fn parts_cover_k_and_none_is_empty() {
        for k in [1, 64, 500, 512, 1024, 1408, 2048, 7168, 18_432] {
            for n in [1, 64, 576, 1536, 7168] {
                for slots in [1, 40] {
                    let plan = dense(slots, n, k);
                    let steps = k.div_ceil(plan.tile.depth);
                    assert!(plan.splits * plan.steps_per_split >= steps, "{k} {plan:?}");
                    assert!((plan.splits - 1) * plan.steps_per_split < steps, "{k} {plan:?}");
                }
            }
        }
    }

    #[test]
    fn every_routing_fits_the_tiles() {
        for (slots, matrices) in [(1, 8), (8, 8), (9, 4), (100, 7), (1000, 3), (4000, 256)] {
            let shape =
                Shape { slots, matrices, top_k: 1, n: 64, k: 64, gated: false, operand: Operand::Bf16 };
            for tile in [Tile::decode(Operand::Bf16), Tile::MEDIUM, Tile::LARGE] {
                // The worst case: as many matrices as there are have one slot more than full tiles.
                let used = matrices.min(slots);
                let mut counts = vec![1; used];
                let mut left = slots - used;
                for count in &mut counts {
                    let more = left / tile.rows * tile.rows;
                    *count += more;
                    left -= more;
                }
                counts[0] += left;
                let needed: usize = counts.iter().map(|c: &usize| c.div_ceil(tile.rows)).sum();
                assert!(needed <= tile.row_tiles(&shape), "{slots} slots of {matrices}, {tile:?}");
            }
        }
    }

    #[test]
    fn two_blocks_of_the_smaller_tiles_fit_a_multiprocessor() {
        // 164 KB less 1 KB for each block; FP8 has a scale, INT4 a scale and a zero point per 32 columns.
        for (bits, entries) in [(16, 0), (8, 1), (4, 1), (4, 2)] {
            for (tile, blocks) in [(Tile::decode(Operand::Bf16), 2), (Tile::MEDIUM, 2), (Tile::LARGE, 1)] {
                let bytes = tile.shared_bytes(Operand::Bf16, bits, entries) + 1024;
                assert!(bytes * blocks <= 164 << 10, "{tile:?} of {bits} bits: {bytes}");
            }
        }
        assert!(Tile::decode(Operand::F32).shared_bytes(Operand::F32, 32, 0) <= 163 << 10);
        assert!(Tile::MEDIUM.shared_bytes(Operand::F32, 32, 0) <= 163 << 10);
    }
}
