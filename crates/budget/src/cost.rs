//! What one launch of a kernel must move and compute at least, as a formula of the shape: each byte of weights, cache and
//! activations counted once. A model, not a measurement.

use serde::Deserialize;

/// What the operations of a kernel run on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Tensor cores, bf16 operands.
    Bf16,
    /// Tensor cores, int8 operands.
    Int8,
    /// No tensor cores.
    F32,
}

/// A step of the engine at which launches are reckoned.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// For table heads.
    pub name: &'static str,
    /// Tokens of the step.
    pub tokens: f64,
    /// Sequences they belong to.
    pub sequences: f64,
    /// Keys that a token sees, itself among them; half of the new ones in a prefill, since it sees none after itself.
    pub keys: f64,
}

/// One sequence, sixteen sequences, and a prompt; DeepSeek-V3 sizes are in the budget itself.
pub const STEPS: [Step; 3] = [
    Step { name: "decode 1", tokens: 1.0, sequences: 1.0, keys: 4096.0 },
    Step { name: "decode 16", tokens: 16.0, sequences: 16.0, keys: 4096.0 },
    Step { name: "prefill 512", tokens: 512.0, sequences: 1.0, keys: 256.0 },
];

/// The formula of a family of kernels, with its sizes. Sizes in bytes may be fractions: 0.5 for FP4.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Cost {
    /// Each token's row is read and written; nothing is shared between tokens.
    Rows {
        /// Bytes read per token.
        read: f64,
        /// Bytes written per token.
        write: f64,
        /// Operations per token.
        #[serde(default)]
        ops: f64,
    },
    /// `[T, k]` by weights `[matrices, n, k]`.
    Matmul {
        /// Rows of the weights.
        n: f64,
        /// Columns of the weights.
        k: f64,
        /// Bytes of one weight, with its share of the scales.
        weight: f64,
        /// Bytes of one activation.
        activation: f64,
        /// Bytes of one output element.
        output: f64,
        /// 2 where gate and up run together.
        #[serde(default = "one")]
        matrices: f64,
        /// What it runs on.
        arithmetic: Arithmetic,
    },
    /// As `matmul`, with `active` of `experts` weights for each token, chosen evenly.
    Experts {
        /// Routed experts of a layer.
        experts: f64,
        /// Experts of a token.
        active: f64,
        /// Rows of one matrix.
        n: f64,
        /// Columns of one matrix.
        k: f64,
        /// Bytes of one weight, with its share of the scales.
        weight: f64,
        /// Bytes of one activation.
        activation: f64,
        /// Bytes of one output element.
        output: f64,
        /// 2 where gate and up run together.
        #[serde(default = "one")]
        matrices: f64,
        /// What it runs on.
        arithmetic: Arithmetic,
    },
    /// Queries of every token against the cache rows that it sees; a sequence's rows are read once.
    Attention {
        /// Query heads.
        heads: f64,
        /// Bytes of one cache row.
        row: f64,
        /// Elements of a query that meet a key.
        query: f64,
        /// Elements of a value.
        value: f64,
        /// Bytes of one element of query and output.
        activation: f64,
        /// What it runs on.
        arithmetic: Arithmetic,
    },
}

fn one() -> f64 {
    1.0
}

/// The least traffic and work of one launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// To and from memory.
    pub bytes: f64,
    /// Multiplications and additions.
    pub operations: f64,
}

/// How many of `experts` are chosen at least once by tokens that choose `active` each, on average.
fn touched(experts: f64, active: f64, tokens: f64) -> f64 {
    experts * (1.0 - (1.0 - active / experts).powf(tokens))
}

impl Cost {
    /// What a launch of that step must do.
    pub fn work(&self, step: Step) -> Work {
        let tokens = step.tokens;
        match *self {
            Self::Rows { read, write, ops } => {
                Work { bytes: tokens * (read + write), operations: tokens * ops }
            }
            Self::Matmul { n, k, weight, activation, output, matrices, .. } => Work {
                bytes: matrices * n * k * weight + tokens * (k * activation + n * output),
                operations: 2.0 * tokens * matrices * n * k,
            },
            Self::Experts { experts, active, n, k, weight, activation, output, matrices, .. } => Work {
                bytes: touched(experts, active, tokens) * matrices * n * k * weight
                    + tokens * active * (k * activation + n * output),
                operations: 2.0 * tokens * active * matrices * n * k,
            },
            Self::Attention { heads, row, query, value, activation, .. } => {
                // A prompt's rows are read once, though each token sees only those before it.
                let rows = step.sequences * step.keys.max(tokens / step.sequences);
                Work {
                    bytes: rows * row + tokens * heads * (query + value) * activation,
                    operations: 2.0 * tokens * step.keys * heads * (query + value),
                }
            }
        }
    }

    /// What the operations run on.
    pub fn arithmetic(&self) -> Arithmetic {
        match *self {
            Self::Rows { .. } => Arithmetic::F32,
            Self::Matmul { arithmetic, .. }
            | Self::Experts { arithmetic, .. }
            | Self::Attention { arithmetic, .. } => arithmetic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(text: &str) -> Cost {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn work_follows_from_the_shape() {
        let norm = cost("kind = \"rows\"\nread = 4\nwrite = 2\nops = 10");
        assert_eq!(norm.work(STEPS[1]), Work { bytes: 96.0, operations: 160.0 });
        let linear = cost(
            "kind = \"matmul\"\nn = 10\nk = 100\nweight = 0.5\nactivation = 2\noutput = 4\narithmetic = \"bf16\"",
        );
        assert_eq!(linear.work(STEPS[1]), Work { bytes: 500.0 + 16.0 * 240.0, operations: 32000.0 });
        let attention = cost(
            "kind = \"attention\"\nheads = 2\nrow = 10\nquery = 3\nvalue = 2\nactivation = 2\narithmetic = \"bf16\"",
        );
        assert_eq!(attention.work(STEPS[0]), Work { bytes: 40960.0 + 20.0, operations: 81920.0 });
        let prompt = attention.work(STEPS[2]);
        assert_eq!(prompt, Work { bytes: 5120.0 + 512.0 * 20.0, operations: 512.0 * 256.0 * 20.0 });
    }

    #[test]
    fn experts_are_read_once_however_many_tokens_choose_them() {
        assert_eq!(touched(256.0, 8.0, 1.0), 8.0);
        assert!((touched(256.0, 6.0, 32.0) - 136.0).abs() < 1.0, "the figure of 32 streams");
        assert!(touched(256.0, 8.0, 512.0) < 256.0);
        let experts = cost(
            "kind = \"experts\"\nexperts = 4\nactive = 2\nn = 10\nk = 10\nweight = 1\nactivation = 2\noutput = 4\nmatrices = 2\narithmetic = \"int8\"",
        );
        assert_eq!(experts.work(STEPS[0]), Work { bytes: 400.0 + 120.0, operations: 800.0 });
        assert_eq!(experts.arithmetic(), Arithmetic::Int8);
    }
}
