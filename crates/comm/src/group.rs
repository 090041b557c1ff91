//! [`group`]: the communicators of the ranks on given devices.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernels::Device;

use crate::{CommError, Communicator, Result, Solo, Threads, nccl};

/// How bytes travel between the ranks of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// NCCL between GPUs; ranks on the CPU meet in host memory.
    #[default]
    Nccl,
    /// Host memory, also between GPUs: needs no NCCL, is slow, and keeps steps out of CUDA graphs.
    Host,
}

/// How a group is made.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// How bytes travel.
    pub transport: Transport,
    /// No rank waits longer for the others. It has to cover the longest time that one may compute while another
    /// waits: a step of prefill, not of decode.
    pub deadline: Duration,
    /// Where to look for NCCL first: folders that hold `libnccl.so.2`, or Python environments that do.
    pub nccl_folders: Vec<PathBuf>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { transport: Transport::default(), deadline: Duration::from_secs(60), nccl_folders: Vec::new() }
    }
}

/// The communicators of ranks that are threads of this process, one per device, in the order of `devices`. One device
/// needs no transport at all.
///
/// # Errors
/// [`CommError::Transport`] if NCCL is asked for and cannot serve these devices.
pub fn group(devices: &[Device], options: &GroupOptions) -> Result<Vec<Arc<dyn Communicator>>> {
    if devices.len() == 1 {
        return Ok(vec![Arc::new(Solo)]);
    }
    let on_cpu = devices.iter().filter(|device| **device == Device::Cpu).count();
    if options.transport == Transport::Host || on_cpu == devices.len() {
        let ranks = Threads::group(devices.len(), options.deadline);
        return Ok(ranks.into_iter().map(|rank| Arc::new(rank) as Arc<dyn Communicator>).collect());
    }
    if on_cpu > 0 {
        let reason =
            format!("NCCL connects GPUs, and {on_cpu} of the {} ranks are on the CPU", devices.len());
        return Err(CommError::Transport { reason });
    }
    nccl::group(devices, options)
}
