//! [`Slice`]: which part of a matrix a rank keeps, and where its elements and its block scales lie in the file.

use std::ops::Range;

/// The part of a matrix `[N, K]` that is read. Ranges count rows or columns of the whole matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    All,
    /// These rows (out features), with all their columns.
    Rows(Range<usize>),
    /// These columns (in features) of every row.
    Cols(Range<usize>),
    /// These columns of these rows.
    Rectangle(Range<usize>, Range<usize>),
}

impl Slice {
    /// The slice of a matrix `[n, k]`, or `None` if it reaches beyond.
    pub(crate) fn window(&self, [n, k]: [usize; 2]) -> Option<Window> {
        let (rows, cols) = match self {
            Self::All => (0..n, 0..k),
            Self::Rows(rows) => (rows.clone(), 0..k),
            Self::Cols(cols) => (0..n, cols.clone()),
            Self::Rectangle(rows, cols) => (rows.clone(), cols.clone()),
        };
        let fits = |range: &Range<usize>, size| range.start <= range.end && range.end <= size;
        (fits(&rows, n) && fits(&cols, k)).then_some(Window {
            rows,
            cols,
            row_len: k,
            order: RowOrder::Plain,
        })
    }
}

/// Where the rows of a matrix lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// In order.
    Plain,
    /// Those of each head as the pairs that rotary embedding turns: rows `i` and `head_dim / 2 + i` of a head are rows
    /// `2i` and `2i + 1` in the file.
    RotaryPairs {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where row `row` lies.
    fn stored(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::RotaryPairs { head_dim } => {
                let (i, half) = (row % head_dim, head_dim / 2);
                row - i + 2 * (i % half) + i / half
            }
        }
    }
}

/// A rectangle of a stored row-major matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
    /// Columns of the whole matrix.
    row_len: usize,
    order: RowOrder,
}

impl Window {
    /// Elements `range` of a tensor, whatever its shape: rows of one element.
    pub(crate) fn flat(range: Range<usize>) -> Self {
        Self { rows: range, cols: 0..1, row_len: 1, order: RowOrder::Plain }
    }

    /// The same rectangle of a matrix whose rows lie in `order`.
    pub(crate) fn ordered(self, order: RowOrder) -> Self {
        Self { order, ..self }
    }

    /// The blocks of `len` columns that the rectangle touches, as a rectangle of blocks. A row is whole blocks.
    pub(crate) fn in_blocks(&self, len: usize) -> Self {
        let cols = self.cols.start / len..self.cols.end.div_ceil(len);
        Self { cols, row_len: self.row_len / len, ..self.clone() }
    }

    /// Whether it begins and ends between blocks of `len` columns.
    pub(crate) fn is_whole_blocks(&self, len: usize) -> bool {
        self.cols.start.is_multiple_of(len) && self.cols.end.is_multiple_of(len)
    }

    /// Elements in it.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// Where elements `part` of the window, counted row by row, lie in the file: runs of neighbours, in order.
    pub(crate) fn runs(&self, part: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        // Whole rows in order are neighbours, so all of them are one run.
        let is_dense = self.cols.len() == self.row_len && self.order == RowOrder::Plain;
        let width = if is_dense { self.len() } else { self.cols.len() };
        let (first, start, row_len, order) = (self.rows.start, self.cols.start, self.row_len, self.order);
        let mut at = part.start;
        std::iter::from_fn(move || {
            let (run, offset) = (at.checked_div(width)?, at.checked_rem(width)?);
            let len = (width - offset).min(part.end - at);
            at += len;
            let from = order.stored(first + run) * row_len + start + offset;
            (len > 0).then_some(from..from + len)
        })
    }

    /// The same part of a matrix that stores `unit` columns as one element; `None` if it begins inside of one and goes on
    /// into the next.
    pub(crate) fn packed(&self, unit: usize) -> Option<Self> {
        let first = self.cols.start / unit;
        let cols = first..if self.cols.is_empty() { first } else { self.cols.end.div_ceil(unit) };
        let fits = self.cols.start.is_multiple_of(unit) || cols.len() <= 1;
        fits.then(|| Self { cols, row_len: self.row_len.div_ceil(unit), ..self.clone() })
    }

    /// The blocks of `[block_rows, block_cols]` elements that the window touches.
    pub(crate) fn blocks(&self, [block_rows, block_cols]: [usize; 2]) -> Blocks {
        let (rows, unit_rows) = touched(&self.rows, block_rows);
        let (cols, unit_cols) = touched(&self.cols, block_cols);
        let row_len = self.row_len.div_ceil(block_cols);
        let at = |range: &Range<usize>, unit: usize, block: usize| {
            (range.start..range.end).step_by(unit).map(|i| i / block - range.start / block).collect()
        };
        Blocks {
            rows_of: at(&self.rows, unit_rows, block_rows),
            cols_of: at(&self.cols, unit_cols, block_cols),
            unit: [unit_rows, unit_cols],
            stored: Window { rows, cols, row_len, order: RowOrder::Plain },
        }
    }
}

/// The scales of a window. A window that begins inside a block and goes on into the next is cut into blocks small
/// enough to begin at its own edge; several of them then share one stored scale, and every element keeps its value.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// The part of the scale matrix that is read.
    pub(crate) stored: Window,
    /// Rows and columns of one block as counted from the window's edge.
    pub(crate) unit: [usize; 2],
    /// For each row of blocks of the window, its row in `stored`.
    rows_of: Vec<usize>,
    /// For each column of blocks of the window, its column in `stored`.
    cols_of: Vec<usize>,
}

impl Blocks {
    /// Rows and columns of the window's own scale matrix.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows_of.len(), self.cols_of.len()]
    }

    /// The window's scale matrix out of the stored one.
    pub(crate) fn spread<'a>(&'a self, stored: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let width = self.stored.cols.len();
        self.rows_of.iter().flat_map(move |row| self.cols_of.iter().map(move |col| stored[row * width + col]))
    }
}

/// The blocks that a range touches, and the largest block size that has an edge where the range begins.
fn touched(range: &Range<usize>, block: usize) -> (Range<usize>, usize) {
    let first = range.start / block;
    let blocks = first..if range.is_empty() { first } else { range.end.div_ceil(block) };
    // Inside one block there is only one scale, wherever the range begins.
    let unit = if blocks.len() <= 1 { block } else { gcd(block, range.start) };
    (blocks, unit)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(window: &Window, part: Range<usize>) -> Vec<usize> {
        window.runs(part).flatten().collect()
    }

    #[test]
    fn runs_cover_the_rectangle_in_order() {
        let window = Slice::Cols(2..5).window([3, 7]).unwrap();
        assert_eq!(elements(&window, 0..9), [2, 3, 4, 9, 10, 11, 16, 17, 18]);
        assert_eq!(elements(&window, 2..7), [4, 9, 10, 11, 16], "a part may begin and end inside a row");
        let window = Slice::Rows(1..3).window([3, 7]).unwrap();
        assert_eq!((window.runs(0..14).next(), window.runs(0..14).count()), (Some(7..21), 1), "whole rows");
        assert_eq!(elements(&window, 5..9), [12, 13, 14, 15]);
        for empty in [Slice::Rows(2..2), Slice::Cols(7..7)] {
            let window = empty.window([3, 7]).unwrap();
            assert_eq!((window.len(), window.runs(0..0).count()), (0, 0));
        }
        assert_eq!(Slice::Rows(1..4).window([3, 7]), None);
        assert_eq!(Slice::Cols(7..8).window([3, 7]), None);
    }

    #[test]
    fn packed_columns_begin_with_an_element_or_stay_inside_one() {
        let packed = |cols: Range<usize>, unit| {
            let window = Slice::Cols(cols).window([3, 100]).unwrap().packed(unit)?;
            assert_eq!((window.rows, window.row_len), (0..3, 100usize.div_ceil(unit)));
            Some(window.cols)
        };
        assert_eq!(packed(32..96, 32), Some(1..3));
        assert_eq!(packed(64..100, 32), Some(2..4), "the last group is partial");
        assert_eq!(packed(40..56, 32), Some(1..2), "inside one group");
        assert_eq!(packed(40..70, 32), None);
        assert_eq!(packed(33..33, 32), Some(1..1));
    }

    #[test]
    fn rows_stored_as_rotary_pairs_come_in_order() {
        let order = RowOrder::RotaryPairs { head_dim: 6 };
        assert_eq!(
            (0..12).map(|row| order.stored(row)).collect::<Vec<_>>(),
            [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
        );
        let window = Slice::Rows(2..5).window([12, 3]).unwrap().ordered(order);
        assert_eq!(elements(&window, 0..9), [12, 13, 14, 3, 4, 5, 9, 10, 11]);
        assert_eq!(elements(&Window::flat(6..9).ordered(order), 0..3), [6, 8, 10]);
    }

    #[test]
    fn a_window_in_blocks_has_all_that_it_touches() {
        let window = |slice: Slice| slice.window([2, 96]).unwrap();
        let touched = |slice: Slice| elements(&window(slice).in_blocks(32), 0..4);
        assert_eq!(touched(Slice::Cols(32..96)), [1, 2, 4, 5]);
        assert_eq!(touched(Slice::Cols(40..70)), [1, 2, 4, 5]);
        assert_eq!(elements(&window(Slice::Rows(1..2)).in_blocks(32), 0..3), [3, 4, 5]);
        assert!(window(Slice::Cols(32..96)).is_whole_blocks(32) && window(Slice::All).is_whole_blocks(32));
        assert!(!window(Slice::Cols(0..48)).is_whole_blocks(32));
        assert!(!window(Slice::Cols(16..32)).is_whole_blocks(32));
    }

    #[test]
    fn blocks_keep_their_size_unless_the_edge_cuts_them() {
        assert_eq!(touched(&(256..400), 128), (2..4, 128));
        assert_eq!(touched(&(64..128), 128), (0..1, 128), "inside one block");
        assert_eq!(touched(&(96..192), 128), (0..2, 32));
        assert_eq!(touched(&(128..128), 128), (1..1, 128));
        let blocks = Slice::Rows(96..192).window([320, 130]).unwrap().blocks([128, 128]);
        assert_eq!((blocks.shape(), blocks.unit), ([3, 2], [32, 128]));
        assert_eq!(blocks.spread(&[1.0, 2.0, 3.0, 4.0]).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    }
}
