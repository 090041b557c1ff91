//! `join_cols`.

use kernels::{DType, KernelError, Precision, ops};
use testkit::soft_gpu;

use crate::common::{packed, tensor};

/// Rows and widths: one block, one row, nothing, odd sizes, more than a thread block, and the vocabulary of V3 on four
/// ranks (in units of 16 bytes), with its remainder on three.
const CASES: [(usize, &[usize]); 8] = [
    (2, &[5]),
    (1, &[3, 4]),
    (0, &[3, 4]),
    (3, &[1, 0, 2]),
    (4, &[255, 257, 9]),
    (2, &[8, 8, 16]),
    (2, &[32320, 32320, 32320, 32320]),
    (2, &[43094, 43093, 43093]),
];

/// Every element's value is its place in the joined matrix.
fn case(rows: usize, widths: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let cols: usize = widths.iter().sum();
    let mut blocks = Vec::new();
    let mut begin = 0;
    for width in widths {
        blocks
            .extend((0..rows).flat_map(|row| (0..*width).map(move |col| (row * cols + begin + col) as f32)));
        begin += width;
    }
    (blocks, (0..rows * cols).map(|i| i as f32).collect())
}

#[test]
fn blocks_become_columns() {
    for (rows, widths) in CASES {
        let (blocks, want) = case(rows, widths);
        let shape = [rows, widths.iter().sum()];
        let joined = ops::join_cols(&tensor(&shape, &blocks), widths).unwrap();
        assert_eq!((joined.shape(), joined.to_vec_f32()), (&shape[..], want), "{rows} rows of {widths:?}");
    }
    let refused = ops::join_cols(&tensor(&[1, 3], &[0.0; 3]), &[1, 1]);
    assert!(matches!(refused, Err(KernelError::Value { .. })), "{refused:?}");
}

#[test]
fn blocks_become_columns_on_a_gpu() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    for dtype in [DType::F32, DType::BF16, DType::F8E4M3] {
        for (rows, widths) in CASES {
            let (blocks, _) = case(rows, widths);
            let shape = [rows, widths.iter().sum()];
            // Any rounding will do: the op moves bits.
            let blocks = packed(dtype, &shape, &blocks.iter().map(|v| v % 251.0).collect::<Vec<_>>());
            let want = ops::join_cols(&blocks, widths).unwrap();
            let joined = ops::join_cols(&blocks.to_device(&device).unwrap(), widths).unwrap();
            assert_eq!((joined.shape(), joined.dtype()), (want.shape(), dtype));
            assert_eq!(
                joined.host_bytes().unwrap(),
                want.host_bytes().unwrap(),
                "{dtype}, {rows} rows of {widths:?}"
            );
        }
    }
}
