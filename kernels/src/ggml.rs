//! [`GgmlType`]: the block formats of GGUF files as facts: ids, sizes, where the scales lie. Upstream: `ggml.h` and
//! `ggml-common.h` of llama.cpp.

use std::fmt;

/// A block format of ggml: a run of columns of one row, packed together with its scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// 32 codes of 4 bits, one scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 codes of 5 bits, one scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 codes of 8 bits, one scale.
    Q8_0,
    /// 256 codes of 2 bits; 16 scales and minima of 4 bits under a common scale each.
    Q2K,
    /// 256 codes of 3 bits; 16 scales of 6 bits under a common one.
    Q3K,
    /// 256 codes of 4 bits; 8 scales and minima of 6 bits under a common scale each.
    Q4K,
    /// 256 codes of 5 bits; 8 scales and minima of 6 bits under a common scale each.
    Q5K,
    /// 256 codes of 6 bits; 16 scales of 8 bits under a common one.
    Q6K,
    /// 32 codes of 4 bits into a table of 16 uneven steps, one scale.
    Iq4Nl,
    /// 256 codes into the table of [`GgmlType::Iq4Nl`]; 8 scales of 6 bits under a common one.
    Iq4Xs,
    /// 32 codes of e2m1, one exponent (OCP MXFP4).
    Mxfp4,
}

/// Name, id in a file, columns of a block, bytes of a block, byte offsets of the half-precision scales in it.
type Row = (GgmlType, &'static str, u32, usize, usize, &'static [usize]);

const TABLE: [Row; 13] = [
    (GgmlType::Q4_0, "Q4_0", 2, 32, 18, &[0]),
    (GgmlType::Q4_1, "Q4_1", 3, 32, 20, &[0, 2]),
    (GgmlType::Q5_0, "Q5_0", 6, 32, 22, &[0]),
    (GgmlType::Q5_1, "Q5_1", 7, 32, 24, &[0, 2]),
    (GgmlType::Q8_0, "Q8_0", 8, 32, 34, &[0]),
    (GgmlType::Q2K, "Q2_K", 10, 256, 84, &[80, 82]),
    (GgmlType::Q3K, "Q3_K", 11, 256, 110, &[108]),
    (GgmlType::Q4K, "Q4_K", 12, 256, 144, &[0, 2]),
    (GgmlType::Q5K, "Q5_K", 13, 256, 176, &[0, 2]),
    (GgmlType::Q6K, "Q6_K", 14, 256, 210, &[208]),
    (GgmlType::Iq4Nl, "IQ4_NL", 20, 32, 18, &[0]),
    (GgmlType::Iq4Xs, "IQ4_XS", 23, 256, 136, &[0]),
    (GgmlType::Mxfp4, "MXFP4", 39, 32, 17, &[]),
];

impl GgmlType {
    /// Every format, in the order of the ids.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// The largest [`GgmlType::block_len`]; the others divide it.
    pub const LONGEST_BLOCK: usize = 256;

    /// The format with this id in a GGUF file; `None` for the plain types and for formats that nothing here decodes.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == id).map(|row| row.0)
    }

    /// Columns of one block.
    pub const fn block_len(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].4
    }

    /// Bytes of a row of `columns`, or `None` where they are no whole blocks.
    pub const fn row_bytes(self, columns: usize) -> Option<usize> {
        match columns.is_multiple_of(self.block_len()) {
            true => (columns / self.block_len()).checked_mul(self.block_bytes()),
            false => None,
        }
    }

    /// The first of `blocks` whose scale is NaN or infinite: all of its columns are then.
    pub fn first_non_finite(self, blocks: &[u8]) -> Option<usize> {
        let offsets = TABLE[self as usize].5;
        let bad = |block: &[u8]| match self {
            Self::Mxfp4 => block[0] == 0xFF,
            _ => offsets.iter().any(|&at| block[at + 1] & 0x7C == 0x7C),
        };
        blocks.chunks_exact(self.block_bytes()).position(bad)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(TABLE[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (row, kind) in TABLE.iter().zip(GgmlType::ALL) {
            assert_eq!((row.0, kind as usize), (kind, TABLE.iter().position(|r| r.0 == kind).unwrap()));
            assert_eq!(GgmlType::from_id(row.2), Some(kind));
            assert!(GgmlType::LONGEST_BLOCK.is_multiple_of(kind.block_len()));
        }
        assert_eq!((GgmlType::from_id(0), GgmlType::from_id(16), GgmlType::from_id(200)), (None, None, None));
        assert_eq!(GgmlType::Q6K.row_bytes(512), Some(420));
        assert_eq!((GgmlType::Q6K.row_bytes(128), GgmlType::Q4_0.row_bytes(0)), (None, Some(0)));
    }

    #[test]
    fn a_scale_that_is_no_number_is_found_by_its_block() {
        let mut blocks = [0_u8; 3 * 84];
        assert_eq!(GgmlType::Q2K.first_non_finite(&blocks), None);
        blocks[84 + 83] = 0x7C;
        assert_eq!(GgmlType::Q2K.first_non_finite(&blocks), Some(1));
        assert_eq!(GgmlType::Mxfp4.first_non_finite(&[[0; 17], [0xFF; 17]].concat()), Some(1));
    }
}
