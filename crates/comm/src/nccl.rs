//! NCCL between the GPUs of one process: collectives on each device's own stream, so that CUDA graphs capture them.
//!
//! The library is found at run time and by path. cudarc's own loader is not used for it: it knows the names
//! `libnccl.so` and `libnccl.so.<CUDA version>`, while every package installs `libnccl.so.2` and only development
//! packages add the first.

#[cfg(feature = "cuda-host")]
mod library;
#[cfg(feature = "cuda-host")]
mod members;
#[cfg(feature = "cuda-host")]
mod rank;

use std::sync::Arc;

use kernels::Device;

#[cfg(feature = "cuda-host")]
pub use rank::Nccl;

#[cfg(not(feature = "cuda-host"))]
use crate::CommError;
use crate::{Communicator, GroupOptions, Result};

/// One communicator per GPU.
#[cfg(feature = "cuda-host")]
pub(crate) fn group(devices: &[Device], options: &GroupOptions) -> Result<Vec<Arc<dyn Communicator>>> {
    let ranks = Nccl::group(devices, &options.nccl_folders, options.deadline)?;
    Ok(ranks.into_iter().map(|rank| Arc::new(rank) as Arc<dyn Communicator>).collect())
}

/// There is no NCCL without CUDA.
#[cfg(not(feature = "cuda-host"))]
pub(crate) fn group(_devices: &[Device], _options: &GroupOptions) -> Result<Vec<Arc<dyn Communicator>>> {
    Err(CommError::Transport { reason: "this build has no CUDA support".to_owned() })
}
