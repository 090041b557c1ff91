//! [`Tensor`]: a dense, contiguous, row-major array of one dtype on one device.
//!
//! Deliberately absent: strides, broadcasting, laziness, autograd. An op that needs part of a row takes the column
//! range as an argument; everything else reads whole rows. Storage is shared by clones and written only through
//! in-place ops, which demand that nobody else holds it.

use std::sync::Arc;

use half::{bf16, f16};

use crate::cpu::AlignedBytes;
use crate::{DType, Device, KernelError, Result, e4m3_to_f32, e8m0_to_f32};

/// A dense row-major tensor. Cloning shares the storage.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    Cpu(Arc<AlignedBytes>),
}

impl Tensor {
    /// A zero-filled tensor of `shape` on `device`.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let storage = match device {
            Device::Cpu => Storage::Cpu(Arc::new(AlignedBytes::zeroed(bytes))),
        };
        Self { shape: shape.to_vec(), dtype, storage }
    }

    /// A tensor over host bytes that are moved in (CPU) or uploaded.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the byte count is not that of `shape` and `dtype`.
    pub fn from_bytes(device: &Device, dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Result<Self> {
        if bytes.len() != shape.iter().product::<usize>() * dtype.size() {
            let expected = format!("{shape:?} of {dtype} in {} bytes", bytes.len());
            return Err(KernelError::shape("tensor", "bytes", expected, shape));
        }
        let storage = match device {
            Device::Cpu => Storage::Cpu(Arc::new(bytes)),
        };
        Ok(Self { shape: shape.to_vec(), dtype, storage })
    }

    /// An `F32` tensor from host values.
    pub fn from_f32(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::from_bytes(device, DType::F32, shape, AlignedBytes::copy_of(bytemuck::cast_slice(values)))
    }

    /// A `U32` tensor from host values.
    pub fn from_u32(device: &Device, shape: &[usize], values: &[u32]) -> Result<Self> {
        Self::from_bytes(device, DType::U32, shape, AlignedBytes::copy_of(bytemuck::cast_slice(values)))
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Dimension `axis`.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        match self.storage {
            Storage::Cpu(_) => Device::Cpu,
        }
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(KernelError::shape("reshape", "tensor", format!("{shape:?}"), &self.shape));
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// The elements as host `f32`, whatever the dtype and device. For results and tests, not for hot paths.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
            DType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|v| v.to_f32()).collect(),
            DType::BF16 => bytemuck::cast_slice::<u8, bf16>(bytes).iter().map(|v| v.to_f32()).collect(),
            DType::F8E4M3 => bytes.iter().map(|&b| e4m3_to_f32(b)).collect(),
            DType::F8E8M0 => bytes.iter().map(|&b| e8m0_to_f32(b)).collect(),
            DType::U32 => bytemuck::cast_slice::<u8, u32>(bytes).iter().map(|&v| v as f32).collect(),
        }
    }

    /// The elements of a `U32` tensor on the host.
    ///
    /// # Errors
    /// [`KernelError::DType`] for any other dtype.
    pub fn to_vec_u32(&self) -> Result<Vec<u32>> {
        Ok(self.u32s("to_vec_u32", "tensor")?.to_vec())
    }

    /// Raw host bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Cpu(bytes) => bytes,
        }
    }

    /// Raw host bytes for writing in place.
    pub(crate) fn bytes_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&mut [u8]> {
        match &mut self.storage {
            Storage::Cpu(bytes) => {
                Arc::get_mut(bytes).map(|b| &mut **b).ok_or(KernelError::Aliased { op, arg })
            }
        }
    }

    /// The `f32` elements of a CPU tensor; `op` and `arg` name the caller in the error.
    pub(crate) fn f32s(&self, op: &'static str, arg: &'static str) -> Result<&[f32]> {
        self.expect_dtype(DType::F32, "F32", op, arg)?;
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// The `f32` elements of a CPU tensor for writing in place.
    pub(crate) fn f32s_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&mut [f32]> {
        self.expect_dtype(DType::F32, "F32", op, arg)?;
        Ok(bytemuck::cast_slice_mut(self.bytes_mut(op, arg)?))
    }

    /// The `u32` elements of a CPU tensor.
    pub(crate) fn u32s(&self, op: &'static str, arg: &'static str) -> Result<&[u32]> {
        self.expect_dtype(DType::U32, "U32", op, arg)?;
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// Binds the dimensions of a tensor of rank `N`, or says which rank was expected.
    pub(crate) fn dims<const N: usize>(
        &self,
        op: &'static str,
        arg: &'static str,
        names: &'static str,
    ) -> Result<[usize; N]> {
        self.shape.as_slice().try_into().map_err(|_| KernelError::shape(op, arg, names, &self.shape))
    }

    fn expect_dtype(
        &self,
        dtype: DType,
        expected: &'static str,
        op: &'static str,
        arg: &'static str,
    ) -> Result<()> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(KernelError::DType { op, arg, expected, found: self.dtype })
    }
}
