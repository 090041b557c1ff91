//! The exponential and what is made of it.

use super::Simd;

/// `e^x` with a relative error below 2e-7; exactly 0 below -87.3, large but finite above 88, NaN for NaN.
#[inline(always)]
pub(in crate::cpu) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LOW: f32 = -87.3;
    // Bounds come first, so that a NaN passes through.
    let bounded = s.min(s.splat(88.0), s.max(s.splat(LOW), x));
    // Adding and taking away 1.5 * 2^23 rounds to an integer.
    let magic = s.splat(12_582_912.0);
    let n = s.sub(s.mul_add(bounded, s.splat(std::f32::consts::LOG2_E), magic), magic);
    // ln 2 in two parts: the first has few enough bits for n * high to be exact.
    let r = s.mul_add(n, s.splat(-0.693_359_4), bounded);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    // e^r on |r| <= ln(2) / 2: minimax polynomial of Cephes' expf.
    let mut p = s.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
    let y = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    let scaled = s.mul(y, s.pow2(n));
    // A NaN compares false and would become 0; adding it back keeps it.
    let kept = s.keep_ge(x, s.splat(LOW), scaled);
    s.add(kept, s.sub(bounded, bounded))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(in crate::cpu) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}
