//! `cachalot pull`: downloads a model into the cache.

use std::io::{self, Write};
use std::process::ExitCode;

use cachalot::ModelSource;

use crate::model_arg;
use crate::progress::ProgressDisplay;

/// Download a model from the hub and print its directory, or its GGUF file
///
/// Of a repository of several GGUF models PICK is one: the end of its file's name, as Q4_K_M, or the whole. Resumes what was cut off and verifies checksums. HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_ENDPOINT apply.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The hub id
    #[arg(value_name = "ORG/NAME[@REVISION][:PICK]")]
    model: String,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = ModelSource::Hub { id: args.model.clone(), options: model_arg::hub_options() };
    let mut display = ProgressDisplay::new();
    let dir = source.resolve(&mut |step| display.show(&step))?;
    display.clear();
    if let Some(dir) = dir {
        writeln!(io::stdout(), "{}", dir.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
