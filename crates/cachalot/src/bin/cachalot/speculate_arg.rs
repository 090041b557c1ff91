//! `--speculate`: who guesses tokens, and how many.

use std::str::FromStr;

use cachalot::{Drafter, Speculation};

/// `mtp`, `ngram`, or one of them and a number: `mtp:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpeculateArg(pub(crate) Speculation);

impl FromStr for SpeculateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
        let (drafter, usual) = match name {
            // The layer was trained to look one token ahead; prompts repeat themselves in longer runs.
            "mtp" => (Drafter::Mtp, 1),
            "ngram" => (Drafter::Ngram, 4),
            _ => return Err(format!("expected mtp or ngram, found {name:?}")),
        };
        let num_tokens = match count {
            None => usual,
            Some(count) => {
                let most = cachalot::MAX_SPECULATIVE_TOKENS;
                let number = count.parse().ok().filter(|number| (1..=most).contains(number));
                number
                    .ok_or_else(|| format!("expected 1 to {most} tokens after the colon, found {count:?}"))?
            }
        };
        Ok(Self(Speculation { drafter, num_tokens }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_perhaps_a_number() {
        let parse = |text: &str| text.parse().map(|SpeculateArg(speculation)| speculation);
        let found = [parse("mtp"), parse("ngram"), parse("mtp:3")];
        let expected = [(Drafter::Mtp, 1), (Drafter::Ngram, 4), (Drafter::Mtp, 3)];
        assert_eq!(found, expected.map(|(drafter, num_tokens)| Ok(Speculation { drafter, num_tokens })));
        for (text, word) in
            [("eagle", "mtp or ngram"), ("mtp:0", "1 to 16"), ("ngram:17", "1 to 16"), ("mtp:", "1 to 16")]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
