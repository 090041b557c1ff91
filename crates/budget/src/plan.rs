//! `budget.toml`: one entry per family of kernels, matched by name.

use serde::Deserialize;

use crate::cost::Cost;
use nvcc::Arch;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Every family.
    pub kernel: Vec<Entry>,
}

/// What the kernels of one family may take, and what they must contain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Names, with `*` for any text and `{a,b}` for either; each alternative must match a kernel.
    pub names: Vec<String>,
    /// Threads of a block: the launch bound.
    pub threads: u32,
    /// The most registers of a thread.
    pub registers: PerArch,
    /// The most static shared memory, bytes.
    #[serde(default)]
    pub static_shared: u32,
    /// Dynamic shared memory of the largest launch, bytes.
    #[serde(default)]
    pub dynamic_shared: u32,
    /// Local memory of a thread that is no spill (arrays indexed at run time), bytes.
    #[serde(default)]
    pub stack: u32,
    /// Blocks that a multiprocessor of an A100 holds at least; an H100 holds no fewer.
    pub blocks: u32,
    /// Instructions that must be there, as `LDG.128`.
    #[serde(default)]
    pub require: Vec<String>,
    /// Instructions that must not be there.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// What a launch must do at least; absent for kernels that are not worth a line.
    pub cost: Option<Cost>,
}

/// One number for all architectures or one for each.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum PerArch {
    /// For all.
    Same(u32),
    /// For each.
    Each {
        /// A100.
        sm_80: u32,
        /// H100.
        sm_90: u32,
    },
}

impl PerArch {
    /// The number for one.
    pub fn of(self, arch: Arch) -> u32 {
        match (self, arch) {
            (Self::Same(number), _)
            | (Self::Each { sm_80: number, .. }, Arch::Sm80)
            | (Self::Each { sm_90: number, .. }, Arch::Sm90) => number,
        }
    }
}

impl Entry {
    /// The patterns, each with one alternative chosen.
    pub fn patterns(&self) -> Vec<String> {
        self.names.iter().flat_map(|name| alternatives(name)).collect()
    }

    /// Whether a kernel belongs to this family.
    pub fn covers(&self, kernel: &str) -> bool {
        self.patterns().iter().any(|pattern| matches(pattern, kernel))
    }
}

/// `a_{b,c}` as `a_b` and `a_c`.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![pattern.to_owned()] };
    let tails = alternatives(tail);
    choices
        .split(',')
        .flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}")))
        .collect()
}

/// Whether the whole of `text` is the pattern with something, or nothing, for each `*`.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| matches(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, want) in [
            ("rms_norm_f32", "rms_norm_f32", true),
            ("rms_norm_f32", "add_rms_norm_f32", false),
            ("linear_*_bf16", "linear_tile_128_bf16", true),
            ("linear_*_bf16", "linear_tile_bf16_f32", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        assert_eq!(alternatives("x_{a,b}_{1,2}"), ["x_a_1", "x_a_2", "x_b_1", "x_b_2"]);
        assert_eq!(alternatives("plain"), ["plain"]);
    }
}
