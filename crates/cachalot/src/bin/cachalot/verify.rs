//! `cachalot verify`: a checkpoint against golden tensors, or prompt formats against golden prompts and outputs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use cachalot::verify::{
    Chunkings, KeyTolerance, Outcome, Report, Tolerances, VerifyOptions, verify_checkpoint, verify_text_file,
};
use cachalot::{Precision, Tokenizer};

use crate::device_args::DeviceArgs;
use crate::experts_arg::ExpertsArg;
use crate::progress::ProgressDisplay;

const ABOUT_GOLDENS: &str = "\
Golden tensors are exact maths: an indexer in FP8 or FP4 (--indexer-kv-dtype of run and serve) cannot be held to them, as
it selects other keys where scores are close, nor can a cache of rounded rows (--kv-dtype).

Exit codes: 0 everything was checked and holds, 1 something does not hold or is malformed, 2 wrong usage, 3 nothing
failed but something could not be checked by this build.";

/// Prove that this build computes what the reference computed
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT_GOLDENS)]
pub(crate) struct Args {
    /// A directory with config.json, model*.safetensors and golden.safetensors, a GGUF file with golden.safetensors beside
    /// it, or a JSON file of golden prompts or golden outputs
    #[arg(value_name = "DIR|FILE.gguf|FILE.json")]
    path: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Prompt tokens per step; the whole prompt if left out
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Split the model over N ranks
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: usize,
    /// Form of the routed experts in memory
    #[arg(long, value_name = "FORM", default_value = "as-stored")]
    experts: ExpertsArg,
    #[command(flatten)]
    device: DeviceArgs,
    /// Accept this difference for every key; the default is 1e-4 up to 7 tokens, 3e-4 up to 33, 1e-3 beyond
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// Accept a difference for the keys that match a pattern, where * stands for anything; may be given several times
    #[arg(long, value_name = "PATTERN=X")]
    tolerance_key: Vec<KeyTolerance>,
    /// How the texts of golden outputs are cut: whole; listed (also as the file cuts them); all (also every character,
    /// every split in two and random cuts)
    #[arg(long, value_name = "WAYS", default_value = "all")]
    chunkings: ChunkingsArg,
    /// tokenizer.json, or a directory with one, for the ids of golden prompts and outputs
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// [`Chunkings`] by name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ChunkingsArg {
    Whole,
    Listed,
    All,
}

impl From<ChunkingsArg> for Chunkings {
    fn from(arg: ChunkingsArg) -> Self {
        match arg {
            ChunkingsArg::Whole => Self::Whole,
            ChunkingsArg::Listed => Self::Listed,
            ChunkingsArg::All => Self::All,
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let is_gguf = args.path.extension().is_some_and(|extension| extension == "gguf");
    let report = if args.path.is_file() && !is_gguf { text_file(args)? } else { checkpoint(args)? };
    if args.json {
        writeln!(io::stdout(), "{:#}", report.to_json())?;
    } else {
        writeln!(io::stdout(), "{report}")?;
    }
    Ok(ExitCode::from(match report.outcome() {
        Outcome::Pass => 0,
        Outcome::Fail => 1,
        Outcome::Unchecked => 3,
    }))
}

fn checkpoint(args: &Args) -> anyhow::Result<Report> {
    let tolerances = Tolerances { all: args.tolerance, by_key: args.tolerance_key.clone() };
    // Goldens are single precision; so is the check, unless somebody wants to know how far bf16 is.
    let device = args.device.options(Precision::F32);
    let experts = args.experts.into();
    let options = VerifyOptions { chunk: args.chunk, tolerances, tensor_parallel: args.tp, device, experts };
    let mut display = ProgressDisplay::new();
    let report = verify_checkpoint(&args.path, &options, &mut |step| display.message(step))?;
    display.clear();
    Ok(report)
}

fn text_file(args: &Args) -> anyhow::Result<Report> {
    let tokenizer = args.tokenizer.as_deref().map(tokenizer).transpose()?;
    Ok(verify_text_file(&args.path, args.chunkings.into(), tokenizer.as_ref())?)
}

fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    if path.is_dir() {
        return Ok(Tokenizer::from_dir(path)?);
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Tokenizer::from_bytes(&bytes, None)?)
}
