//! Raw bytes of tensors on the host, for what moves tensors without computing on them.

use crate::{Result, Tensor};

impl Tensor {
    /// The bytes of a CPU tensor for writing in place.
    ///
    /// # Errors
    /// [`crate::KernelError::Aliased`] if the storage is shared; an error if the tensor lives on another device.
    pub fn host_bytes_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&mut [u8]> {
        self.bytes_mut(op, arg)
    }
}
