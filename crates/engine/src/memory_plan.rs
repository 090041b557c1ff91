//! [`MemoryPlan`]: what a model needs of a device and what is left for keys, worked out before anything is loaded.

use std::fmt;

use models::Footprint;

use crate::EngineError;

const MIB: f64 = (1_u64 << 20) as f64;
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
    /// Sequences that keep state at once, of models that do, and copies of it for the prefix cache.
    pub state_slots: u64,
}

impl MemoryPlan {
    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.footprint.kv_bytes_per_token.saturating_mul(self.kv_tokens)
    }

    /// Bytes of the state of all sequences.
    pub fn state_bytes(&self) -> u64 {
        self.footprint.kv_bytes_per_sequence.saturating_mul(self.state_slots)
    }

    /// Bytes that the model needs in all.
    pub fn needed_bytes(&self) -> u64 {
        self.fixed_bytes().saturating_add(self.kv_bytes())
    }

    /// Bytes that it needs whatever the KV cache holds.
    fn fixed_bytes(&self) -> u64 {
        let Footprint { weight_bytes, step_bytes, .. } = self.footprint;
        weight_bytes.saturating_add(step_bytes).saturating_add(self.state_bytes())
    }

    /// Tokens that the KV cache could hold if it took all that is free.
    pub fn room_tokens(&self) -> u64 {
        let left = self.free_bytes.saturating_sub(self.fixed_bytes());
        left.checked_div(self.footprint.kv_bytes_per_token).unwrap_or(0)
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
        if self.state_bytes() > 0 && self.state_slots > 1 {
            let each = self.footprint.kv_bytes_per_sequence as f64 / MIB;
            fixes.push(format!("fewer requests at once (--max-num-seqs) or cached prefixes (--state-snapshots), {each:.1} MiB each"));
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
            "{} needs {} of {} free (of {}): weights {}, KV {} for {} tokens, ",
            self.device,
            gib(self.needed_bytes()),
            gib(self.free_bytes),
            gib(self.total_bytes),
            gib(weight_bytes),
            gib(self.kv_bytes()),
            grouped(self.kv_tokens),
        )?;
        if self.state_bytes() > 0 {
            write!(f, "state {} for {} requests and prefixes, ", gib(self.state_bytes()), self.state_slots)?;
        }
        write!(f, "activations {}; KV room for {} tokens", gib(step_bytes), grouped(self.room_tokens()))
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
            footprint: Footprint {
                weight_bytes: 68 << 30,
                kv_bytes_per_token: 70_272,
                kv_bytes_per_sequence: 0,
                step_bytes: 1 << 30,
            },
            kv_tokens,
            state_slots: 64,
        }
    }

    /// A model that keeps 32 MiB per request.
    fn stateful(free_gib: u64) -> MemoryPlan {
        let plan = plan(free_gib, 32_768);
        MemoryPlan { footprint: Footprint { kv_bytes_per_sequence: 32 << 20, ..plan.footprint }, ..plan }
    }

    #[test]
    fn state_takes_its_part() {
        let plan = stateful(79);
        assert_eq!(plan.needed_bytes(), self::plan(79, 32_768).needed_bytes() + (2 << 30));
        let words = plan.to_string();
        assert!(
            words.contains("tokens, state 2.0 GiB for 64 requests and prefixes, activations 1.0 GiB; "),
            "{words}"
        );
        assert_eq!(plan.room_tokens(), (8 << 30) / 70_272);
        // What would fit without the state does not fit with it.
        assert!(self::plan(72, 32_768).check(1, |_| false).is_ok());
        let error = stateful(72).check(1, |_| false).unwrap_err().to_string();
        assert!(
            error.contains("fewer requests at once (--max-num-seqs) or cached prefixes (--state-snapshots), 32.0 MiB each"),
            "{error}"
        );
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
