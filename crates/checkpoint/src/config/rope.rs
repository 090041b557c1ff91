//! Rotary position scaling: the `rope_scaling` object, or the newer `rope_parameters` that also holds the base.

use super::fields::Fields;
use super::{MAX_POSITIONS, base::RopeConfig};
use crate::Result;

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Unscaled.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// YaRN: low frequencies interpolated, high ones kept, a ramp between (arXiv:2309.00071).
    Yarn {
        /// Context extension factor.
        factor: f64,
        /// Trained context length.
        original_max_position_embeddings: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated.
        beta_slow: f64,
        /// Numerator of the cos/sin factor.
        mscale: f64,
        /// Denominator of the cos/sin factor, and the softmax scale correction; 0 means none.
        mscale_all_dim: f64,
    },
    /// Llama 3.1's smooth interpolation by wavelength.
    Llama3 {
        /// Factor for long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are fully interpolated.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Trained context length.
        original_max_position_embeddings: usize,
    },
    /// Each frequency divided by its element of the tensor `rope_freqs.weight`: llama3's rule as a GGUF file has it.
    Divisors,
}

const THETA_RANGE: (f64, f64) = (1.0 + 1e-6, 1e15);
const FACTOR_RANGE: (f64, f64) = (1.0, 1e6);
const RAMP_RANGE: (f64, f64) = (1e-6, 1e6);
const MSCALE_RANGE: (f64, f64) = (0.0, 100.0);

/// Base and scaling from either spelling. `max_position_embeddings` stands in for an absent original length.
pub(crate) fn rope_config(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<RopeConfig> {
    const DEFAULT_THETA: f64 = 10_000.0;
    fields.only("partial_rotary_factor", &1.0.into())?;
    let theta = fields.number_opt("rope_theta", THETA_RANGE.0, THETA_RANGE.1)?;
    let old = fields.object("rope_scaling", "rope_scaling.")?;
    let new = fields.object("rope_parameters", "rope_parameters.")?;
    let inner_theta = match new {
        Some(new) => new.number_opt("rope_theta", THETA_RANGE.0, THETA_RANGE.1)?,
        None => None,
    };
    let scaling = match old.or(new) {
        Some(scaling) => rope_scaling(&scaling, max_position_embeddings)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta: theta.or(inner_theta).unwrap_or(DEFAULT_THETA), scaling })
}

#[derive(Clone, Copy)]
enum Kind {
    Default,
    Linear,
    Yarn,
    Llama3,
}

fn rope_scaling(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<RopeScaling> {
    let kinds = [
        ("default", Kind::Default),
        ("linear", Kind::Linear),
        ("yarn", Kind::Yarn),
        ("llama3", Kind::Llama3),
    ];
    let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    // `rope_parameters` may hold nothing but the base.
    let default = fields.mentions("rope_theta").then_some(Kind::Default);
    fields.only("partial_rotary_factor", &1.0.into())?;
    let factor = || fields.number("factor", FACTOR_RANGE.0, FACTOR_RANGE.1);
    let number = |key, (min, max): (f64, f64)| fields.number(key, min, max);
    Ok(match fields.choice(key, &kinds, default)? {
        Kind::Default => RopeScaling::None,
        Kind::Linear => RopeScaling::Linear { factor: factor()? },
        Kind::Yarn => yarn(fields, max_position_embeddings)?,
        Kind::Llama3 => {
            let low_freq_factor = number("low_freq_factor", RAMP_RANGE)?;
            let high_freq_factor = number("high_freq_factor", RAMP_RANGE)?;
            if high_freq_factor <= low_freq_factor {
                return Err(
                    fields.error("high_freq_factor", format!("more than low_freq_factor {low_freq_factor}"))
                );
            }
            RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: fields
                    .size("original_max_position_embeddings", MAX_POSITIONS)?,
            }
        }
    })
}

/// The defaults are those of the released DeepSeek modelling code: an absent `mscale_all_dim` corrects nothing.
fn yarn(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<RopeScaling> {
    if fields.get("attention_factor").is_some() {
        return Err(fields.error("attention_factor", "nothing: mscale and mscale_all_dim set the factor"));
    }
    fields.only("truncate", &true.into())?;
    let or = |key, range: (f64, f64), default: f64| {
        fields.number_opt(key, range.0, range.1).map(|value| value.unwrap_or(default))
    };
    let (beta_fast, beta_slow) = (or("beta_fast", RAMP_RANGE, 32.0)?, or("beta_slow", RAMP_RANGE, 1.0)?);
    if beta_fast < beta_slow {
        return Err(fields.error("beta_fast", format!("at least beta_slow {beta_slow}")));
    }
    Ok(RopeScaling::Yarn {
        factor: fields.number("factor", FACTOR_RANGE.0, FACTOR_RANGE.1)?,
        original_max_position_embeddings: fields
            .size_opt("original_max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(max_position_embeddings),
        beta_fast,
        beta_slow,
        mscale: or("mscale", MSCALE_RANGE, 1.0)?,
        mscale_all_dim: or("mscale_all_dim", MSCALE_RANGE, 0.0)?,
    })
}
