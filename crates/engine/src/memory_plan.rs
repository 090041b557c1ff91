//! [`MemoryPlan`]: what a model needs of a device and what is left for keys, worked out before anything is loaded.

use std::fmt;

use models::Footprint;

use crate::EngineError;

const GIB: f64 = (1_u64 << 30) as f64;

/// The memory of one device, and what the largest rank of a model takes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The device, in words.
    pub device: String,
    /// Bytes that are free now.
    pub free_bytes: u64,
    /// Bytes that the device has.
    pub total_bytes: u64,
    /// What the model takes.
    pub footprint: Footprint,
    /// Tokens that the KV cache is to hold, over all sequences.
    pub kv_tokens: u64,
}

impl MemoryPlan {
    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.footprint.kv_bytes_per_token.saturating_mul(self.kv_tokens)
    }

    /// Bytes that the model needs in all.
    pub fn needed_bytes(&self) -> u64 {
        let Footprint { weight_bytes, step_bytes, .. } = self.footprint;
        weight_bytes.saturating_add(step_bytes).saturating_add(self.kv_bytes())
    }

    /// Tokens that the KV cache could hold if it took all that is free.
    pub fn room_tokens(&self) -> u64 {
        let Footprint { weight_bytes, step_bytes, kv_bytes_per_token } = self.footprint;
        let left = self.free_bytes.saturating_sub(weight_bytes + step_bytes);
        left.checked_div(kv_bytes_per_token).unwrap_or(0)
    }

    /// Fails unless everything fits.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] with what would help: `fits` tells whether so many ranks would.
    pub fn check(&self, ranks: usize, fits: impl Fn(usize) -> bool) -> Result<(), EngineError> {
        if self.needed_bytes() <= self.free_bytes {
            return Ok(());
        }
        let mut fixes = Vec::new();
        if self.room_tokens() >= 2 {
            fixes.push(format!("a context of at most {} tokens in all", grouped(self.room_tokens())));
        }
        let more = std::iter::successors(Some(ranks * 2), |n| Some(n * 2)).take_while(|&n| n <= 64);
        if let Some(ranks) = more.into_iter().find(|&n| fits(n)) {
            fixes.push(format!("--tp {ranks}"));
        }
        fixes.push("INT8 experts (--experts int8) if the experts are stored wider".into());
        Err(EngineError::DoesNotFit { plan: Box::new(self.clone()), fix: fixes.join(", or ") })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB);
        let Footprint { weight_bytes, step_bytes, .. } = self.footprint;
        write!(
            f,
            "{} needs {} of {} free (of {}): weights {}, KV {} for {} tokens, activations {}; KV room for {} tokens",
            self.device,
            gib(self.needed_bytes()),
            gib(self.free_bytes),
            gib(self.total_bytes),
            gib(weight_bytes),
            gib(self.kv_bytes()),
            grouped(self.kv_tokens),
            gib(step_bytes),
            grouped(self.room_tokens()),
        )
    }
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(free_gib: u64, kv_tokens: u64) -> MemoryPlan {
        MemoryPlan {
            device: "cuda:0".into(),
            free_bytes: free_gib << 30,
            total_bytes: 80 << 30,
            footprint: Footprint { weight_bytes: 68 << 30, kv_bytes_per_token: 70_272, step_bytes: 1 << 30 },
            kv_tokens,
        }
    }

    #[test]
    fn what_fits_says_how_much_room_is_left() {
        let plan = plan(79, 32_768);
        assert!(plan.check(1, |_| panic!("nobody asks")).is_ok());
        assert_eq!(
            plan.to_string(),
            "cuda:0 needs 71.1 GiB of 79.0 GiB free (of 80.0 GiB): weights 68.0 GiB, KV 2.1 GiB for 32,768 tokens, \
             activations 1.0 GiB; KV room for 152,797 tokens"
        );
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let error = plan(70, 32_768).check(1, |ranks| ranks >= 4).unwrap_err().to_string();
        assert!(error.contains("a context of at most 15,279 tokens in all, or --tp 4"), "{error}");
        let error = plan(60, 1).check(2, |_| false).unwrap_err().to_string();
        assert!(!error.contains("--tp") && !error.contains("a context of"), "{error}");
        assert!(error.contains("needs 69.0 GiB of 60.0 GiB free"), "{error}");
    }
}
