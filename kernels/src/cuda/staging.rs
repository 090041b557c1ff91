//! [`Staging`]: page-locked memory that uploads pass through, so that a copy runs beside the host and a captured
//! step's inputs can be replaced without a wait.
//!
//! A ring of segments: a segment is filled again only after the copies out of it are done. Weights larger than a
//! segment go through in pieces, so that reading the next piece from disk overlaps the copy of the last.

use cudarc::driver::{result, sys};

use crate::Result;
use crate::cuda::CudaDevice;

/// Large enough that a copy's start-up cost is small, small enough that the ring costs little.
const SEGMENT_BYTES: usize = 4 << 20;
const SEGMENTS: usize = 4;

/// One stretch of page-locked memory, and the event behind the last copy out of it.
struct Segment {
    memory: *mut u8,
    copied: sys::CUevent,
}

/// The ring. Created on first use.
#[derive(Default)]
pub(super) struct Staging {
    segments: Vec<Segment>,
    current: usize,
    filled: usize,
}

// SAFETY: the memory belongs to the ring alone, and events may be used from any thread with the context bound.
unsafe impl Send for Staging {}

impl Staging {
    /// Copies `bytes` to device memory at `target`, in stream order. `bytes` may change as soon as this returns.
    ///
    /// # Safety
    /// `target` must be the start of as many bytes of live device memory, in use by `device`'s stream alone.
    pub(super) unsafe fn upload(
        &mut self,
        device: &CudaDevice,
        target: sys::CUdeviceptr,
        bytes: &[u8],
    ) -> Result<()> {
        if self.segments.is_empty() {
            self.allocate(device)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            if self.filled == SEGMENT_BYTES {
                self.advance(device)?;
            }
            let piece = (bytes.len() - done).min(SEGMENT_BYTES - self.filled);
            let segment = &self.segments[self.current];
            // SAFETY: `filled + piece` lies within the segment, and no copy out of this part is in flight: the segment
            // was waited for when it became current, and each part of it is used once until then.
            let source = unsafe {
                let start = segment.memory.add(self.filled);
                start.copy_from_nonoverlapping(bytes[done..].as_ptr(), piece);
                std::slice::from_raw_parts(start, piece)
            };
            // SAFETY: the caller vouches for the target; the source stays as it is until the segment comes round again.
            let copy = unsafe { result::memcpy_htod_async(target + done as u64, source, device.stream()) };
            device.check("upload", copy)?;
            done += piece;
            // The next piece starts on a line of its own.
            self.filled = (self.filled + piece).next_multiple_of(64);
        }
        Ok(())
    }

    fn allocate(&mut self, device: &CudaDevice) -> Result<()> {
        for _ in 0..SEGMENTS {
            // SAFETY: page-locked memory of the context, freed in `release`.
            let memory =
                device.check("page-locked memory", unsafe { result::malloc_host(SEGMENT_BYTES, 0) })?;
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let copied = device.check("event", result::event::create(flags))?;
            self.segments.push(Segment { memory: memory.cast(), copied });
        }
        Ok(())
    }

    /// Marks the current segment's copies and makes the next one current, once its own copies are done.
    fn advance(&mut self, device: &CudaDevice) -> Result<()> {
        // SAFETY: the event is alive, so is the stream.
        let marked = unsafe { result::event::record(self.segments[self.current].copied, device.stream()) };
        device.check("event", marked)?;
        self.current = (self.current + 1) % self.segments.len();
        self.filled = 0;
        // SAFETY: the event is alive; one that was never recorded counts as done.
        let waited = unsafe { result::event::synchronize(self.segments[self.current].copied) };
        device.check("upload", waited)
    }

    /// Frees the ring.
    ///
    /// # Safety
    /// The context must be bound, and no copy out of the ring in flight.
    pub(super) unsafe fn release(&mut self) {
        for segment in self.segments.drain(..) {
            // SAFETY: allocated in `allocate`, no longer used, as the caller says.
            unsafe {
                let _ = result::event::destroy(segment.copied);
                let _ = result::free_host(segment.memory.cast());
            }
        }
    }
}
