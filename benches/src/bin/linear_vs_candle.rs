//! Our `linear` and candle's `matmul` on the same weights, in turns within one process: F32 and F16 in both, and our BF16
//! against candle's F32, since its CPU matmul has no BF16.

#![allow(clippy::print_stdout, reason = "the table is what this binary is for")]

use std::time::Instant;

use anyhow::Result;
use benches::profile::median;
use benches::weights::{normal, weight};
use candle_core::{DType as CandleDType, Device as CandleDevice, Tensor as CandleTensor};
use clap::Parser;
use kernels::{DType, Device, Tensor, ops};

/// Compare `linear` with candle's matmul, alternating.
#[derive(Debug, Parser)]
struct Args {
    /// Rows of activations.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    tokens: Vec<usize>,
    /// Weights as `NxK`.
    #[arg(long, value_delimiter = ',', default_value = "2048x2048,7168x2048,4096x7168")]
    shapes: Vec<String>,
    /// Timed pairs of runs.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!("{:<6}{:>6}{:>14}{:>12}{:>12}{:>9}", "dtype", "T", "NxK", "ours ms", "candle ms", "ratio");
    // candle's CPU matmul has no BF16: it takes such weights widened to F32.
    let forms =
        [(DType::F32, CandleDType::F32), (DType::F16, CandleDType::F16), (DType::BF16, CandleDType::F32)];
    for (dtype, theirs) in forms {
        for shape in &args.shapes {
            let (n, k) = shape.split_once('x').ok_or_else(|| anyhow::anyhow!("{shape}: expected NxK"))?;
            let (n, k): (usize, usize) = (n.parse()?, k.parse()?);
            let ours = weight(1, dtype, [1, n, k])?;
            let other = CandleTensor::from_vec(ours.to_vec_f32(), (n, k), &CandleDevice::Cpu)?;
            let other = other.to_dtype(theirs)?.t()?;
            for &tokens in &args.tokens {
                let x = normal(2, tokens * k);
                let candle_x = CandleTensor::from_slice(&x, (tokens, k), &CandleDevice::Cpu)?;
                let (x, candle_x) =
                    (Tensor::from_f32(&Device::Cpu, &[tokens, k], &x)?, candle_x.to_dtype(theirs)?);
                let (mut mine, mut candle) = (Vec::new(), Vec::new());
                for pair in 0..=args.pairs {
                    let start = Instant::now();
                    ops::linear(&x, &ours, None)?;
                    let first = start.elapsed().as_secs_f64();
                    let start = Instant::now();
                    candle_x.matmul(&other)?;
                    // The first pair warms up.
                    if pair > 0 {
                        mine.push(first);
                        candle.push(start.elapsed().as_secs_f64());
                    }
                }
                let (mine, candle) = (1e3 * median(&mine), 1e3 * median(&candle));
                let ratio = candle / mine;
                println!("{dtype:<6}{tokens:>6}{shape:>14}{mine:>12.3}{candle:>12.3}{ratio:>8.2}x");
            }
        }
    }
    Ok(())
}
