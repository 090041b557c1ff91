//! The options that say where a model runs, shared by every subcommand that runs one.

use cachalot::{DeviceChoice, DeviceOptions, Precision, Transport};

/// Operand type of a GPU's matmuls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PrecisionArg {
    /// Single precision.
    F32,
    /// bf16 on tensor cores.
    Bf16,
}

/// How ranks on GPUs meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TransportArg {
    /// Over NVLink or PCIe, by NCCL.
    Nccl,
    /// Through the host's memory: needs nothing, and is slow.
    Host,
}

/// Where the model runs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N; auto takes a GPU where this build, the driver and the machine have one
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "CACHALOT_DEVICE")]
    device: DeviceChoice,
    /// Operands of a GPU's matmuls; verify takes f32 unless told otherwise, everything else bf16
    #[arg(long, value_name = "PRECISION")]
    precision: Option<PrecisionArg>,
    /// How ranks on GPUs meet
    #[arg(long, value_name = "TRANSPORT", default_value = "nccl")]
    tp_transport: TransportArg,
    /// Wait after every launch on a GPU, so that a fault names the op that caused it (slow)
    #[arg(long)]
    cuda_sync: bool,
}

impl DeviceArgs {
    /// The library's options; `precision` is that of a GPU's matmuls if the user has no wish.
    pub(crate) fn options(&self, precision: Precision) -> DeviceOptions {
        let precision = match self.precision {
            Some(PrecisionArg::F32) => Precision::F32,
            Some(PrecisionArg::Bf16) => Precision::Bf16,
            None => precision,
        };
        let transport = match self.tp_transport {
            TransportArg::Nccl => Transport::Nccl,
            TransportArg::Host => Transport::Host,
        };
        DeviceOptions { choice: self.device, precision, synchronous: self.cuda_sync, transport }
    }
}
