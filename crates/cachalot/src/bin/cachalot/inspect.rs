//! `cachalot inspect`: what a model is and what it costs.

use std::io::{self, Write};
use std::process::ExitCode;

use cachalot::inspect::Inspection;

use crate::kv_dtype::KvDtype;
use crate::model_arg;
use crate::progress::ProgressDisplay;

/// Show a model's family, shapes, parameters and memory without loading it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory or hub id; the demo model if left out
    model: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Element type of the KV cache; the default follows the checkpoint
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut display = ProgressDisplay::new();
    let source = model_arg::source(args.model.as_deref())?;
    let kv_dtype = args.kv_dtype.map(Into::into);
    let inspection = Inspection::of(&source, kv_dtype, &mut |step| display.show(&step))?;
    display.clear();
    if args.json {
        writeln!(io::stdout(), "{:#}", serde_json::to_value(&inspection)?)?;
    } else {
        writeln!(io::stdout(), "{inspection}")?;
    }
    Ok(ExitCode::SUCCESS)
}
