//! `--experts`: what becomes of routed experts when a model is loaded.

use cachalot::ExpertFormat;
use clap::ValueEnum;

/// The form of the routed experts in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExpertsArg {
    /// As the checkpoint has them.
    AsStored,
    /// INT8 with one scale per row.
    Int8,
    /// INT8 where they are FP8 or FP4 and lose little by it.
    Auto,
}

impl From<ExpertsArg> for ExpertFormat {
    fn from(experts: ExpertsArg) -> Self {
        match experts {
            ExpertsArg::AsStored => Self::AsStored,
            ExpertsArg::Int8 => Self::Int8,
            ExpertsArg::Auto => Self::Auto,
        }
    }
}
