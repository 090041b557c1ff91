//! Which instructions a CPU kernel may use, and the one place where a kernel is compiled for each of them.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// An instruction set that the CPU kernels are compiled for, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// What the compiler makes of plain Rust on the baseline target.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Level {
    /// The fastest level of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if Avx512::detect().is_some() {
                return Self::Avx512;
            }
            if Avx2::detect().is_some() {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every level this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|l| *l <= Self::detect()).collect()
    }

    /// Runs `kernel` compiled for this level, or for the best that the processor has below it.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        {
            if self >= Self::Avx512
                && let Some(simd) = Avx512::detect()
            {
                // SAFETY: the token proves the features that the function is compiled for.
                return unsafe { run_avx512(simd, kernel) };
            }
            if self >= Self::Avx2
                && let Some(simd) = Avx2::detect()
            {
                // SAFETY: the token proves the features that the function is compiled for.
                return unsafe { run_avx2(simd, kernel) };
            }
        }
        kernel.run(Portable)
    }
}

/// A piece of work written against [`Simd`]. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    /// What it returns.
    type Output;
    /// Does the work.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_avx512<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}
