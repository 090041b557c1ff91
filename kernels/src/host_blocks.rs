//! [`HostBlocks`]: where the blocks of a cache wait on the host while their sequence is set aside.

use crate::cpu::AlignedBytes;
#[cfg(feature = "cuda-host")]
use crate::cuda::block_copy::PinnedBytes;
use crate::{DType, Device, KernelError, Result, Tensor};

/// Host memory for blocks of one cache: page-locked where the cache lies on a GPU.
#[derive(Debug)]
pub struct HostBlocks {
    dtype: DType,
    shape: [usize; 3],
    storage: HostStorage,
}

#[derive(Debug)]
pub(crate) enum HostStorage {
    Cpu(AlignedBytes),
    #[cfg(feature = "cuda-host")]
    Pinned(PinnedBytes),
}

impl HostBlocks {
    /// Room for `slots` blocks of `cache` `[blocks, block_size, width]`, all zero.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for a cache of another rank, [`KernelError::Cuda`] if the host has no memory to lock.
    pub fn for_cache(cache: &Tensor, slots: usize) -> Result<Self> {
        let [_, block_size, width] = cache.dims("host_blocks", "cache", "[blocks, block_size, width]")?;
        let shape = [slots, block_size, width];
        let bytes = shape.iter().product::<usize>() * cache.dtype().size();
        let storage = match cache.device() {
            Device::Cpu => HostStorage::Cpu(AlignedBytes::zeroed(bytes)),
            #[cfg(feature = "cuda-host")]
            Device::Cuda(device) => HostStorage::Pinned(PinnedBytes::zeroed(&device, bytes)?),
        };
        Ok(Self { dtype: cache.dtype(), shape, storage })
    }

    /// How many blocks there is room for.
    pub fn slots(&self) -> usize {
        self.shape[0]
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// Whether blocks of `cache` fit a slot, and the cache lives where this memory was made for.
    pub(crate) fn check(&self, op: &'static str, cache: &Tensor) -> Result<()> {
        let [blocks, block_size, width] = cache.dims(op, "cache", "[blocks, block_size, width]")?;
        if [block_size, width] != self.shape[1..] {
            let expected = format!("[{blocks}, {}, {}]", self.shape[1], self.shape[2]);
            return Err(KernelError::shape(op, "cache", expected, cache.shape()));
        }
        cache.expect_dtype(self.dtype, "the dtype of the host's blocks", op, "cache")?;
        let device = match &self.storage {
            HostStorage::Cpu(_) => Device::Cpu,
            #[cfg(feature = "cuda-host")]
            HostStorage::Pinned(memory) => Device::Cuda(memory.device().clone()),
        };
        cache.expect_device(&device, op, "cache")
    }

    pub(crate) fn storage(&self) -> &HostStorage {
        &self.storage
    }

    pub(crate) fn storage_mut(&mut self) -> &mut HostStorage {
        &mut self.storage
    }
}
