//! Launches of `cuda/join.cu`.

use crate::cuda::{Args, Launch};
use crate::{Result, Tensor};

const STEM: &str = "join";
const THREADS: u32 = 256;
/// What a thread may move at once, in bytes.
const UNITS: [(usize, &str); 4] =
    [(16, "place_cols_16"), (4, "place_cols_4"), (2, "place_cols_2"), (1, "place_cols_1")];

/// See [`crate::ops::join_cols`]: one launch per block.
pub(crate) fn join_cols(blocks: &Tensor, widths: &[usize]) -> Result<Tensor> {
    let device = blocks.cuda(STEM)?;
    let [rows, cols] = blocks.dims(STEM, "blocks", "[R, W]")?;
    let size = blocks.dtype().size();
    let mut out = Tensor::output(&blocks.device(), blocks.dtype(), &[rows, cols])?;
    let source = blocks.device_buffer(STEM, "blocks")?.address();
    let mut begin = 0;
    for &width in widths.iter().filter(|&&width| width > 0) {
        let divides =
            |unit: usize| [width, begin, cols].iter().all(|cols| (cols * size).is_multiple_of(unit));
        // A block starts at a multiple of the unit: at `rows * begin` elements.
        let &(unit, name) = UNITS.iter().find(|(unit, _)| divides(*unit)).unwrap_or(&UNITS[3]);
        let units = |cols: usize| (cols * size / unit) as u32;
        let args = Args::new()
            .value(source + (rows * begin * size) as u64)
            .output(&mut out)?
            .value(units(width))
            .value(units(begin))
            .value(units(cols));
        let grid = [rows as u32, units(width).div_ceil(THREADS), 1];
        device.launch(STEM, name, Launch { grid, threads: THREADS, shared_bytes: 0 }, args)?;
        begin += width;
    }
    Ok(out)
}
