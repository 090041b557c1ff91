//! Launches of `cuda/block_copy.cu`, and page-locked memory for blocks that leave the GPU for a while.

use cudarc::driver::result;

use crate::cuda::elementwise::{rows_of, unit};
use crate::cuda::{Args, CudaDevice};
use crate::{KernelError, Result, Tensor};

/// Copies block `source` of `cache` to block `target` for every pair; the pairs have been checked.
pub(crate) fn copy_blocks(cache: &mut Tensor, pairs: &[(u32, u32)]) -> Result<()> {
    const OP: &str = "copy_blocks";
    let block_bytes = block_bytes(cache);
    if !block_bytes.is_multiple_of(2) {
        let expected = "[blocks, block_size, width] with blocks of an even number of bytes";
        return Err(KernelError::shape(OP, "cache", expected, cache.shape()));
    }
    cache.device_buffer_mut(OP, "cache")?;
    if pairs.is_empty() || block_bytes == 0 {
        return Ok(());
    }
    let device = cache.cuda(OP)?.clone();
    let list: Vec<u32> = pairs.iter().flat_map(|&(source, target)| [source, target]).collect();
    let list = Tensor::from_u32(&cache.device(), &[pairs.len(), 2], &list)?;
    let (suffix, bytes) = unit(&[block_bytes]);
    let (blocks, width) = (cache.dim(0) as u32, block_bytes / bytes);
    let args = Args::new().fault(&device).output(cache)?.tensor(&list)?.value(blocks).value(width as u32);
    device.launch("block_copy", &format!("copy_blocks_{suffix}"), rows_of(pairs.len(), width), args)
}

/// Copies block `block` of `cache` to `slot` of `host` for every pair `(block, slot)`, in stream order.
pub(crate) fn swap_out(cache: &Tensor, pairs: &[(u32, u32)], host: &mut PinnedBytes) -> Result<()> {
    const OP: &str = "swap_out";
    let (buffer, bytes) = (cache.device_buffer(OP, "cache")?, block_bytes(cache));
    let device = buffer.device();
    device.bind()?;
    for &(block, slot) in pairs {
        let source = buffer.address() + u64::from(block) * bytes as u64;
        let target = host.part_mut(slot as usize * bytes, bytes);
        // SAFETY: the block lies in the cache, as the op has checked; the host memory is freed only after a wait.
        let copied = unsafe { result::memcpy_dtoh_async(target, source, device.stream()) };
        device.check(OP, copied)?;
    }
    Ok(())
}

/// Copies `slot` of `host` to block `block` of `cache` for every pair `(slot, block)`, in stream order.
pub(crate) fn swap_in(cache: &mut Tensor, pairs: &[(u32, u32)], host: &PinnedBytes) -> Result<()> {
    const OP: &str = "swap_in";
    let bytes = block_bytes(cache);
    let buffer = cache.device_buffer_mut(OP, "cache")?;
    let device = buffer.device();
    device.bind()?;
    for &(slot, block) in pairs {
        let target = buffer.address() + u64::from(block) * bytes as u64;
        let source = host.part(slot as usize * bytes, bytes);
        // SAFETY: the block lies in the cache, as the op has checked; the host memory is freed only after a wait.
        let copied = unsafe { result::memcpy_htod_async(target, source, device.stream()) };
        device.check(OP, copied)?;
    }
    Ok(())
}

fn block_bytes(cache: &Tensor) -> usize {
    cache.dim(1) * cache.dim(2) * cache.dtype().size()
}

/// Page-locked host memory, which a GPU copies from and to while the host goes on. All its uses are copies in order on
/// the device's stream; the host itself never reads it.
#[derive(Debug)]
pub(crate) struct PinnedBytes {
    device: CudaDevice,
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone, and only the device touches what it holds.
unsafe impl Send for PinnedBytes {}
// SAFETY: a shared reference gives out shared slices only.
unsafe impl Sync for PinnedBytes {}

impl PinnedBytes {
    /// `bytes` zero bytes.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if the host has no such memory left to lock.
    pub(crate) fn zeroed(device: &CudaDevice, bytes: usize) -> Result<Self> {
        device.bind()?;
        // SAFETY: freed once, in `drop`.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) };
        let memory = device.check("page-locked memory", memory)?.cast::<u8>();
        // SAFETY: the allocation is so large, and nobody else knows of it yet.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Self { device: device.clone(), memory, bytes })
    }

    /// The GPU that copies.
    pub(crate) fn device(&self) -> &CudaDevice {
        &self.device
    }

    fn part(&self, start: usize, bytes: usize) -> &[u8] {
        assert!(start + bytes <= self.bytes, "the op has checked the slot");
        // SAFETY: within the allocation, all of which is initialised.
        unsafe { std::slice::from_raw_parts(self.memory.add(start), bytes) }
    }

    fn part_mut(&mut self, start: usize, bytes: usize) -> &mut [u8] {
        assert!(start + bytes <= self.bytes, "the op has checked the slot");
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(start), bytes) }
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        // A copy may be in flight. What it met is reported by the next wait of whoever uses the device.
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: allocated in `zeroed`; the wait ends its last use, and after a fault the context is lost in any case.
        unsafe {
            let _ = result::stream::synchronize(self.device.stream());
            let _ = result::free_host(self.memory.cast());
        }
    }
}
