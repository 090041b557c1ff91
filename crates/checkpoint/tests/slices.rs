//! Parts of tensors: the values of the whole, cut on and off block boundaries, and only their bytes read.

#![allow(clippy::unwrap_used)]

mod support;

use std::ops::Range;

use checkpoint::{Checkpoint, Slice};
use kernels::Weight;
use support::{Draft, bf16_bytes, draft, e4m3_bytes, f32_bytes, ramp, safetensors, v3_config};

fn single(tensors: &[Draft]) -> Checkpoint {
    let bytes = safetensors(tensors).leak();
    Checkpoint::from_parts(v3_config().to_string().as_bytes(), bytes).unwrap()
}

/// Rows `rows` and columns `cols` of a row-major matrix of `k` columns.
fn cut(values: &[f32], k: usize, rows: Range<usize>, cols: Range<usize>) -> Vec<f32> {
    rows.flat_map(|r| values[r * k..][cols.clone()].to_vec()).collect()
}

/// Every slice `start..end` of a few starts and ends of `0..size`.
fn ranges(size: usize) -> Vec<Range<usize>> {
    let ends = [0, 1, 3, 4, 5, 8, 11, size];
    ends.iter().flat_map(|&a| ends.iter().filter(move |&&b| a <= b).map(move |&b| a..b)).collect()
}

fn shape(weight: &Weight) -> [usize; 3] {
    [weight.num_experts(), weight.rows(), weight.cols()]
}

/// Blocks are 4x8 here.
const SHAPE: [usize; 2] = [13, 21];

fn fp8() -> Checkpoint {
    let [n, k] = SHAPE;
    let matrix = |name: &str, seed: usize| {
        let scales: Vec<f32> = (0..12).map(|i| 2f32.powi((i * 5 + seed as i32) % 7 - 3)).collect();
        [
            draft(&format!("{name}.weight"), "F8_E4M3", &SHAPE, e4m3_bytes(n * k + seed)[seed..].to_vec()),
            draft(&format!("{name}.weight_scale_inv"), "F32", &[4, 3], f32_bytes(&scales)),
        ]
    };
    single(&[matrix("a", 0), matrix("b", 5)].into_iter().flatten().collect::<Vec<_>>())
}

#[test]
fn fp8_slices_have_the_values_of_the_whole_wherever_they_cut() {
    let checkpoint = fp8();
    let [n, k] = SHAPE;
    let whole = checkpoint.weight("a", SHAPE).unwrap().to_vec_f32();
    for rows in ranges(n) {
        let weight = checkpoint.weight_slice("a", SHAPE, &Slice::Rows(rows.clone())).unwrap();
        assert_eq!(shape(&weight), [1, rows.len(), k], "{rows:?}");
        assert_eq!(weight.to_vec_f32(), cut(&whole, k, rows.clone(), 0..k), "rows {rows:?}");
    }
    for cols in ranges(k) {
        let weight = checkpoint.weight_slice("a", SHAPE, &Slice::Cols(cols.clone())).unwrap();
        assert_eq!(weight.to_vec_f32(), cut(&whole, k, 0..n, cols.clone()), "columns {cols:?}");
    }
}

#[test]
fn slices_on_block_boundaries_keep_the_blocks() {
    let checkpoint = fp8();
    let blocks = |slice| {
        let weight = checkpoint.weight_slice("a", SHAPE, &slice).unwrap();
        let scales = weight.scales().unwrap();
        (scales.scales.shape().to_vec(), [scales.block_rows, scales.block_cols])
    };
    assert_eq!(blocks(Slice::Rows(4..12)), (vec![1, 2, 3], [4, 8]));
    assert_eq!(blocks(Slice::Cols(8..21)), (vec![1, 4, 2], [4, 8]));
    assert_eq!(blocks(Slice::Rows(5..7)), (vec![1, 1, 3], [4, 8]), "inside one block");
    assert_eq!(blocks(Slice::Rows(2..7)), (vec![1, 3, 3], [2, 8]), "a cut block");
}

#[test]
fn stacks_slice_every_expert_alike() {
    let checkpoint = fp8();
    let [n, k] = SHAPE;
    let whole: Vec<_> =
        ["b", "a"].iter().map(|p| checkpoint.weight(p, SHAPE).unwrap().to_vec_f32()).collect();
    let prefixes = ["b".to_owned(), "a".to_owned()];
    let slice = Slice::Cols(3..12);
    let stack = checkpoint.stacked_weight_slice(&prefixes, SHAPE, &slice).unwrap();
    assert_eq!(shape(&stack), [2, n, 9]);
    assert_eq!(stack.to_vec_f32(), [cut(&whole[0], k, 0..n, 3..12), cut(&whole[1], k, 0..n, 3..12)].concat());
}

/// More than one chunk, in slices whose rows do not divide a chunk.
#[test]
fn large_slices_are_read_in_parallel_chunks() {
    let [n, k] = [2049, 1031];
    let values = ramp(n * k);
    let checkpoint = single(&[draft("a.weight", "BF16", &[n, k], bf16_bytes(&values))]);
    let cols = checkpoint.weight_slice("a", [n, k], &Slice::Cols(17..1030)).unwrap();
    assert_eq!(cols.to_vec_f32(), cut(&values, k, 0..n, 17..1030));
    let rows = checkpoint.weight_slice("a", [n, k], &Slice::Rows(3..2048)).unwrap();
    assert_eq!(rows.to_vec_f32(), cut(&values, k, 3..2048, 0..k));
}

#[test]
fn vectors_have_ranges() {
    let checkpoint = single(&[draft("a.bias", "BF16", &[10], bf16_bytes(&ramp(10)))]);
    for range in [0..10, 3..7, 9..10, 4..4] {
        let part = checkpoint.vector_f32("a.bias", 10, range.clone()).unwrap();
        assert_eq!((part.shape(), part.to_vec_f32()), (&[range.len()][..], ramp(10)[range].to_vec()));
    }
    let error = checkpoint.vector_f32("a.bias", 10, 8..11).unwrap_err().to_string();
    assert!(error.contains("a.bias") && error.contains("0..10") && error.contains("8..11"), "{error}");
}

/// Elements and scales, and nothing of what other ranks keep.
#[test]
fn only_the_bytes_of_the_slice_are_read() {
    let [n, k] = SHAPE;
    let read = |slice: &Slice| {
        let checkpoint = fp8();
        checkpoint.weight_slice("a", SHAPE, slice).unwrap();
        checkpoint.bytes_read() as usize
    };
    assert_eq!(read(&Slice::All), n * k + 12 * 4);
    assert_eq!(read(&Slice::Rows(4..8)), 4 * k + 3 * 4);
    assert_eq!(read(&Slice::Rows(3..5)), 2 * k + 2 * 3 * 4, "a cut block needs the scales of both sides");
    assert_eq!(read(&Slice::Cols(8..16)), 8 * n + 4 * 4);
    assert_eq!(read(&Slice::Cols(16..16)), 0);
    let checkpoint = fp8();
    checkpoint.stacked_weight_slice(&["a".to_owned(), "b".to_owned()], SHAPE, &Slice::Rows(0..4)).unwrap();
    assert_eq!(checkpoint.bytes_read() as usize, 2 * (4 * k + 3 * 4));
}

#[test]
fn slices_beyond_the_matrix_are_refused() {
    let checkpoint = fp8();
    for slice in [Slice::Rows(12..14), Slice::Cols(0..22)] {
        let error = checkpoint.weight_slice("a", SHAPE, &slice).unwrap_err().to_string();
        assert!(error.contains("a.weight") && error.contains("[13, 21]"), "{error}");
    }
}

/// The place in an error is that in the file, also for a slice.
#[test]
fn bad_values_are_named_by_their_place_in_the_whole() {
    let mut bytes = vec![0x38; 8 * 16];
    bytes[5 * 16 + 9] = 0x7F;
    let mut scales = vec![1.0; 4];
    scales[3] = -1.0;
    let tensors = |bytes: Vec<u8>, scales: &[f32]| {
        single(&[
            draft("a.weight", "F8_E4M3", &[8, 16], bytes),
            draft("a.scale", "F32", &[2, 2], f32_bytes(scales)),
        ])
    };
    let bad_element = tensors(bytes, &[1.0; 4]);
    let error = bad_element.weight_slice("a", [8, 16], &Slice::Cols(8..16)).unwrap_err().to_string();
    assert!(error.contains("at index 89"), "{error}");
    bad_element.weight_slice("a", [8, 16], &Slice::Cols(0..8)).unwrap();
    let bad_scale = tensors(vec![0x38; 8 * 16], &scales);
    let error = bad_scale.weight_slice("a", [8, 16], &Slice::Cols(8..16)).unwrap_err().to_string();
    assert!(error.contains("-1 in block [1, 1]"), "{error}");
    bad_scale.weight_slice("a", [8, 16], &Slice::Rows(0..4)).unwrap();
}
