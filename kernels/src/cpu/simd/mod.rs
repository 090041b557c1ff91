//! Sixteen `f32` lanes as one value, whatever the machine: the vocabulary in which every CPU kernel is written once.
//!
//! A value of a [`Simd`] type is a proof that its instructions exist: the vector types are only made by [`super::Level`]
//! after it has asked the processor. That is what makes the methods safe to call, and it keeps `unsafe` in this folder.
//! The lane count is the same everywhere, so a sum has the same order of additions on every machine; only the portable
//! version, which has no fused multiply-add, rounds differently.
//!
//! Kernels must be `#[inline(always)]` all the way down from [`super::level::Kernel::run`], and must not hide vector
//! code in closures: only code that is inlined into the `target_feature` function is compiled for that feature.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
mod math;
mod portable;

use half::{bf16, f16};

use super::level::Level;
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use bytes::Bytes;
pub(super) use math::{exp, silu};
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Sixteen lanes of `f32` and the conversions into them.
pub(super) trait Simd: Copy + Send + Sync {
    /// The vector.
    type V: Copy;
    /// Sixteen bytes.
    type B: Bytes;
    /// The level that the vector belongs to.
    const LEVEL: Level;
    /// Whether 32 vector registers are there, so that a 6x4 tile of accumulators fits.
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, value: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `value` where `a >= b`, zero elsewhere (also where either is NaN).
    fn keep_ge(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// `2^n` for integral `n` in -126..=127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// The half-precision number of two little-endian bytes in all lanes.
    fn splat_f16(self, bytes: [u8; 2]) -> Self::V;
    fn load_f16(self, from: &[f16; LANES]) -> Self::V;
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V;
    /// Rounded to nearest even; NaN stays NaN.
    fn store_bf16(self, value: Self::V, to: &mut [bf16; LANES]);
    /// Decoded e4m3fn bytes times `2^-8`, NaN bytes excepted: those come out as `480 * 2^-8`.
    ///
    /// By way of half precision, whose conversion takes subnormals in its stride; placed straight into an `f32` they would be
    /// subnormal there too, and a multiplication with one costs hundreds of cycles.
    fn load_e4m3_finite(self, from: &[u8; LANES]) -> Self::V;
    fn load_i8(self, from: &[i8; LANES]) -> Self::V;
    /// What `table` holds for sixteen 4-bit codes: lane `2j` has the low half of byte `j`, lane `2j + 1` the high half.
    fn load_nibbles(self, from: &[u8; LANES / 2], table: &[i8; 16]) -> Self::V;
    fn load_bytes(self, from: &[u8; LANES]) -> Self::B;
    /// Byte `j` is 1 where bit `j` of the two bytes is set, counted from the lowest of the first, else 0.
    fn spread_bits(self, bits: [u8; 2]) -> Self::B;
    /// Signed bytes as `f32`.
    fn widen(self, bytes: Self::B) -> Self::V;
    /// What `table` holds for sixteen codes below 16.
    fn look_up(self, codes: Self::B, table: &[i8; 16]) -> Self::B;
    /// Asks for one cache line. A hint: any address will do.
    fn prefetch_line(self, address: *const u8);
    /// Whether a byte is one of e4m3fn's two NaNs.
    fn has_e4m3_nan(self, bytes: &[u8]) -> bool;
    /// The sum of the lanes, in a fixed order: halves are folded onto each other.
    fn sum(self, value: Self::V) -> f32;
    /// Four sums at once, in the order of [`Simd::sum`].
    fn sum4(self, values: [Self::V; 4]) -> [f32; 4];

    /// Asks for the cache lines under `part`, moved on by `ahead_bytes`.
    #[inline(always)]
    fn prefetch<T>(self, part: &[T], ahead_bytes: usize) {
        let start = part.as_ptr().cast::<u8>().wrapping_add(ahead_bytes);
        for offset in (0..size_of_val(part)).step_by(64) {
            self.prefetch_line(start.wrapping_add(offset));
        }
    }

    /// The largest lane; unspecified if a lane is NaN.
    #[inline(always)]
    fn max_lane(self, value: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        let mut max = f32::NEG_INFINITY;
        for lane in lanes {
            max = if lane > max { lane } else { max };
        }
        max
    }
}
