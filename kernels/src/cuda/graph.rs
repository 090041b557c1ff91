//! [`Recording`]: a step captured as a CUDA graph, to be replayed with other inputs in the same memory.

use cudarc::driver::{result, sys};

use crate::cuda::CudaDevice;
use crate::{KernelError, Result};

/// A captured step. Replaying it runs the same kernels on the same addresses: whatever lies there now is the input.
///
/// The caller keeps everything alive that the step reads (weights, caches, inputs). The step's scratch memory must be
/// free again whenever it is replayed: drop other steps' tensors first.
#[derive(Debug)]
pub struct Recording<T> {
    graph: Graph,
    scratch: Vec<(u64, u64)>,
    value: T,
}

/// The driver's executable graph.
#[derive(Debug)]
struct Graph {
    device: CudaDevice,
    exec: sys::CUgraphExec,
}

// SAFETY: the handle may be used from any thread with the context bound.
unsafe impl Send for Graph {}
// SAFETY: a shared graph can only be launched, which the driver allows from several threads in turn; the device's
// stream orders the launches.
unsafe impl Sync for Graph {}

impl CudaDevice {
    /// Runs `step` once in the ordinary way, which loads its kernels and sizes the step memory, then records it.
    /// Nothing of the recording has run yet: call [`Recording::replay`] for its results.
    ///
    /// # Errors
    /// What `step` says; [`KernelError::Cuda`] if it does something that cannot be recorded, such as an upload.
    pub fn record<T, E: From<KernelError>>(
        &self,
        mut step: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<Recording<T>, E> {
        drop(step()?);
        self.begin_recording()?;
        let value = step();
        // The capture must end, whatever the step said.
        let graph = self.end_recording();
        let value = value?;
        let (exec, touched) = graph?;
        let graph = Graph { device: self.clone(), exec };
        let scratch = touched.into_iter().filter(|&(start, bytes)| self.is_step_memory_free(start, bytes));
        Ok(Recording { scratch: scratch.collect(), graph, value })
    }

    /// Starts the capture; every range of step memory taken from here on is noted.
    fn begin_recording(&self) -> Result<()> {
        self.bind()?;
        self.note_step_memory();
        // Relaxed: step memory may still grow while the step is recorded.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        self.check("graph capture", unsafe { result::stream::begin_capture(self.stream(), mode) })
    }

    /// Ends the capture: the executable graph, and the step memory it uses.
    fn end_recording(&self) -> Result<(sys::CUgraphExec, Vec<(u64, u64)>)> {
        let touched = self.noted_step_memory();
        // SAFETY: the stream is alive and capturing; the graph is destroyed once it is instantiated.
        let exec = unsafe {
            result::stream::end_capture(self.stream()).and_then(|graph| {
                let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
                let _ = result::graph::destroy(graph);
                exec
            })
        };
        Ok((self.check("graph capture", exec)?, touched))
    }
}

impl<T> Recording<T> {
    /// Queues the step again. The results appear in [`Recording::value`], in stream order.
    ///
    /// # Errors
    /// [`KernelError::Value`] if tensors of another step still lie in this one's scratch memory.
    pub fn replay(&self) -> Result<&T> {
        let Graph { device, exec } = &self.graph;
        let busy = self.scratch.iter().find(|&&(start, bytes)| !device.is_step_memory_free(start, bytes));
        if let Some((start, bytes)) = busy {
            let found = format!("{bytes} bytes at {start:#x} in use");
            return Err(KernelError::value("replay", "step memory", "tensors of other steps dropped", found));
        }
        device.bind()?;
        // SAFETY: graph and stream are alive; the caller keeps what the graph reads alive.
        device.check("graph launch", unsafe { result::graph::launch(*exec, device.stream()) })?;
        Ok(&self.value)
    }

    /// What the step returned: its tensors hold the results of the latest replay.
    pub fn value(&self) -> &T {
        &self.value
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
