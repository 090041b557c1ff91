//! [`Graph`]: a step captured from the stream, and the step memory that its kernels use.

use cudarc::driver::{result, sys};

use crate::cuda::CudaDevice;
use crate::{KernelError, Result};

/// The driver's executable graph.
#[derive(Debug)]
pub(crate) struct Graph {
    device: CudaDevice,
    exec: sys::CUgraphExec,
    /// Ranges of step memory that the kernels write, the step's results not included.
    scratch: Vec<(u64, u64)>,
}

// SAFETY: the handle may be used from any thread with the context bound.
unsafe impl Send for Graph {}
// SAFETY: a shared graph can only be launched, which the driver allows from several threads in turn; the device's
// stream orders the launches.
unsafe impl Sync for Graph {}

impl CudaDevice {
    /// Starts the capture; every range of step memory taken from here on is noted.
    pub(crate) fn begin_recording(&self) -> Result<()> {
        self.bind()?;
        self.note_step_memory();
        // Relaxed: step memory may still grow while the step is recorded.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        self.check("graph capture", unsafe { result::stream::begin_capture(self.stream(), mode) })
    }

    /// Ends the capture.
    pub(crate) fn end_recording(&self) -> Result<Graph> {
        let scratch = self.noted_step_memory();
        // SAFETY: the stream is alive and capturing; the graph is destroyed once it is instantiated.
        let exec = unsafe {
            result::stream::end_capture(self.stream()).and_then(|graph| {
                let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
                let _ = result::graph::destroy(graph);
                exec
            })
        };
        Ok(Graph { device: self.clone(), exec: self.check("graph capture", exec)?, scratch })
    }
}

impl Graph {
    /// Called while the step's results are alive and nothing else of it is: what is free now is scratch.
    pub(crate) fn with_scratch(mut self) -> Self {
        let device = self.device.clone();
        self.scratch.retain(|&(start, bytes)| device.is_step_memory_free(start, bytes));
        self
    }

    /// Queues the graph.
    ///
    /// # Errors
    /// [`KernelError::Value`] if tensors lie in its scratch memory.
    pub(crate) fn launch(&self) -> Result<()> {
        let Self { device, exec, scratch } = self;
        let busy = scratch.iter().find(|&&(start, bytes)| !device.is_step_memory_free(start, bytes));
        if let Some((start, bytes)) = busy {
            let found = format!("{bytes} bytes at {start:#x} in use");
            return Err(KernelError::value("replay", "step memory", "tensors of other steps dropped", found));
        }
        device.bind()?;
        // SAFETY: graph and stream are alive; the recording's owner keeps what the graph reads alive.
        device.check("graph launch", unsafe { result::graph::launch(*exec, device.stream()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: the wait ends the last replay; nobody can launch the graph again.
            unsafe {
                let _ = result::stream::synchronize(self.device.stream());
                let _ = result::graph::exec_destroy(self.exec);
            }
        }
    }
}
