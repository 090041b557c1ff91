//! Whole blocks of a paged cache: copied within it, set aside on the host and brought back.

use std::collections::HashSet;

use crate::host_blocks::{HostBlocks, HostStorage};
use crate::{KernelError, Result, Tensor};

/// Copies block `source` of `cache` `[blocks, block_size, width]` to block `target` for every pair `(source, target)`.
///
/// # Errors
/// [`KernelError::Value`] for a block past the end, and for a target that is also part of another pair or its own
/// source: the result must not depend on the order of the pairs.
pub fn copy_blocks(cache: &mut Tensor, pairs: &[(u32, u32)]) -> Result<()> {
    const OP: &str = "copy_blocks";
    let [blocks, block_size, width] = cache.dims(OP, "cache", "[blocks, block_size, width]")?;
    check_pairs(OP, pairs, ("blocks", blocks), ("blocks", blocks))?;
    let sources: HashSet<u32> = pairs.iter().map(|pair| pair.0).collect();
    if let Some((_, target)) = pairs.iter().find(|(_, target)| sources.contains(target)) {
        return Err(KernelError::value(OP, "pairs", "targets that are no pair's source", target));
    }
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        return crate::cuda::block_copy::copy_blocks(cache, pairs);
    }
    let bytes = block_size * width * cache.dtype().size();
    let cache = cache.bytes_mut(OP, "cache")?;
    for &(source, target) in pairs {
        let start = source as usize * bytes;
        cache.copy_within(start..start + bytes, target as usize * bytes);
    }
    Ok(())
}

/// Copies block `block` of `cache` to `slot` of `host` for every pair `(block, slot)`.
///
/// On a GPU the copies run in order with its other work, and the host does not wait: a block may be given to another
/// sequence at once.
///
/// # Errors
/// [`KernelError::Value`] for a block or slot past the end and for a slot that is named twice.
pub fn swap_out(cache: &Tensor, pairs: &[(u32, u32)], host: &mut HostBlocks) -> Result<()> {
    const OP: &str = "swap_out";
    host.check(OP, cache)?;
    check_pairs(OP, pairs, ("blocks", cache.dim(0)), ("slots", host.slots()))?;
    match host.storage_mut() {
        HostStorage::Cpu(target) => copy_pairs(cache.bytes(), target, pairs, block_bytes(cache)),
        #[cfg(feature = "cuda-host")]
        HostStorage::Pinned(target) => crate::cuda::block_copy::swap_out(cache, pairs, target)?,
    }
    Ok(())
}

/// Copies `slot` of `host` to block `block` of `cache` for every pair `(slot, block)`; see [`swap_out`].
///
/// # Errors
/// [`KernelError::Value`] for a slot or block past the end and for a block that is named twice.
pub fn swap_in(cache: &mut Tensor, pairs: &[(u32, u32)], host: &HostBlocks) -> Result<()> {
    const OP: &str = "swap_in";
    host.check(OP, cache)?;
    check_pairs(OP, pairs, ("slots", host.slots()), ("blocks", cache.dim(0)))?;
    match host.storage() {
        HostStorage::Cpu(source) => {
            let bytes = block_bytes(cache);
            copy_pairs(source, cache.bytes_mut(OP, "cache")?, pairs, bytes);
        }
        #[cfg(feature = "cuda-host")]
        HostStorage::Pinned(source) => crate::cuda::block_copy::swap_in(cache, pairs, source)?,
    }
    Ok(())
}

fn block_bytes(cache: &Tensor) -> usize {
    cache.dim(1) * cache.dim(2) * cache.dtype().size()
}

fn copy_pairs(from: &[u8], to: &mut [u8], pairs: &[(u32, u32)], bytes: usize) {
    for &(source, target) in pairs {
        let source = &from[source as usize * bytes..][..bytes];
        to[target as usize * bytes..][..bytes].copy_from_slice(source);
    }
}

/// Every index in range and every target named once. A side is its name and how many there are.
fn check_pairs(
    op: &'static str,
    pairs: &[(u32, u32)],
    sources: (&str, usize),
    targets: (&str, usize),
) -> Result<()> {
    let mut seen = HashSet::new();
    for &(source, target) in pairs {
        for (index, (what, count)) in [(source, sources), (target, targets)] {
            if index as usize >= count {
                return Err(KernelError::value(op, "pairs", format!("{what} below {count}"), index));
            }
        }
        if !seen.insert(target) {
            return Err(KernelError::value(op, "pairs", "each target once", format!("{target} twice")));
        }
    }
    Ok(())
}
