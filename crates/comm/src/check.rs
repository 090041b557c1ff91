//! What every transport demands of the arguments of a collective.

use kernels::{DType, KernelError, Result, Tensor};

/// One size per rank.
pub(crate) fn sizes(op: &'static str, arg: &'static str, sizes: &[usize], ranks: usize) -> Result<()> {
    if sizes.len() == ranks {
        return Ok(());
    }
    Err(KernelError::shape(op, arg, format!("[{ranks}], one per rank"), &[sizes.len()]))
}

/// The rows and columns of `x`, if it has both, and `rows` and `cols` of them where those are given.
pub(crate) fn matrix(
    op: &'static str,
    x: &Tensor,
    rows: Option<usize>,
    cols: Option<usize>,
) -> Result<[usize; 2]> {
    match *x.shape() {
        [r, c] if rows.is_none_or(|rows| rows == r) && cols.is_none_or(|cols| cols == c) => Ok([r, c]),
        _ => {
            let in_words =
                |size: Option<usize>, name: &str| size.map_or_else(|| name.to_owned(), |s| s.to_string());
            let expected = format!("[{}, {}]", in_words(rows, "R"), in_words(cols, "C"));
            Err(KernelError::shape(op, "x", expected, x.shape()))
        }
    }
}

/// A rank that there is.
pub(crate) fn root(op: &'static str, root: usize, ranks: usize) -> Result<()> {
    if root < ranks {
        return Ok(());
    }
    Err(KernelError::value(op, "root", format!("a rank below {ranks}"), root))
}

/// A dtype that can be summed.
pub(crate) fn summable(op: &'static str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 | DType::BF16 => Ok(()),
        found => Err(KernelError::DType { op, arg: "x", expected: "F32 or BF16", found }),
    }
}
