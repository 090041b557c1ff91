//! Element types as checkpoints store them, and the scalar conversions of the 8-bit floats.

use std::fmt;

/// Element type of a [`crate::Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// OCP e4m3fn: 4 exponent bits, 3 mantissa bits, no infinities, 0x7F and 0xFF are NaN.
    F8E4M3,
    /// OCP e8m0: a power of two, `2^(byte - 127)`; 0xFF is NaN. Used for block scales only.
    F8E8M0,
    /// Signed 8-bit, of weights quantised to integers.
    I8,
    /// Bytes: two 4-bit codes each, zero points, or packed rows of a cache.
    U8,
    /// Unsigned 32-bit: token ids, positions, slots.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E8M0 | Self::I8 | Self::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::U32 => "U32",
        })
    }
}

/// The value of an e4m3fn byte (OCP 8-bit floating point specification, section 5.2).
pub const fn e4m3_to_f32(byte: u8) -> f32 {
    let sign = ((byte & 0x80) as u32) << 24;
    let magnitude = (byte & 0x7F) as u32;
    if magnitude == 0x7F {
        return f32::NAN;
    }
    // Placed in an f32's exponent and mantissa the value is 2^-120 too small; one multiply repairs it, subnormals
    // included.
    let scaled = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
    f32::from_bits(scaled.to_bits() | sign)
}

/// The nearest e4m3fn byte, ties to even; magnitudes above 448 saturate, NaN stays NaN.
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7F;
    }
    let magnitude = value.abs();
    if magnitude >= 448.0 {
        return sign | 0x7E;
    }
    // Below 2^-6 the format is fixed point with step 2^-9.
    let exponent = if magnitude < 0.015_625 { -6 } else { ((magnitude.to_bits() >> 23) as i32) - 127 };
    let step = f32::from_bits(((exponent - 3 + 127) as u32) << 23);
    let quanta = (magnitude / step).round_ties_even() as u32;
    let bits = if exponent == -6 && quanta < 8 {
        quanta
    } else {
        // A mantissa that rounds up to 16 carries into the exponent by itself.
        (((exponent + 7) as u32) << 3) + (quanta - 8)
    };
    sign | bits.min(0x7E) as u8
}

/// The value of an e8m0 byte: `2^(byte - 127)`; 0xFF is NaN.
pub fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        0xFF => f32::NAN,
        0 => f32::from_bits(0x0040_0000),
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The scale of values in e4m3: the least power of two by which the largest of them, or 1e-4, is no more than 448 (`act_quant`
/// with `scale_fmt` "ue8m0", `inference/kernel.py` of DeepSeek-V3.2-Exp and V4).
pub(crate) fn e4m3_scale(values: &[f32]) -> f32 {
    let most = values.iter().fold(1e-4, |most: f32, v| most.max(v.abs()));
    // 448 is 1.75 * 2^8. A mantissa above 1.75 carries into the exponent.
    f32::from_bits((((most.to_bits() + 0x1F_FFFF) >> 23) - 8) << 23)
}

/// The value of an OCP e2m1 code, the low four bits of `code`: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
pub const fn e2m1_to_f32(code: u8) -> f32 {
    E2M1_DOUBLED[(code & 15) as usize] as f32 * 0.5
}

/// The nearest e2m1 code, ties to the even one; magnitudes above 6 saturate. The format has no NaN: one becomes 6.
pub fn f32_to_e2m1(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 8 } else { 0 };
    // The middles between neighbours belong to the even code.
    let code = match value.abs() {
        ..=0.25 => 0,
        ..0.75 => 1,
        ..=1.25 => 2,
        ..1.75 => 3,
        ..=2.5 => 4,
        ..3.5 => 5,
        ..=5.0 => 6,
        _ => 7,
    };
    sign | code
}

/// Twice the values of the e2m1 codes: integers (code 8, minus zero, becomes zero).
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_known_values() {
        for (byte, value) in
            [(0x00, 0.0), (0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0x7E, 448.0), (0xB8, -1.0)]
        {
            assert_eq!(e4m3_to_f32(byte), value, "byte {byte:#x}");
        }
        assert!(e4m3_to_f32(0x7F).is_nan() && e4m3_to_f32(0xFF).is_nan());
    }

    #[test]
    fn e4m3_round_trip_and_ties() {
        for byte in (0..=0xFFu8).filter(|b| b & 0x7F != 0x7F) {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(byte)), byte);
        }
        assert_eq!(f32_to_e4m3(1.0625), 0x38, "a tie goes to the even mantissa");
        assert_eq!(f32_to_e4m3(1.1875), 0x3A);
        assert_eq!(f32_to_e4m3(1e9), 0x7E);
    }

    #[test]
    fn e2m1_is_a_tiny_float() {
        for code in 0..16u8 {
            // One sign, two exponent and one mantissa bit, bias 1 (OCP MX specification, section 5.3.3).
            let (exponent, mantissa) = (i32::from(code >> 1 & 3), f32::from(code & 1));
            let magnitude =
                if exponent == 0 { mantissa * 0.5 } else { (1.0 + mantissa * 0.5) * 2f32.powi(exponent - 1) };
            assert_eq!(e2m1_to_f32(code), if code & 8 == 0 { magnitude } else { -magnitude }, "code {code}");
        }
    }

    #[test]
    fn e8m0_is_a_power_of_two() {
        assert_eq!(e8m0_to_f32(127), 1.0);
        assert_eq!(e8m0_to_f32(130), 8.0);
        assert_eq!(e8m0_to_f32(0), 2f32.powi(-127));
        assert!(e8m0_to_f32(0xFF).is_nan());
    }
}
