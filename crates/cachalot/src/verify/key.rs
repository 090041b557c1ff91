//! [`Key`]: what a name in a golden file stands for.

/// Meaning of a golden key. `n` is the length of the prompt that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// `p<n>.ids`, `greedy.prompt`: what is fed in; nothing to compare.
    Input { n: Option<usize> },
    /// `p<n>.logits`, `p<n>.logits_f64`.
    Logits { n: usize },
    /// `p<n>.hidden.<place>`: the residual stream at `embed`, `layer<i>` or `final_norm`.
    Hidden { n: usize, place: String },
    /// `p<n>.router.layer<i>.<part>`.
    Router { n: usize, layer: usize, part: RouterPart },
    /// `p<n>.indexer.layer<i>.mask`: which keys each token attends to.
    Selection { n: usize, layer: usize },
    /// `p<n>.mtp_logits`: the draft layer over the final-normed hidden states, of V4 over the streams before them.
    MtpLogits { n: usize },
    /// `p<n>.mtp_logits_prenorm_h`: the draft layer over the last decoder layer's raw output.
    MtpLogitsPrenorm { n: usize },
    /// `greedy.tokens`.
    GreedyTokens,
    /// `greedy.logits`.
    GreedyLogits,
    /// `p<n>.logits_bf16_compute`, `p<n>.logits_actquant`: other arithmetic over the same weights, shown for
    /// information.
    OtherArithmetic { n: usize },
    /// A name that this build has no check for.
    Unknown { n: Option<usize> },
}

/// What a router key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouterPart {
    /// `[n, E]`, before the scoring function.
    Logits,
    /// `[n, k]`, ascending ids.
    Indices,
    /// `[n, k]`, in the order of the indices.
    Weights,
}

impl Key {
    pub(crate) fn parse(name: &str) -> Self {
        match name {
            "greedy.prompt" => return Self::Input { n: None },
            "greedy.tokens" => return Self::GreedyTokens,
            "greedy.logits" => return Self::GreedyLogits,
            _ => {}
        }
        let Some((prompt, rest)) = name.split_once('.') else {
            return Self::Unknown { n: None };
        };
        let Some(n) = prompt.strip_prefix('p').and_then(number) else {
            return Self::Unknown { n: None };
        };
        match rest {
            "ids" => return Self::Input { n: Some(n) },
            "logits" | "logits_f64" => return Self::Logits { n },
            "logits_bf16_compute" | "logits_actquant" => return Self::OtherArithmetic { n },
            "mtp_logits" => return Self::MtpLogits { n },
            "mtp_logits_prenorm_h" => return Self::MtpLogitsPrenorm { n },
            _ => {}
        }
        match rest.split('.').collect::<Vec<_>>()[..] {
            ["hidden", place @ ("embed" | "final_norm")] => Self::Hidden { n, place: place.to_owned() },
            ["hidden", place] if layer(place).is_some() => Self::Hidden { n, place: place.to_owned() },
            ["router", place, part] => match (layer(place), RouterPart::parse(part)) {
                (Some(layer), Some(part)) => Self::Router { n, layer, part },
                _ => Self::Unknown { n: Some(n) },
            },
            ["indexer", place, "mask"] => match layer(place) {
                Some(layer) => Self::Selection { n, layer },
                None => Self::Unknown { n: Some(n) },
            },
            _ => Self::Unknown { n: Some(n) },
        }
    }

    /// Length of the prompt in the name.
    pub(crate) fn prompt(&self) -> Option<usize> {
        match *self {
            Self::Logits { n }
            | Self::Hidden { n, .. }
            | Self::Router { n, .. }
            | Self::Selection { n, .. }
            | Self::MtpLogits { n }
            | Self::MtpLogitsPrenorm { n }
            | Self::OtherArithmetic { n } => Some(n),
            Self::Input { n } | Self::Unknown { n } => n,
            Self::GreedyTokens | Self::GreedyLogits => None,
        }
    }
}

impl RouterPart {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "logits" => Some(Self::Logits),
            "indices" => Some(Self::Indices),
            "weights" => Some(Self::Weights),
            _ => None,
        }
    }
}

fn layer(place: &str) -> Option<usize> {
    place.strip_prefix("layer").and_then(number)
}

/// A number as this format writes it: digits only, no sign, no leading zero, at least one digit.
fn number(digits: &str) -> Option<usize> {
    let plain = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_meaning() {
        for (name, expected) in [
            ("p33.ids", Key::Input { n: Some(33) }),
            ("p5.logits", Key::Logits { n: 5 }),
            ("p1.logits_f64", Key::Logits { n: 1 }),
            ("p7.logits_actquant", Key::OtherArithmetic { n: 7 }),
            ("p33.hidden.layer12", Key::Hidden { n: 33, place: "layer12".to_owned() }),
            ("p33.router.layer1.weights", Key::Router { n: 33, layer: 1, part: RouterPart::Weights }),
            ("p33.indexer.layer0.mask", Key::Selection { n: 33, layer: 0 }),
            ("p33.indexer.layer.mask", Key::Unknown { n: Some(33) }),
            ("p33.hidden.layer", Key::Unknown { n: Some(33) }),
            ("p33.router.layer1.bias", Key::Unknown { n: Some(33) }),
            ("p033.ids", Key::Unknown { n: None }),
            ("p+3.ids", Key::Unknown { n: None }),
            ("logits", Key::Unknown { n: None }),
            ("greedy.sampled", Key::Unknown { n: None }),
            ("greedy.tokens", Key::GreedyTokens),
        ] {
            assert_eq!(Key::parse(name), expected, "{name}");
        }
    }
}
