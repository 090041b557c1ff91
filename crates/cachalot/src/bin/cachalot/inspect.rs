//! `cachalot inspect`: what a model is and what it costs.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use cachalot::Int8Table;
use cachalot::inspect::Inspection;
use serde::Serialize;

use crate::kv_dtype::{IndexerKvDtype, KvDtype};
use crate::model_arg;
use crate::progress::ProgressDisplay;

/// Show a model's family, shapes, parameters and memory without loading it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory, .gguf file or hub id; the demo model if left out
    model: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Element type of the KV cache; the default follows the checkpoint
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
    /// Element type of the index keys of DeepSeek-V3.2 and V4, and of what they are compared with
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    indexer_kv_dtype: IndexerKvDtype,
    /// Read the routed experts and measure what keeping them in INT8 would cost
    #[arg(long, conflicts_with_all = ["kv_dtype", "indexer_kv_dtype"])]
    int8_report: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut display = ProgressDisplay::new();
    let source = model_arg::source(args.model.as_deref())?;
    if args.int8_report {
        let table = Int8Table::of(&source, &mut |step| display.show(&step))?;
        display.clear();
        return print(args, &table);
    }
    let kv_dtype = args.kv_dtype.map(Into::into);
    let index = args.indexer_kv_dtype.into();
    let inspection = Inspection::of(&source, kv_dtype, index, &mut |step| display.show(&step))?;
    display.clear();
    print(args, &inspection)
}

fn print(args: &Args, what: &(impl Display + Serialize)) -> anyhow::Result<ExitCode> {
    if args.json {
        writeln!(io::stdout(), "{:#}", serde_json::to_value(what)?)?;
    } else {
        writeln!(io::stdout(), "{what}")?;
    }
    Ok(ExitCode::SUCCESS)
}
