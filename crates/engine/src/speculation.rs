//! [`Speculation`]: guesses at the tokens that follow, which one step of the model checks all at once.
//!
//! The guesses are computed behind the token they follow, and each of these rows is sampled as if the guesses before it
//! were right; what was sampled behind a wrong one is thrown away. So the tokens are those of plain sampling, one by one,
//! greedy or drawn from a seed: a guess decides only how many a step gives. (Of a drafter that names one token this is
//! the acceptance rule of Leviathan et al., arXiv 2211.17192: it is right with the probability that the model gives it.)

use crate::EngineError;

/// Most guesses of a step.
pub const MAX_SPECULATIVE_TOKENS: usize = 16;

/// The longest run of tokens that [`ngram`] looks for; a shorter one is taken where that is not found.
const NGRAM: usize = 3;

/// How far back [`ngram`] looks, in tokens.
const WINDOW: usize = 4096;

/// Who guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drafter {
    /// The checkpoint's first multi-token-prediction layer (DeepSeek-V3 report, section 2.2), once for each guess.
    Mtp,
    /// Nobody: what followed when the last tokens came before (prompt lookup). Any model; good where answers repeat what
    /// was asked.
    Ngram,
}

/// How tokens are guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// Who guesses.
    pub drafter: Drafter,
    /// Guesses of a step, 1 to [`MAX_SPECULATIVE_TOKENS`].
    pub num_tokens: usize,
}

impl Speculation {
    /// Checks the number of guesses, and that there is somebody to guess.
    pub(crate) fn validate(&self, has_mtp: bool) -> Result<(), EngineError> {
        if !(1..=MAX_SPECULATIVE_TOKENS).contains(&self.num_tokens) {
            let expected = format!("1 to {MAX_SPECULATIVE_TOKENS}");
            return Err(EngineError::options("speculation.num_tokens", expected, self.num_tokens));
        }
        if self.drafter == Drafter::Mtp && !has_mtp {
            let expected = "a checkpoint with multi-token-prediction layers for Mtp, or Ngram";
            return Err(EngineError::options(
                "speculation.drafter",
                expected,
                "Mtp and a checkpoint without",
            ));
        }
        Ok(())
    }
}

/// At most `count` tokens that followed the last time that `tokens` ended as it does now; none if it never did.
pub(crate) fn ngram(tokens: &[u32], count: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(WINDOW)..];
    for n in (1..=NGRAM.min(tokens.len())).rev() {
        let (before, last) = tokens.split_at(tokens.len() - n);
        // The token after the run may be the first of the last run itself.
        let found = (0..before.len()).rev().find(|&at| tokens[at..at + n] == *last);
        if let Some(at) = found {
            let follows = &tokens[at + n..];
            return follows[..follows.len().min(count)].to_vec();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_same_words_comes_again() {
        assert_eq!(ngram(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(ngram(&[1, 2, 3, 4, 5, 1, 2, 3], 9), [4, 5, 1, 2, 3], "as far as anything is known");
        assert_eq!(ngram(&[7, 3, 4, 9, 3, 8, 3], 1), [8], "the last time that it came");
        assert_eq!(ngram(&[2, 3, 5, 9, 3, 6, 2, 3], 1), [5], "a longer run is better than a later one");
        assert_eq!(ngram(&[4, 4, 4], 3), [4], "a run may overlap itself");
        assert!(ngram(&[1, 2, 3], 4).is_empty() && ngram(&[], 4).is_empty() && ngram(&[5], 4).is_empty());
    }

    #[test]
    fn bounds_are_named() {
        let speculation = |drafter, num_tokens| Speculation { drafter, num_tokens };
        assert!(speculation(Drafter::Ngram, 16).validate(false).is_ok());
        assert!(speculation(Drafter::Mtp, 1).validate(true).is_ok());
        let error = speculation(Drafter::Ngram, 17).validate(false).unwrap_err().to_string();
        assert!(error.contains("num_tokens") && error.contains("1 to 16") && error.contains("17"), "{error}");
        let error = speculation(Drafter::Mtp, 1).validate(false).unwrap_err().to_string();
        assert!(error.contains("drafter") && error.contains("without"), "{error}");
    }
}
