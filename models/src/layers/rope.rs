//! Rotary frequencies: plain, linear, YaRN and llama3, and the factor that YaRN puts on MLA's scores.
//!
//! Computed in `f64` and rounded once. The cosines and sines of a step are `kernels::RopeTable`.

use std::f64::consts::PI;

use checkpoint::RopeScaling;

/// Angular frequencies of one attention kind.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    /// `[rope_dim / 2]`: radians per position of every rotated pair.
    pub inv_freq: Vec<f32>,
    /// Factor on cosines and sines; 1 but for YaRN configs whose `mscale` differs from `mscale_all_dim`.
    pub attention_factor: f32,
    /// Positions are rounded down to multiples of it: 1 for tokens, more for entries that stand for several.
    pub stride: u32,
}

impl RopeFrequencies {
    /// Frequencies `theta^(-2j / rope_dim)` under `scaling`; of [`RopeScaling::Divisors`] before
    /// [`RopeFrequencies::divided_by`].
    pub fn new(theta: f64, rope_dim: usize, scaling: &RopeScaling) -> Self {
        let plain = (0..rope_dim / 2).map(|j| theta.powf(-2.0 * j as f64 / rope_dim as f64));
        let mut attention_factor = 1.0;
        let inv_freq: Vec<f64> = match *scaling {
            RopeScaling::None | RopeScaling::Divisors => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
            } => {
                attention_factor = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim);
                let context = original_max_position_embeddings as f64;
                let range = yarn_correction_range(theta, rope_dim, context, [beta_fast, beta_slow]);
                plain.enumerate().map(|(j, f)| yarn_frequency(f, j, factor, range)).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let context = original_max_position_embeddings as f64;
                plain
                    .map(|f| llama3_frequency(f, factor, [low_freq_factor, high_freq_factor], context))
                    .collect()
            }
        };
        Self {
            inv_freq: inv_freq.into_iter().map(|f| f as f32).collect(),
            attention_factor: attention_factor as f32,
            stride: 1,
        }
    }

    /// The frequencies that turn back what these have turned.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { inv_freq: self.inv_freq.iter().map(|f| -f).collect(), ..self.clone() }
    }

    /// The same frequencies for entries that stand for `ratio` tokens each and lie at the first of them.
    #[must_use]
    pub fn for_entries(&self, ratio: u32) -> Self {
        Self { stride: ratio, ..self.clone() }
    }

    /// Every frequency over its own divisor; there are as many.
    #[must_use]
    pub fn divided_by(mut self, divisors: &[f32]) -> Self {
        for (frequency, divisor) in self.inv_freq.iter_mut().zip(divisors) {
            *frequency /= divisor;
        }
        self
    }
}

/// The factor on MLA's scores: `(nope + rope)^-0.5`, times `m(mscale_all_dim)^2` wherever the config has YaRN,
/// however short the sequence (as transformers and vLLM do; DeepSeek's own code asks for the length first).
pub fn mla_softmax_scale(qk_head_dim: usize, scaling: &RopeScaling) -> f32 {
    let scale = (qk_head_dim as f64).powf(-0.5);
    match *scaling {
        RopeScaling::Yarn { factor, mscale_all_dim, .. } => {
            (scale * yarn_mscale(factor, mscale_all_dim).powi(2)) as f32
        }
        _ => scale as f32,
    }
}

/// `m(a) = 0.1 a ln(factor) + 1` (YaRN, arXiv 2309.00071, section 3.4).
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The pairs between which YaRN blends: those that turn `beta_fast` and `beta_slow` times in the original context.
fn yarn_correction_range(
    theta: f64,
    rope_dim: usize,
    context: f64,
    [beta_fast, beta_slow]: [f64; 2],
) -> [f64; 2] {
    let dim = rope_dim as f64;
    let pair = |rotations: f64| dim * (context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    [pair(beta_fast).floor().max(0.0), pair(beta_slow).ceil().min(dim - 1.0)]
}

/// Interpolated above the range (slow pairs), untouched below it (fast pairs), a linear blend inside.
fn yarn_frequency(frequency: f64, pair: usize, factor: f64, [low, mut high]: [f64; 2]) -> f64 {
    if low == high {
        // An empty range is a step; the width only keeps the division defined.
        high += 0.001;
    }
    let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
    frequency / factor * ramp + frequency * (1.0 - ramp)
}

/// Llama 3.1's rule: long waves are interpolated, short ones kept, those between blended by wavelength.
fn llama3_frequency(
    frequency: f64,
    factor: f64,
    [low_freq_factor, high_freq_factor]: [f64; 2],
    context: f64,
) -> f64 {
    let turns = context * frequency / (2.0 * PI);
    if turns > high_freq_factor {
        return frequency;
    }
    if turns < low_freq_factor {
        return frequency / factor;
    }
    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepseek_yarn(mscale: f64) -> RopeScaling {
        RopeScaling::Yarn {
            factor: 40.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale,
            mscale_all_dim: mscale,
        }
    }

    fn assert_near(found: f32, expected: f64, relative: f64) {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= relative * expected.abs(), "found {found}, expected {expected}");
    }

    #[test]
    fn plain_and_linear() {
        let plain = RopeFrequencies::new(1e4, 64, &RopeScaling::None);
        assert_eq!(plain.inv_freq.len(), 32);
        assert_eq!((plain.inv_freq[0], plain.attention_factor), (1.0, 1.0));
        assert_near(plain.inv_freq[16], 1e-2, 1e-7);
        let linear = RopeFrequencies::new(1e4, 64, &RopeScaling::Linear { factor: 4.0 });
        assert_near(linear.inv_freq[0], 0.25, 1e-7);
        assert_near(linear.inv_freq[16], 2.5e-3, 1e-7);
    }

    #[test]
    fn yarn_range_of_the_released_configs() {
        assert_eq!(yarn_correction_range(1e4, 64, 4096.0, [32.0, 1.0]), [10.0, 23.0]);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let plain = RopeFrequencies::new(1e4, 64, &RopeScaling::None);
        let yarn = RopeFrequencies::new(1e4, 64, &deepseek_yarn(1.0));
        assert_eq!(yarn.attention_factor, 1.0);
        assert_eq!(yarn.inv_freq[..=10], plain.inv_freq[..=10]);
        for j in 23..32 {
            assert_near(yarn.inv_freq[j], f64::from(plain.inv_freq[j]) / 40.0, 1e-6);
        }
        // Halfway in words: pair 16 lies 6/13 into the range.
        assert_near(yarn.inv_freq[16], 1e-2 * (6.0 / 13.0 / 40.0 + 7.0 / 13.0), 1e-6);
    }

    #[test]
    fn yarn_amplitude_is_the_ratio_of_the_two_mscales() {
        let RopeScaling::Yarn {
            factor, original_max_position_embeddings, beta_fast, beta_slow, mscale, ..
        } = deepseek_yarn(1.0)
        else {
            unreachable!()
        };
        let scaling = RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim: 0.0,
        };
        assert_near(RopeFrequencies::new(1e4, 64, &scaling).attention_factor, 1.368_888, 1e-6);
    }

    #[test]
    fn inverse_and_entries_change_one_thing_each() {
        let plain = RopeFrequencies::new(1e4, 8, &RopeScaling::None);
        let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        assert_eq!(sum(&plain.inverse().inv_freq, &plain.inv_freq), [0.0; 4]);
        assert_eq!(plain.inverse().inverse(), plain);
        let entries = plain.for_entries(4);
        assert_eq!((entries.stride, &entries.inv_freq), (4, &plain.inv_freq));
        assert_ne!(entries, plain, "they need a table of their own");
    }

    #[test]
    fn yarn_with_an_empty_range_is_a_step() {
        assert_eq!(yarn_frequency(1.0, 5, 40.0, [5.0, 5.0]), 1.0);
        assert_eq!(yarn_frequency(1.0, 6, 40.0, [5.0, 5.0]), 1.0 / 40.0);
    }

    #[test]
    fn softmax_scales_of_the_released_configs() {
        // V2-Lite, then V2 and V3, then no scaling.
        assert_near(mla_softmax_scale(192, &deepseek_yarn(0.707)), 0.114_721, 5e-6);
        assert_near(mla_softmax_scale(192, &deepseek_yarn(1.0)), 0.135_234, 5e-6);
        assert_near(mla_softmax_scale(192, &RopeScaling::None), 0.072_168_8, 5e-6);
    }

    #[test]
    fn llama3_bands() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = RopeFrequencies::new(5e5, 128, &RopeScaling::None);
        let scaled = RopeFrequencies::new(5e5, 128, &scaling);
        let ratio = |j: usize| f64::from(scaled.inv_freq[j]) / f64::from(plain.inv_freq[j]);
        for j in 0..64 {
            let turns = 8192.0 * f64::from(plain.inv_freq[j]) / (2.0 * PI);
            match turns {
                t if t > 4.0 => assert_near(ratio(j) as f32, 1.0, 1e-6),
                t if t < 1.0 => assert_near(ratio(j) as f32, 0.125, 1e-6),
                t => assert_near(ratio(j) as f32, 0.125 + 0.875 * (t - 1.0) / 3.0, 1e-5),
            }
        }
        // All three bands occur: of 64 pairs, 29 to 34 are blended for the released numbers.
        let blended: Vec<usize> = (0..64).filter(|&j| ratio(j) > 0.126 && ratio(j) < 0.999).collect();
        assert_eq!((blended[0], blended[blended.len() - 1]), (29, 34));
    }
}
