//! Splitting an op over the cores: when it pays, and how tasks share one output.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Multiply-adds (or bytes moved) below which waking another core costs more than it saves: about 20 microseconds of
/// one core.
const SERIAL_WORK: usize = 1 << 19;

/// Calls `task` for `0..count`, on all cores if `work` multiply-adds are worth it.
pub(super) fn for_each(count: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if count < 2 || work < SERIAL_WORK {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Size of the blocks in which `total` rows are dealt out: a multiple of `unit`, at most `max`, and small enough for
/// every core to get several.
pub(super) fn block_size(total: usize, unit: usize, max: usize) -> usize {
    let share = total.div_ceil(rayon::current_num_threads() * 8);
    share.next_multiple_of(unit).clamp(unit, max)
}

/// Block `index` of `0..total`.
pub(super) fn block(index: usize, size: usize, total: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(total)
}

/// A slice that several tasks write at once, each its own part.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a `&mut [T]`; `part`'s contract keeps them apart, so this is sending `&mut T`.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above; a shared reference gives nothing but `part`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The part `start .. start + len`.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[allow(clippy::mut_from_ref, reason = "the contract is exclusive parts, and the bounds are checked")]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start} + {len} of {}", self.len);
        // SAFETY: within the slice by the check above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
