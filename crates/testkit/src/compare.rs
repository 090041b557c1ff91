//! Comparison with tolerance: how far off, and where first.

/// Largest absolute difference; NaN if either side holds one.
pub fn max_abs_diff(found: &[f32], expected: &[f32]) -> f32 {
    let diffs = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    // `f32::max` would drop a NaN.
    diffs.fold(0.0, |max, diff| if diff > max || diff.is_nan() { diff } else { max })
}

/// Asserts that `found` and `expected` differ by at most `tolerance` anywhere and returns the largest difference.
///
/// Rows are `row_width` wide; the message names the first offending row and column, both values and how many
/// elements offend.
///
/// # Panics
/// If the lengths differ, or any element is off by more than `tolerance` or NaN.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], row_width: usize, tolerance: f32) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let offends = |i: &usize| {
        let diff = (found[*i] - expected[*i]).abs();
        diff > tolerance || diff.is_nan()
    };
    if let Some(first) = (0..found.len()).find(offends) {
        let count = (0..found.len()).filter(offends).count();
        panic!(
            "{what}: {count} of {} elements are off by more than {tolerance:e}, at most {:e}; the first is \
             [{}, {}]: found {}, expected {}",
            found.len(),
            max_abs_diff(found, expected),
            first / row_width,
            first % row_width,
            found[first],
            expected[first],
        );
    }
    max_abs_diff(found, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_largest_difference() {
        assert_eq!(assert_close("x", &[1.0, 2.0], &[1.5, 2.0], 2, 0.5), 0.5);
        assert_eq!(max_abs_diff(&[], &[]), 0.0);
        assert!(max_abs_diff(&[f32::NAN, 1.0], &[0.0, 0.0]).is_nan());
    }

    #[test]
    #[should_panic(expected = "1 of 4 elements are off by more than 1e-1, at most 1e0; the first is [1, 0]")]
    fn names_the_first_offender() {
        assert_close("x", &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 4.0, 4.0], 2, 0.1);
    }

    #[test]
    #[should_panic(expected = "1 of 2 elements")]
    fn nan_offends() {
        assert_close("x", &[1.0, f32::NAN], &[1.0, f32::NAN], 2, 0.1);
    }

    #[test]
    #[should_panic(expected = "number of elements")]
    fn lengths_must_agree() {
        assert_close("x", &[1.0], &[1.0, 2.0], 1, 0.1);
    }
}
