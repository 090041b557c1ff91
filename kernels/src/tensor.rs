//! [`Tensor`]: a dense, contiguous, row-major array of one dtype on one device.
//!
//! Deliberately absent: strides, broadcasting, laziness, autograd. An op that needs part of a row takes the column
//! range as an argument; everything else reads whole rows. Storage is shared by clones and written only through
//! in-place ops, which demand that nobody else holds it.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};

use crate::cpu::AlignedBytes;
#[cfg(feature = "cuda-host")]
use crate::cuda::{CudaDevice, DeviceBuffer};
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
    #[cfg(feature = "cuda-host")]
    Cuda(Arc<DeviceStorage>),
}

/// Device memory, and for step inputs the host list that it was made from.
#[cfg(feature = "cuda-host")]
#[derive(Debug)]
struct DeviceStorage {
    buffer: DeviceBuffer,
    /// Lets an op check ids and slots before it launches anything. `None` for what a kernel computed.
    host: Option<Vec<u32>>,
}

/// The elements in bytes that may lie at any address, as those copied from a device do.
fn unpack<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> impl Iterator<Item = T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

impl Tensor {
    /// A zero-filled tensor of `shape` on `device`, to be kept: weights, caches.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::filled(device, dtype, shape, 0)
    }

    /// A tensor to be kept, with every byte set to `byte`; 0xFF makes every float NaN.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn filled(device: &Device, dtype: DType, shape: &[usize], byte: u8) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let storage = match device {
            Device::Cpu => {
                let mut host = AlignedBytes::zeroed(bytes);
                if byte != 0 {
                    host.fill(byte);
                }
                Storage::Cpu(Arc::new(host))
            }
            #[cfg(feature = "cuda-host")]
            Device::Cuda(device) => {
                let buffer = DeviceBuffer::resident(device, bytes)?;
                buffer.fill(byte)?;
                Storage::Cuda(Arc::new(DeviceStorage { buffer, host: None }))
            }
        };
        Ok(Self { shape: shape.to_vec(), dtype, storage })
    }

    /// The result of an op, for the op to write in full: a range of the step arena on a GPU, with unspecified contents;
    /// zeroed host memory on the CPU.
    pub(crate) fn output(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        match device {
            Device::Cpu => Self::zeros(device, dtype, shape),
            #[cfg(feature = "cuda-host")]
            Device::Cuda(device) => {
                let bytes = shape.iter().product::<usize>() * dtype.size();
                let buffer = DeviceBuffer::for_step(device, bytes)?;
                let storage = Storage::Cuda(Arc::new(DeviceStorage { buffer, host: None }));
                Ok(Self { shape: shape.to_vec(), dtype, storage })
            }
        }
    }

    /// A tensor over host bytes that are moved in (CPU) or uploaded.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the byte count is not that of `shape` and `dtype`, [`KernelError::OutOfMemory`].
    pub fn from_bytes(device: &Device, dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Result<Self> {
        if bytes.len() != shape.iter().product::<usize>() * dtype.size() {
            let expected = format!("{shape:?} of {dtype} in {} bytes", bytes.len());
            return Err(KernelError::shape("tensor", "bytes", expected, shape));
        }
        let storage = match device {
            Device::Cpu => Storage::Cpu(Arc::new(bytes)),
            #[cfg(feature = "cuda-host")]
            Device::Cuda(device) => {
                let buffer = DeviceBuffer::resident(device, bytes.len())?;
                buffer.upload(&bytes)?;
                Storage::Cuda(Arc::new(DeviceStorage { buffer, host: None }))
            }
        };
        Ok(Self { shape: shape.to_vec(), dtype, storage })
    }

    /// An `F32` tensor from host values.
    pub fn from_f32(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::from_bytes(device, DType::F32, shape, AlignedBytes::copy_of(bytemuck::cast_slice(values)))
    }

    /// A `U32` tensor from host values: an input of one step. On a GPU it lies in the step arena, and the host keeps
    /// a copy for checks.
    pub fn from_u32(device: &Device, shape: &[usize], values: &[u32]) -> Result<Self> {
        match device {
            Device::Cpu => {
                let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(values));
                Self::from_bytes(device, DType::U32, shape, bytes)
            }
            #[cfg(feature = "cuda-host")]
            Device::Cuda(device) => {
                if values.len() != shape.iter().product::<usize>() {
                    let expected = format!("{} values", values.len());
                    return Err(KernelError::shape("tensor", "values", expected, shape));
                }
                let buffer = DeviceBuffer::for_step(device, size_of_val(values))?;
                buffer.upload(bytemuck::cast_slice(values))?;
                let storage = Storage::Cuda(Arc::new(DeviceStorage { buffer, host: Some(values.to_vec()) }));
                Ok(Self { shape: shape.to_vec(), dtype: DType::U32, storage })
            }
        }
    }

    /// Replaces all values of a `U32` tensor where it lies, in stream order: the next inputs of a recorded step.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another number of values, [`KernelError::Aliased`] if the storage is shared.
    pub fn write_u32(&mut self, values: &[u32]) -> Result<()> {
        const OP: &str = "write_u32";
        self.expect_dtype(DType::U32, "U32", OP, "tensor")?;
        if values.len() != self.len() {
            return Err(KernelError::shape(OP, "tensor", format!("{} values", values.len()), &self.shape));
        }
        #[cfg(feature = "cuda-host")]
        if let Storage::Cuda(storage) = &mut self.storage {
            let storage = Arc::get_mut(storage).ok_or(KernelError::Aliased { op: OP, arg: "tensor" })?;
            storage.buffer.upload(bytemuck::cast_slice(values))?;
            storage.host = Some(values.to_vec());
            return Ok(());
        }
        self.bytes_mut(OP, "tensor")?.copy_from_slice(bytemuck::cast_slice(values));
        Ok(())
    }

    /// Replaces the first rows by `source`, which has no more of them, in stream order: what a recorded step gives, where it
    /// is kept.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::DType`] or [`KernelError::Placement`] for a source of another kind,
    /// [`KernelError::Aliased`] if the storage is shared.
    pub fn write_rows(&mut self, source: &Self) -> Result<()> {
        const OP: &str = "write_rows";
        let fits = match (&source.shape[..], &self.shape[..]) {
            ([rows, row @ ..], [room, place @ ..]) => rows <= room && row == place,
            (source, place) => source == place,
        };
        if !fits {
            let expected = format!("{:?}, or fewer rows", self.shape);
            return Err(KernelError::shape(OP, "source", expected, &source.shape));
        }
        source.expect_dtype(self.dtype, "the dtype of the tensor", OP, "source")?;
        source.expect_device(&self.device(), OP, "source")?;
        #[cfg(feature = "cuda-host")]
        if self.is_cuda() {
            let bytes = source.size_bytes();
            return self
                .device_buffer_mut(OP, "tensor")?
                .copy_from(source.device_buffer(OP, "source")?, bytes);
        }
        self.bytes_mut(OP, "tensor")?[..source.size_bytes()].copy_from_slice(source.bytes());
        Ok(())
    }

    /// The same elements on `device`, to be kept there; a clone if they are there already.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], and any fault of the device the elements come from.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        Self::from_bytes(device, self.dtype, &self.shape, AlignedBytes::copy_of(&self.host_bytes()?))
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
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            #[cfg(feature = "cuda-host")]
            Storage::Cuda(storage) => Device::Cuda(storage.buffer.device().clone()),
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

    /// The elements as host `f32`, whatever the dtype and device; waits for the device.
    ///
    /// # Errors
    /// What the device met since the last wait, see [`Device::synchronize`].
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        let bytes = &*self.host_bytes()?;
        Ok(match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(bytes),
            DType::F16 => unpack::<f16>(bytes).map(|v| v.to_f32()).collect(),
            DType::BF16 => unpack::<bf16>(bytes).map(|v| v.to_f32()).collect(),
            DType::F8E4M3 => bytes.iter().map(|&b| e4m3_to_f32(b)).collect(),
            DType::F8E8M0 => bytes.iter().map(|&b| e8m0_to_f32(b)).collect(),
            DType::I8 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
            DType::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            DType::U32 => unpack::<u32>(bytes).map(|v| v as f32).collect(),
        })
    }

    /// As [`Tensor::read_f32`], for CPU tensors and tests.
    ///
    /// # Panics
    /// If the device has failed.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        self.read_f32().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The elements of a `U32` tensor on the host; waits for the device.
    ///
    /// # Errors
    /// [`KernelError::DType`] for any other dtype, and what the device met since the last wait.
    pub fn to_vec_u32(&self) -> Result<Vec<u32>> {
        self.expect_dtype(DType::U32, "U32", "to_vec_u32", "tensor")?;
        Ok(bytemuck::pod_collect_to_vec(&self.host_bytes()?))
    }

    /// The bytes as they are stored; copied and waited for where they lie on a device.
    ///
    /// # Errors
    /// What the device met since the last wait.
    pub fn host_bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.storage {
            Storage::Cpu(bytes) => Ok(Cow::Borrowed(bytes)),
            #[cfg(feature = "cuda-host")]
            Storage::Cuda(storage) => Ok(Cow::Owned(storage.buffer.download(self.size_bytes())?)),
        }
    }

    /// The values of a `U32` tensor if the host has them without asking a device.
    pub(crate) fn host_u32s(&self) -> Option<&[u32]> {
        match &self.storage {
            Storage::Cpu(bytes) if self.dtype == DType::U32 => Some(bytemuck::cast_slice(bytes)),
            Storage::Cpu(_) => None,
            #[cfg(feature = "cuda-host")]
            Storage::Cuda(storage) => storage.host.as_deref(),
        }
    }

    /// Whether the tensor lives on a GPU.
    #[cfg(feature = "cuda-host")]
    pub(crate) fn is_cuda(&self) -> bool {
        matches!(self.storage, Storage::Cuda(_))
    }

    /// The GPU of a tensor that lives on one.
    #[cfg(feature = "cuda-host")]
    pub(crate) fn cuda(&self, op: &'static str) -> Result<&CudaDevice> {
        Ok(self.device_buffer(op, "tensor")?.device())
    }

    /// Device memory of a tensor that lives on a GPU.
    #[cfg(feature = "cuda-host")]
    pub(crate) fn device_buffer(&self, op: &'static str, arg: &'static str) -> Result<&DeviceBuffer> {
        match &self.storage {
            Storage::Cuda(storage) => Ok(&storage.buffer),
            Storage::Cpu(_) => {
                let (expected, found) = ("a GPU".into(), "cpu".into());
                Err(KernelError::Placement { op, arg, expected, found })
            }
        }
    }

    /// Device memory for writing in place.
    #[cfg(feature = "cuda-host")]
    pub(crate) fn device_buffer_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&DeviceBuffer> {
        if let Storage::Cuda(storage) = &mut self.storage {
            let Some(storage) = Arc::get_mut(storage) else {
                return Err(KernelError::Aliased { op, arg });
            };
            // A kernel is about to change what the host copied.
            storage.host = None;
        }
        self.device_buffer(op, arg)
    }

    /// Raw bytes of a CPU tensor, which the op has checked it to be.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Cpu(bytes) => bytes,
            #[cfg(feature = "cuda-host")]
            Storage::Cuda(_) => unreachable!("an op checks devices before its CPU forward"),
        }
    }

    /// Fails unless the tensor lives on `device`.
    pub(crate) fn expect_device(&self, device: &Device, op: &'static str, arg: &'static str) -> Result<()> {
        let found = self.device();
        if found == *device { Ok(()) } else { Err(found.misplaced(op, arg, device)) }
    }

    /// Raw bytes of a CPU tensor for writing in place.
    pub(crate) fn bytes_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&mut [u8]> {
        match &mut self.storage {
            Storage::Cpu(bytes) => {
                Arc::get_mut(bytes).map(|b| &mut **b).ok_or(KernelError::Aliased { op, arg })
            }
            #[cfg(feature = "cuda-host")]
            Storage::Cuda(storage) => {
                Err(Device::Cuda(storage.buffer.device().clone()).misplaced(op, arg, &Device::Cpu))
            }
        }
    }

    /// The `f32` elements of a CPU tensor; `op` and `arg` name the caller in the error.
    pub(crate) fn f32s(&self, op: &'static str, arg: &'static str) -> Result<&[f32]> {
        self.expect_dtype(DType::F32, "F32", op, arg)?;
        self.expect_device(&Device::Cpu, op, arg)?;
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// The `f32` elements of a CPU tensor for writing in place.
    pub(crate) fn f32s_mut(&mut self, op: &'static str, arg: &'static str) -> Result<&mut [f32]> {
        self.expect_dtype(DType::F32, "F32", op, arg)?;
        Ok(bytemuck::cast_slice_mut(self.bytes_mut(op, arg)?))
    }

    /// The `u32` elements of a CPU tensor, or of a step input.
    pub(crate) fn u32s(&self, op: &'static str, arg: &'static str) -> Result<&[u32]> {
        self.expect_dtype(DType::U32, "U32", op, arg)?;
        self.host_u32s().ok_or_else(|| self.device().misplaced(op, arg, &Device::Cpu))
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

    /// Fails unless the tensor has `dtype`; `expected` says it in words.
    pub(crate) fn expect_dtype(
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
