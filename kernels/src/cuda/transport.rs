//! What a transport between GPUs needs: addresses, the stream, memory for what arrives, and a look at the stream
//! that does not wait. Public for `comm`; no op uses it.

use std::ffi::c_void;

use cudarc::driver::sys;

use crate::{CudaDevice, DType, Device, Result, Tensor};

impl CudaDevice {
    /// The stream that all work of this device goes to, as the CUDA libraries take it.
    pub fn stream_handle(&self) -> *mut c_void {
        self.stream().cast()
    }

    /// Makes the device's context current on this thread, as the CUDA libraries expect it.
    ///
    /// # Errors
    /// [`crate::KernelError::Cuda`].
    pub fn make_current(&self) -> Result<()> {
        self.bind()
    }

    /// Whether everything that was asked of the device is done. Does not wait.
    ///
    /// # Errors
    /// [`crate::KernelError::Cuda`] if a kernel failed since the last wait.
    pub fn is_idle(&self) -> Result<bool> {
        self.bind()?;
        // SAFETY: the stream is alive as long as the device.
        match unsafe { sys::cuStreamQuery(self.stream()) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => self.check("stream query", code.result()).map(|()| true),
        }
    }
}

impl Tensor {
    /// A tensor of one step on `device`, with unspecified contents.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn for_step(device: &CudaDevice, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::output(&Device::Cuda(device.clone()), dtype, shape)
    }

    /// Where the elements of a tensor on a GPU lie. Memory is reused in stream order, so what reads it has to be
    /// queued on the device's stream while the tensor lives.
    ///
    /// # Errors
    /// [`crate::KernelError::Placement`] for a CPU tensor.
    pub fn device_address(&self, op: &'static str, arg: &'static str) -> Result<u64> {
        Ok(self.device_buffer(op, arg)?.address())
    }

    /// As [`Tensor::device_address`], for writing in place.
    ///
    /// # Errors
    /// Also [`crate::KernelError::Aliased`] if the storage is shared.
    pub fn device_address_mut(&mut self, op: &'static str, arg: &'static str) -> Result<u64> {
        Ok(self.device_buffer_mut(op, arg)?.address())
    }
}
