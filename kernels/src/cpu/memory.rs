//! Host memory for tensors: zeroed, 64-byte aligned so that a row starts on a cache line and a vector load never
//! splits one.

use std::ops::{Deref, DerefMut};

const ALIGN: usize = 64;

/// One cache line: the allocation unit.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

// SAFETY: `Line` is a plain byte array; every bit pattern is valid and it has no padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above, and it is `Copy + 'static`.
unsafe impl bytemuck::Pod for Line {}

/// A 64-byte aligned byte buffer.
#[derive(Debug)]
pub struct AlignedBytes {
    lines: Box<[Line]>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes. Large buffers come as untouched zero pages from the allocator.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: bytemuck::allocation::zeroed_slice_box(len.div_ceil(ALIGN)), len }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Scratch for the kernels: zeroed `f32`s that start on a cache line, which a full-width load must not straddle.
#[derive(Debug)]
pub(super) struct Scratch(AlignedBytes);

impl Scratch {
    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        Self(AlignedBytes::zeroed(len * size_of::<f32>()))
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
