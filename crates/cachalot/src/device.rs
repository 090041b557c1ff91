//! [`DeviceOptions`]: where a model runs, and how that is opened.

use std::fmt;
use std::str::FromStr;

use comm::Transport;
use kernels::{CudaOptions, Device, KernelError, Precision};

use crate::Error;

/// Which kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// GPUs if this build can use them and there are enough, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number; with several ranks, this one and those that follow.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ordinal = |digits: &str| digits.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(ordinal),
        }
        .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceOptions {
    /// Which kind of device.
    pub choice: DeviceChoice,
    /// Operand type of a GPU's matmuls. The CPU computes in single precision always.
    pub precision: Precision,
    /// Waits after every launch on a GPU, so that a fault names the op that caused it. Slow.
    pub synchronous: bool,
    /// How ranks on GPUs meet.
    pub transport: Transport,
}

/// One device per rank, and why the CPU was taken where a GPU might have been meant.
#[derive(Debug)]
pub(crate) struct OpenDevices {
    pub(crate) ranks: Vec<Device>,
    pub(crate) notice: Option<String>,
}

impl DeviceOptions {
    /// Opens a device for each of `ranks` ranks.
    ///
    /// # Errors
    /// [`Error::Kernel`] if a GPU was asked for and there is none, or too few.
    pub(crate) fn open(&self, ranks: usize) -> Result<OpenDevices, Error> {
        match self.choice {
            DeviceChoice::Cpu => Ok(OpenDevices { ranks: vec![Device::Cpu; ranks], notice: None }),
            DeviceChoice::Cuda(first) => Ok(OpenDevices { ranks: self.gpus(first, ranks)?, notice: None }),
            DeviceChoice::Auto => Ok(match self.gpus(0, ranks) {
                Ok(ranks) => OpenDevices { ranks, notice: None },
                Err(reason) => {
                    // A build that knows no GPUs has nothing to explain.
                    let notice = Device::is_cuda_built().then(|| format!("{reason}; running on the CPU"));
                    OpenDevices { ranks: vec![Device::Cpu; ranks], notice }
                }
            }),
        }
    }

    fn gpus(&self, first: usize, ranks: usize) -> Result<Vec<Device>, KernelError> {
        let open = |ordinal| {
            let Self { precision, synchronous, .. } = *self;
            Device::cuda(&CudaOptions { ordinal, precision, synchronous, ..CudaOptions::default() })
        };
        (first..first + ranks).map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_it_is_read() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda0"] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(error, "expected auto, cpu, cuda or cuda:N", "{text}");
        }
    }
}
