//! What a kernel reports when an index that only the device knows is out of range (`cuda/include/fault.cuh`).

use crate::KernelError;

/// The device's record: the first violation since it was last read.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct FaultRecord {
    /// 0: none. The numbers are `FaultCode` of `fault.cuh`.
    pub(super) code: u32,
    value: u32,
    limit: u32,
    reserved: u32,
}

impl FaultRecord {
    /// The violation as an error.
    pub(super) fn error(self) -> KernelError {
        let (op, arg) = match self.code {
            1 => ("embedding", "ids"),
            2 => ("kv_write", "slot_mapping"),
            3 => ("attention", "block_tables"),
            4 => ("moe_experts", "routing.experts"),
            5 => ("attention", "indices"),
            6 => ("gather_rows", "rows"),
            7 => ("block_copy", "blocks"),
            8 => ("sample", "token ids"),
            9 => ("attention", "context_lens"),
            _ => ("kernel", "index"),
        };
        KernelError::value(op, arg, format!("values below {}", self.limit), self.value)
    }
}
