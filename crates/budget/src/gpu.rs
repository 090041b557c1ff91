//! The GPUs of the tables: limits from the CUDA programming guide (compute capabilities 8.0 and 9.0), rates from the
//! vendor's datasheets, and how many blocks of a kernel fit on one multiprocessor.

use nvcc::Arch;

use crate::cost::Arithmetic;

/// A GPU as its documents describe it.
#[derive(Debug)]
pub struct Gpu {
    /// For table heads.
    pub name: &'static str,
    /// The machine code it runs.
    pub arch: Arch,
    /// Shared memory of one multiprocessor, bytes.
    pub shared_bytes: u32,
    /// The most of it that one block may have, bytes.
    pub block_shared_bytes: u32,
    /// Memory bandwidth, GB/s.
    pub memory_gb_s: f64,
    /// Dense tensor-core rate with bf16 operands, TFLOP/s.
    pub bf16_tflops: f64,
    /// Dense tensor-core rate with int8 operands, TOP/s.
    pub int8_tops: f64,
    /// Rate outside the tensor cores, f32, TFLOP/s.
    pub f32_tflops: f64,
}

/// A100-SXM4-80GB: NVIDIA A100 datasheet (2021).
pub const A100: Gpu = Gpu {
    name: "A100",
    arch: Arch::Sm80,
    shared_bytes: 164 << 10,
    block_shared_bytes: 163 << 10,
    memory_gb_s: 2039.0,
    bf16_tflops: 312.0,
    int8_tops: 624.0,
    f32_tflops: 19.5,
};

/// H100 SXM: NVIDIA H100 datasheet (2023), rates without sparsity.
pub const H100: Gpu = Gpu {
    name: "H100",
    arch: Arch::Sm90,
    shared_bytes: 228 << 10,
    block_shared_bytes: 227 << 10,
    memory_gb_s: 3350.0,
    bf16_tflops: 989.0,
    int8_tops: 1979.0,
    f32_tflops: 67.0,
};

/// Both, in the order of the tables.
pub const GPUS: [&Gpu; 2] = [&A100, &H100];

const REGISTERS: u32 = 65_536;
const PARTITIONS: u32 = 4;
const MAX_WARPS: u32 = 64;
const MAX_BLOCKS: u32 = 32;
/// A warp's registers come in units of this.
const REGISTER_UNIT: u32 = 256;
/// Shared memory comes in units of this, and the system takes some of each block.
const SHARED_UNIT: u32 = 128;
const SYSTEM_SHARED: u32 = 1024;

/// What a block of a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Static and dynamic shared memory, bytes.
    pub shared_bytes: u32,
}

impl Gpu {
    /// How many blocks run on one multiprocessor at a time; 0 if not even one fits.
    pub fn blocks(&self, block: Footprint) -> u32 {
        if block.shared_bytes > self.block_shared_bytes || block.threads == 0 {
            return 0;
        }
        let warps = block.threads.div_ceil(32);
        let of_warp = (block.registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
        // Each of the four partitions has its own registers, and a warp stays on one.
        let by_registers = REGISTERS / PARTITIONS / of_warp * PARTITIONS / warps;
        let of_block = (block.shared_bytes + SYSTEM_SHARED).next_multiple_of(SHARED_UNIT);
        by_registers.min(self.shared_bytes / of_block).min(MAX_WARPS / warps).min(MAX_BLOCKS)
    }

    /// The share of the warps that a multiprocessor can hold.
    pub fn occupancy(&self, block: Footprint) -> f64 {
        f64::from(self.blocks(block) * block.threads.div_ceil(32)) / f64::from(MAX_WARPS)
    }

    /// The least time of a launch, seconds: all bytes over the bandwidth, or all operations over their rate.
    pub fn floor_seconds(&self, bytes: f64, operations: f64, arithmetic: Arithmetic) -> f64 {
        let rate = match arithmetic {
            Arithmetic::Bf16 => self.bf16_tflops,
            Arithmetic::Int8 => self.int8_tops,
            Arithmetic::F32 => self.f32_tflops,
        };
        (bytes / (self.memory_gb_s * 1e9)).max(operations / (rate * 1e12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the vendor's own occupancy calculator.
    #[test]
    fn blocks_follow_from_each_limit() {
        let block = |threads, registers, shared_bytes| Footprint { threads, registers, shared_bytes };
        assert_eq!(A100.blocks(block(256, 32, 0)), 8, "warps");
        assert_eq!(A100.blocks(block(32, 16, 0)), 32, "blocks");
        assert_eq!(A100.blocks(block(256, 128, 0)), 2, "registers");
        assert_eq!(A100.blocks(block(256, 129, 0)), 1, "registers come in units");
        assert_eq!(A100.blocks(block(128, 77, 0)), 6, "a warp's registers lie in one partition");
        assert_eq!(A100.blocks(block(128, 32, 48 << 10)), 3, "shared memory, with the system's kilobyte");
        assert_eq!(A100.blocks(block(128, 32, 163 << 10)), 1);
        assert_eq!(A100.blocks(block(128, 32, 164 << 10)), 0, "more than a block may have");
        assert_eq!(H100.blocks(block(128, 32, 163 << 10)), 1);
        assert_eq!(H100.blocks(block(128, 32, 100 << 10)), 2);
        assert_eq!(A100.occupancy(block(256, 128, 0)), 0.25);
    }

    #[test]
    fn the_floor_is_the_larger_of_bytes_and_operations() {
        assert_eq!(A100.floor_seconds(2039e9, 0.0, Arithmetic::Bf16), 1.0);
        assert_eq!(A100.floor_seconds(2039e9, 624e12, Arithmetic::Bf16), 2.0);
        assert_eq!(H100.floor_seconds(0.0, 1979e12, Arithmetic::Int8), 1.0);
    }
}
