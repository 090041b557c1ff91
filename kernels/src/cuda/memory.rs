//! [`DeviceBuffer`]: a range of one GPU's memory, given back when dropped.

use cudarc::driver::{result, sys};

use crate::Result;
use crate::cuda::CudaDevice;

/// Where a buffer's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// An allocation of its own: weights, caches, inputs and results of captured graphs.
    Resident,
    /// A range of the step arena.
    Arena,
}

/// Owned device memory. All its uses are in order on the device's stream.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    device: CudaDevice,
    address: sys::CUdeviceptr,
    bytes: usize,
    home: Home,
}

impl DeviceBuffer {
    /// Memory that is kept: an allocation of its own.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub(crate) fn resident(device: &CudaDevice, bytes: usize) -> Result<Self> {
        let address = device.allocate(bytes.max(1))?;
        Ok(Self { device: device.clone(), address, bytes, home: Home::Resident })
    }

    /// Memory for a value that lives within a step.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub(crate) fn for_step(device: &CudaDevice, bytes: usize) -> Result<Self> {
        if device.separate_allocations() {
            return Self::resident(device, bytes);
        }
        let address = device.take_step_memory(bytes)?;
        Ok(Self { device: device.clone(), address, bytes, home: Home::Arena })
    }

    /// The GPU.
    pub(crate) fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Device address.
    pub(crate) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// Sets every byte, in stream order.
    pub(crate) fn fill(&self, byte: u8) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the range is this buffer's own and alive; the stream is the device's.
        let done = unsafe { result::memset_d8_async(self.address, byte, self.bytes, self.device.stream()) };
        self.device.check("memset", done)
    }

    /// Copies the first `bytes` bytes of another buffer of this device in, in stream order.
    pub(crate) fn copy_from(&self, source: &Self, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes.min(source.bytes), "a copy fits both buffers");
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        let stream = self.device.stream();
        // SAFETY: both ranges are alive and in use on this device's stream alone, which orders the copy.
        let done = unsafe { result::memcpy_dtod_async(self.address, source.address, bytes, stream) };
        self.device.check("copy", done)
    }

    /// Copies host bytes in, in stream order. The bytes are no longer needed when this returns.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.bytes, "an upload fits its buffer");
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.upload(self, bytes)
    }

    /// The first `bytes` bytes, after everything asked of the device is done.
    ///
    /// # Errors
    /// Faults since the last wait.
    pub(crate) fn download(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut host = vec![0; bytes.min(self.bytes)];
        if !host.is_empty() {
            self.device.bind()?;
            // SAFETY: the range is this buffer's own; `host` outlives the wait below.
            let done = unsafe { result::memcpy_dtoh_async(&mut host, self.address, self.device.stream()) };
            self.device.check("download", done)?;
        }
        self.device.synchronize()?;
        Ok(host)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        match self.home {
            Home::Resident => self.device.free(self.address),
            Home::Arena => self.device.give_step_memory(self.address, self.bytes),
        }
    }
}
