//! What the machine can do at best, measured in the same run as the ops: reading memory, and multiply-adds in
//! registers. On a shared machine both move from minute to minute, so a fraction of them says more than a rate.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

/// The measured limits of all cores together.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// Reading a buffer that no cache holds.
    pub read_gb_s: f64,
    /// `f32` fused multiply-adds without memory, counted as two operations.
    pub fma_gflop_s: f64,
}

impl Peaks {
    /// Measures both, the best of a few runs.
    pub fn measure() -> Self {
        Self { read_gb_s: best(3, read), fma_gflop_s: best(3, arithmetic) }
    }
}

fn best(runs: usize, measure: impl Fn() -> f64) -> f64 {
    (0..runs).map(|_| measure()).fold(0.0, f64::max)
}

/// Gigabytes per second of summing 512 MB.
fn read() -> f64 {
    let buffer = vec![1_u64; 64 << 20];
    let start = Instant::now();
    let total: u64 = buffer
        .par_chunks(1 << 17)
        .map(|chunk| chunk.iter().fold(0_u64, |sum, v| sum.wrapping_add(*v)))
        .reduce(|| 0, u64::wrapping_add);
    black_box(total);
    size_of_val(&buffer[..]) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Giga operations per second of independent multiply-adds.
fn arithmetic() -> f64 {
    const STEPS: usize = 4_000_000;
    let start = Instant::now();
    let operations: usize = rayon::broadcast(|_| chains(STEPS)).into_iter().sum();
    operations as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Runs `steps` rounds of independent chains and says how many operations that was.
fn chains(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { chains_avx512(steps) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { chains_avx2(steps) };
        }
    }
    let mut lanes = black_box([1.0_f32; 64]);
    for _ in 0..steps {
        for lane in &mut lanes {
            *lane = *lane * 0.999 + 0.001;
        }
    }
    black_box(lanes);
    steps * 64 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(steps: usize) -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    // Opaque values: from known ones the compiler computes the end of every chain itself.
    let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut chains = [_mm512_set1_ps(0.0); 12];
    for (i, chain) in chains.iter_mut().enumerate() {
        *chain = _mm512_set1_ps(black_box(i as f32));
    }
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(*chain, factor, term);
        }
    }
    for chain in chains {
        black_box(_mm512_reduce_add_ps(chain));
    }
    steps * 12 * 16 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2(steps: usize) -> usize {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut chains = [_mm256_set1_ps(0.0); 12];
    for (i, chain) in chains.iter_mut().enumerate() {
        *chain = _mm256_set1_ps(black_box(i as f32));
    }
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = _mm256_fmadd_ps(*chain, factor, term);
        }
    }
    for chain in chains {
        black_box(_mm256_cvtss_f32(chain));
    }
    steps * 12 * 8 * 2
}
