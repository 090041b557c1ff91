//! Times every op of one V3-shaped decoder layer, for decode and prefill, beside the machine's measured peaks.

#![allow(clippy::print_stdout, reason = "the table is what this binary is for")]

use anyhow::Result;
use benches::layer::{Inputs, Layer, Step};
use benches::peaks::Peaks;
use benches::profile::{Profile, table};
use clap::{Parser, ValueEnum};
use kernels::DType;
use serde_json::json;

/// The stored form of the layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// `F8_E4M3` with 128 x 128 block scales, as V3 is released.
    Fp8,
    /// `BF16`.
    Bf16,
}

/// Time every op of one DeepSeek-V3-shaped layer with random weights.
#[derive(Debug, Parser)]
struct Args {
    /// Stored form of the weights.
    #[arg(long, value_enum, default_value = "fp8")]
    weights: Form,
    /// Batch sizes of decode steps: so many sequences of one new token each.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    decode: Vec<usize>,
    /// Lengths of prefill steps: one sequence of so many new tokens.
    #[arg(long, value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Keys per sequence after the step; a longer prefill sees its own length.
    #[arg(long, default_value_t = 1024)]
    context: usize,
    /// Timed passes of a decode step; prefill takes a third of them, at least one.
    #[arg(long, default_value_t = 9)]
    passes: usize,
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let dtype = if args.weights == Form::Fp8 { DType::F8E4M3 } else { DType::BF16 };
    let layer = Layer::new(dtype)?;
    let steps = args.decode.iter().map(|&tokens| (tokens, true));
    let steps = steps.chain(args.prefill.iter().map(|&tokens| (tokens, false)));
    let mut runs = Vec::new();
    for (tokens, decode) in steps {
        let step = Step { tokens, decode, context: args.context };
        let mut inputs = Inputs::new(step)?;
        // A first pass touches every page.
        layer.pass(&mut inputs, &mut Profile::default())?;
        let peaks = Peaks::measure();
        let mut profile = Profile::default();
        let passes = if decode { args.passes } else { args.passes / 3 };
        for _ in 0..passes.max(1) {
            layer.pass(&mut inputs, &mut profile)?;
        }
        let lines = profile.lines(&peaks);
        if args.json {
            runs.push(json!({
                "weights": dtype.to_string(), "tokens": tokens, "decode": decode, "context": args.context,
                "passes": passes.max(1), "weight_bytes": layer.size_bytes(), "peaks": peaks, "ops": lines,
            }));
        } else {
            let kind = if decode { "decode" } else { "prefill" };
            let Peaks { read_gb_s, fma_gflop_s } = peaks;
            println!("{dtype} {kind} T={tokens}, context {}, {} passes", args.context, passes.max(1));
            println!("peaks of this run: {read_gb_s:.1} GB/s read, {fma_gflop_s:.0} GFLOP/s f32");
            println!("{}", table(&lines));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
    }
    Ok(())
}
