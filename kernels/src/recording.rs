//! [`Recording`]: a step that a GPU can run again as one piece, on whatever its inputs hold then.

#[cfg(not(feature = "cuda-host"))]
use std::convert::Infallible as Graph;

#[cfg(feature = "cuda-host")]
use crate::cuda::Graph;
use crate::{Device, KernelError, Result};

/// A recorded step and what it returned: a CUDA graph, which costs one launch where the step costs hundreds.
///
/// Replaying it runs the same kernels on the same addresses. The caller keeps alive whatever the step reads (weights,
/// caches, inputs), and drops other steps' tensors first: their memory is this step's scratch again.
#[derive(Debug)]
pub struct Recording<T> {
    graph: Graph,
    value: T,
}

impl Device {
    /// Runs `step` once in the ordinary way, which loads its kernels and sizes the step memory, then records it.
    /// Nothing of the recording has run yet: call [`Recording::replay`]. `None` on the CPU, where a step has no launches
    /// to save; `step` is not called there.
    ///
    /// # Errors
    /// What `step` says; [`KernelError::Cuda`] if it does something that cannot be recorded, such as an upload.
    pub fn record<T, E: From<KernelError>>(
        &self,
        step: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<Option<Recording<T>>, E> {
        match self {
            Self::Cpu => {
                drop(step);
                Ok(None)
            }
            #[cfg(feature = "cuda-host")]
            Self::Cuda(device) => {
                let mut step = step;
                drop(step()?);
                device.begin_recording()?;
                let value = step();
                // The capture must end, whatever the step said.
                let graph = device.end_recording();
                let value = value?;
                Ok(Some(Recording { graph: graph?.with_scratch(), value }))
            }
        }
    }
}

impl<T> Recording<T> {
    /// Queues the step again. Its results appear in what this returns, in stream order.
    ///
    /// # Errors
    /// [`KernelError::Value`] if tensors of another step still lie in this one's scratch memory.
    pub fn replay(&self) -> Result<&T> {
        #[cfg(feature = "cuda-host")]
        self.graph.launch()?;
        // Without a backend there is no value of this type.
        #[cfg(not(feature = "cuda-host"))]
        let _: &Graph = &self.graph;
        Ok(&self.value)
    }
}
