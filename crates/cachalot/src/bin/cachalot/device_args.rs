//! The options that say where a model runs, shared by every subcommand that runs one.

use cachalot::{DeviceChoice, DeviceOptions, Precision};

/// Where the model runs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N; auto takes a GPU where this build, the driver and the machine have one
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "CACHALOT_DEVICE")]
    device: DeviceChoice,
    /// Wait after every launch on a GPU, so that a fault names the op that caused it (slow)
    #[arg(long)]
    cuda_sync: bool,
}

impl DeviceArgs {
    /// The library's options; `precision` is that of a GPU's matmuls.
    pub(crate) fn options(&self, precision: Precision) -> DeviceOptions {
        DeviceOptions { choice: self.device, precision, synchronous: self.cuda_sync }
    }
}
