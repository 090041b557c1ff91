//! [`PackedRow`]: the rows that a cache of bytes can hold.

use crate::{Fp4KeyRow, Fp8Row, IndexKeyRow, SharedKvRow};

/// One kind of packed row. All are written whole, and read from their first value on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedRow {
    /// A latent of MLA and its rope key (V3.2).
    Latent(Fp8Row),
    /// A row that is key and value at once (V4).
    SharedKv(SharedKvRow),
    /// The key of a lightning indexer in FP8 (V3.2).
    IndexKey(IndexKeyRow),
    /// The same in FP4 (V4).
    Fp4Key(Fp4KeyRow),
}

impl PackedRow {
    /// Values of a row.
    pub const fn width(self) -> usize {
        match self {
            Self::Latent(row) => row.width(),
            Self::SharedKv(row) => row.head_dim,
            Self::IndexKey(row) => row.index_head_dim,
            Self::Fp4Key(row) => row.index_head_dim,
        }
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Latent(row) => row.bytes(),
            Self::SharedKv(row) => row.bytes(),
            Self::IndexKey(row) => row.bytes(),
            Self::Fp4Key(row) => row.bytes(),
        }
    }

    /// Whether a row is multiplied by the Walsh-Hadamard matrix before it is packed.
    pub const fn is_rotated(self) -> bool {
        matches!(self, Self::IndexKey(_) | Self::Fp4Key(_))
    }

    /// Packs a row of `width` values into `to`.
    pub fn encode(self, row: &[f32], to: &mut [u8]) {
        match self {
            Self::Latent(format) => format.encode(row, to),
            Self::SharedKv(format) => format.encode(row, to),
            Self::IndexKey(format) => format.encode(row, to),
            Self::Fp4Key(format) => format.encode(row, to),
        }
    }

    /// The first values of row number `row` of `rows`, as many as `to` has.
    pub fn decode(self, rows: &[u8], row: usize, to: &mut [f32]) {
        let bytes = &rows[row * self.bytes()..][..self.bytes()];
        match self {
            Self::Latent(format) => format.decode(bytes, to),
            Self::SharedKv(format) => format.decode(bytes, to),
            Self::IndexKey(format) => format.decode(bytes, to),
            Self::Fp4Key(format) => format.decode(bytes, to),
        }
    }
}
