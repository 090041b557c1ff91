//! [`Args`]: the arguments of a launch, in the kernel's order.

use bytemuck::NoUninit;

use crate::cuda::CudaDevice;
use crate::{Result, Tensor};

/// Builds an argument list. Values are copied; tensors must outlive the call of `launch` only, since their memory is
/// reused in stream order.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// Every value starts at a multiple of 16 bytes, the strictest alignment of a kernel argument.
    words: Vec<u128>,
    starts: Vec<usize>,
}

impl Args {
    /// No arguments yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The address of a tensor that the kernel reads.
    pub(crate) fn tensor(self, x: &Tensor) -> Result<Self> {
        Ok(self.value(x.device_buffer("launch", "argument")?.address()))
    }

    /// The address of a tensor, or null.
    pub(crate) fn optional(self, x: Option<&Tensor>) -> Result<Self> {
        match x {
            Some(x) => self.tensor(x),
            None => Ok(self.value(0_u64)),
        }
    }

    /// The address of a tensor that the kernel writes; nobody else may hold it.
    pub(crate) fn output(self, x: &mut Tensor) -> Result<Self> {
        let address = x.device_buffer_mut("launch", "output")?.address();
        Ok(self.value(address))
    }

    /// Where the kernel reports an index out of range (`fault.cuh`).
    pub(crate) fn fault(self, device: &CudaDevice) -> Self {
        self.value(device.fault_address())
    }

    /// A number, or a `#[repr(C)]` struct of numbers.
    pub(crate) fn value<T: NoUninit>(mut self, value: T) -> Self {
        let bytes = bytemuck::bytes_of(&value);
        let start = self.words.len();
        self.starts.push(start);
        self.words.resize(start + bytes.len().div_ceil(size_of::<u128>()).max(1), 0);
        bytemuck::cast_slice_mut(&mut self.words[start..])[..bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A pointer to each value; valid while `self` is neither moved nor changed.
    pub(super) fn pointers(&mut self) -> Vec<*mut std::ffi::c_void> {
        self.starts.iter().map(|&start| (&raw mut self.words[start]).cast()).collect()
    }
}
