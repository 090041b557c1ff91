//! Launches of `cuda/join.cu`: columns of one matrix into columns of another.

use std::ops::Range;

use crate::cuda::{Args, Launch};
use crate::{Result, Tensor};

const STEM: &str = "join";
const THREADS: u32 = 256;
/// What a thread may move at once, in bytes.
const UNITS: [(usize, &str); 4] =
    [(16, "place_cols_16"), (4, "place_cols_4"), (2, "place_cols_2"), (1, "place_cols_1")];

/// Where columns come from: `width` of a matrix of rows of `stride` elements, from element `first` of its memory on.
struct Source<'a> {
    matrix: &'a Tensor,
    first: usize,
    width: usize,
    stride: usize,
}

/// Copies the columns of `source` to columns `begin ..` of `out` `[R, W]`.
fn place(source: &Source<'_>, out: &mut Tensor, begin: usize) -> Result<()> {
    let Source { matrix, first, width, stride } = *source;
    let (device, size) = (matrix.cuda(STEM)?, matrix.dtype().size());
    let [rows, cols] = out.dims(STEM, "out", "[R, W]")?;
    if rows * width == 0 {
        return Ok(());
    }
    let divides = |unit: usize| {
        [first, width, stride, begin, cols].iter().all(|cols| (cols * size).is_multiple_of(unit))
    };
    let &(unit, name) = UNITS.iter().find(|(unit, _)| divides(*unit)).unwrap_or(&UNITS[3]);
    let units = |cols: usize| (cols * size / unit) as u32;
    let args = Args::new()
        .value(matrix.device_buffer(STEM, "blocks")?.address() + (first * size) as u64)
        .output(out)?
        .value(units(width))
        .value(units(stride))
        .value(units(begin))
        .value(units(cols));
    let grid = [rows as u32, units(width).div_ceil(THREADS), 1];
    device.launch(STEM, name, Launch { grid, threads: THREADS, shared_bytes: 0 }, args)
}

/// See [`crate::ops::join_cols`]: one launch per block.
pub(crate) fn join_cols(blocks: &Tensor, widths: &[usize]) -> Result<Tensor> {
    let [rows, cols] = blocks.dims(STEM, "blocks", "[R, W]")?;
    let mut out = Tensor::output(&blocks.device(), blocks.dtype(), &[rows, cols])?;
    let mut begin = 0;
    for &width in widths {
        // A block has its rows one after the other.
        place(&Source { matrix: blocks, first: rows * begin, width, stride: width }, &mut out, begin)?;
        begin += width;
    }
    Ok(out)
}

/// Columns `cols` of `x` `[R, W]` as a matrix of their own.
pub(super) fn take_cols(x: &Tensor, cols: Range<usize>) -> Result<Tensor> {
    let [rows, stride] = x.dims(STEM, "x", "[R, W]")?;
    let mut out = Tensor::output(&x.device(), x.dtype(), &[rows, cols.len()])?;
    place(&Source { matrix: x, first: cols.start, width: cols.len(), stride }, &mut out, 0)?;
    Ok(out)
}

/// The matrices `parts`, of as many rows and one dtype, as the columns of one.
pub(super) fn side_by_side(parts: &[Tensor]) -> Result<Tensor> {
    let rows = parts[0].dim(0);
    let cols = parts.iter().map(|part| part.dim(1)).sum();
    let mut out = Tensor::output(&parts[0].device(), parts[0].dtype(), &[rows, cols])?;
    let mut begin = 0;
    for part in parts {
        let width = part.dim(1);
        place(&Source { matrix: part, first: 0, width, stride: width }, &mut out, begin)?;
        begin += width;
    }
    Ok(out)
}
