//! The lanes as an array: what the compiler vectorises for whatever the target has.

use half::{bf16, f16};

use super::{LANES, Simd};
use crate::cpu::level::Level;

/// Sixteen lanes in plain Rust.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Portable;

/// The array, aligned as one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(in crate::cpu) struct Lanes([f32; LANES]);

/// One lane-wise function of two vectors.
macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $value:expr) => {
        #[inline(always)]
        fn $name(self, a: Lanes, b: Lanes) -> Lanes {
            let mut out = a;
            for i in 0..LANES {
                let ($a, $b) = (a.0[i], b.0[i]);
                out.0[i] = $value;
            }
            out
        }
    };
}

impl Simd for Portable {
    type V = Lanes;
    type B = [u8; LANES];
    const LEVEL: Level = Level::Portable;
    const WIDE: bool = false;

    lanewise!(add, |a, b| a + b);
    lanewise!(sub, |a, b| a - b);
    lanewise!(mul, |a, b| a * b);
    lanewise!(div, |a, b| a / b);
    lanewise!(max, |a, b| if a > b { a } else { b });
    lanewise!(min, |a, b| if a < b { a } else { b });

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        Lanes([value; LANES])
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Lanes {
        Lanes(*from)
    }

    #[inline(always)]
    fn store(self, value: Lanes, to: &mut [f32; LANES]) {
        *to = value.0;
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Not `f32::mul_add`: without the instruction that is a call into libm per lane.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn keep_ge(self, a: Lanes, b: Lanes, value: Lanes) -> Lanes {
        let mut out = value;
        for i in 0..LANES {
            out.0[i] = if a.0[i] >= b.0[i] { value.0[i] } else { 0.0 };
        }
        out
    }

    #[inline(always)]
    fn pow2(self, n: Lanes) -> Lanes {
        let mut out = n;
        for i in 0..LANES {
            out.0[i] = f32::from_bits(((n.0[i] as i32).wrapping_add(127) as u32) << 23);
        }
        out
    }

    #[inline(always)]
    fn splat_f16(self, bytes: [u8; 2]) -> Lanes {
        // By its bits: the conversion of the library asks the processor first what it can, each time.
        let bits = u32::from(u16::from_le_bytes(bytes));
        let magnitude = match bits & 0x7FFF {
            // Infinite or NaN.
            bits @ 0x7C00.. => f32::from_bits(bits << 13 | 0x7F80_0000),
            // In an f32's places it is 2^-112 too small, subnormals included.
            bits => f32::from_bits(bits << 13) * f32::from_bits((127 + 112) << 23),
        };
        self.splat(f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16))
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Lanes {
        let mut out = Lanes([0.0; LANES]);
        for i in 0..LANES {
            out.0[i] = from[i].to_f32();
        }
        out
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Lanes {
        let mut out = Lanes([0.0; LANES]);
        for i in 0..LANES {
            out.0[i] = f32::from_bits(u32::from(from[i].to_bits()) << 16);
        }
        out
    }

    #[inline(always)]
    fn store_bf16(self, value: Lanes, to: &mut [bf16; LANES]) {
        for i in 0..LANES {
            to[i] = bf16::from_f32(value.0[i]);
        }
    }

    #[inline(always)]
    fn load_e4m3_finite(self, from: &[u8; LANES]) -> Lanes {
        let mut out = Lanes([0.0; LANES]);
        for i in 0..LANES {
            let bits = i32::from(from[i] as i8) << 20;
            // 2^112 of the missing 2^120.
            out.0[i] = f32::from_bits(bits as u32 & 0x87F0_0000) * f32::from_bits((112 + 127) << 23);
        }
        out
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Lanes {
        let mut out = Lanes([0.0; LANES]);
        for i in 0..LANES {
            out.0[i] = f32::from(from[i]);
        }
        out
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES / 2], table: &[i8; 16]) -> Lanes {
        let mut out = Lanes([0.0; LANES]);
        for i in 0..LANES {
            let code = from[i / 2] >> (i % 2 * 4) & 15;
            out.0[i] = f32::from(table[usize::from(code)]);
        }
        out
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; LANES]) -> [u8; LANES] {
        *from
    }

    #[inline(always)]
    fn spread_bits(self, bits: [u8; 2]) -> [u8; LANES] {
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = bits[i / 8] >> (i % 8) & 1;
        }
        out
    }

    #[inline(always)]
    fn widen(self, bytes: [u8; LANES]) -> Lanes {
        self.load_i8(&bytemuck::cast(bytes))
    }

    #[inline(always)]
    fn look_up(self, codes: [u8; LANES], table: &[i8; 16]) -> [u8; LANES] {
        let mut out = codes;
        for byte in &mut out {
            *byte = table[usize::from(*byte & 15)] as u8;
        }
        out
    }

    #[inline(always)]
    fn prefetch_line(self, _: *const u8) {}

    #[inline(always)]
    fn has_e4m3_nan(self, bytes: &[u8]) -> bool {
        // Without an early exit the loop is vectorised.
        let mut found = false;
        for byte in bytes {
            found |= byte & 0x7F == 0x7F;
        }
        found
    }

    #[inline(always)]
    fn sum(self, value: Lanes) -> f32 {
        let mut lanes = value.0;
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [Lanes; 4]) -> [f32; 4] {
        [self.sum(a), self.sum(b), self.sum(c), self.sum(d)]
    }
}
