//! Where a tensor lives.

use std::fmt;

#[cfg(feature = "cuda-host")]
use crate::cuda::CudaDevice;
use crate::{DType, KernelError, Result};

/// A place for tensors. Handles are cheap to clone; equality means the same physical place and the same stream of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// Host memory and all host cores.
    #[default]
    Cpu,
    /// One GPU, or the software device that stands in for one in tests.
    #[cfg(feature = "cuda-host")]
    Cuda(CudaDevice),
}

/// The operand type of a GPU's matmuls, and with it the dtype of the activations that feed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision throughout: for checks against goldens, several times slower.
    F32,
    /// bf16 operands on tensor cores, sums in `F32`. The residual stream stays `F32`.
    #[default]
    Bf16,
}

/// How a GPU is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CudaOptions {
    /// Which GPU, as `CUDA_VISIBLE_DEVICES` numbers them.
    pub ordinal: usize,
    /// Operand type of matmuls.
    pub precision: Precision,
    /// Gives every activation an allocation of its own in place of a range of the step arena. Slow; with it the
    /// software device sees every step past the end of a tensor.
    pub separate_allocations: bool,
    /// Waits after every launch, so that a fault is reported by the op that caused it. Slow.
    pub synchronous: bool,
}

impl Device {
    /// Opens a GPU.
    ///
    /// # Errors
    /// [`KernelError::Unavailable`] says what is missing: CUDA support in this build, a driver, the GPU, or a GPU new
    /// enough (sm_80).
    pub fn cuda(options: &CudaOptions) -> Result<Self> {
        #[cfg(feature = "cuda-host")]
        return Ok(Self::Cuda(CudaDevice::open(options)?));
        #[cfg(not(feature = "cuda-host"))]
        Err(KernelError::Unavailable {
            device: format!("cuda:{}", options.ordinal),
            reason: "this build has no CUDA support; build with `--features cuda`".into(),
        })
    }

    /// Whether this build has the CUDA backend.
    pub const fn is_cuda_built() -> bool {
        cfg!(feature = "cuda-host")
    }

    /// Whether steps can be recorded ([`crate::Recording`]).
    pub fn can_record(&self) -> bool {
        *self != Self::Cpu
    }

    /// Free and total bytes of a GPU's memory; `None` for the CPU.
    ///
    /// # Errors
    /// [`KernelError::Cuda`].
    pub fn memory_info(&self) -> Result<Option<(usize, usize)>> {
        match self {
            Self::Cpu => Ok(None),
            #[cfg(feature = "cuda-host")]
            Self::Cuda(device) => device.memory_info().map(Some),
        }
    }

    /// How many GPUs a driver offers; 0 where this build, the machine or the driver has none.
    pub fn cuda_count() -> usize {
        #[cfg(feature = "cuda-host")]
        return CudaDevice::count().unwrap_or(0);
        #[cfg(not(feature = "cuda-host"))]
        0
    }

    /// The dtype of tensors that feed a matmul.
    pub fn activation_dtype(&self) -> DType {
        match self {
            Self::Cpu => DType::F32,
            #[cfg(feature = "cuda-host")]
            Self::Cuda(device) => device.activation_dtype(),
        }
    }

    /// Waits until everything that was asked of the device is done.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if a kernel failed since the last wait, [`KernelError::Value`] if one met an index out of
    /// range.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda-host")]
            Self::Cuda(device) => device.synchronize(),
        }
    }

    /// A [`KernelError::Placement`]: `arg` of `op` lives on `self` and was expected on `expected`.
    pub(crate) fn misplaced(&self, op: &'static str, arg: &'static str, expected: &Self) -> KernelError {
        KernelError::Placement { op, arg, expected: expected.to_string(), found: self.to_string() }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda-host")]
            Self::Cuda(device) => write!(f, "cuda:{}", device.ordinal()),
        }
    }
}
